"""ONNX Runtime on the CPU: float32, the same bits whatever the number of threads."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ExecutionError, PackageError, UsageError, explain
from geoseg.models.batches import crop, pad_to_stride, require_batch
from geoseg.models.graphs import graph_of
from geoseg.onnxfile import require_self_contained

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.package import Card, Graph

_FATAL = 4
"""Log level: what goes wrong is told by an exception."""


class OrtPredictor:
    """Raw logits of a network for batches of patches of any size.

    Safe to call from several threads; they take turns, so that the memory is that of one call.
    """

    def __init__(self, session: Any, graph: Graph, *, bands: int, stride_px: int) -> None:
        self.bands = bands
        """Channels a batch must have."""
        self._session = session
        self._graph = graph
        self._stride_px = stride_px
        self._turn = threading.Lock()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, classes, h, w), contiguous, for normalised patches (n, bands, h, w).

        Raises:
            MismatchError: when the batch is not four-dimensional float32 with the network's bands.
            ExecutionError: when the graph cannot be computed.
        """
        require_batch(batch, bands=self.bands, by="ONNX Runtime")
        feed = {self._graph.input: pad_to_stride(batch, self._stride_px)}
        with self._turn:
            try:
                logits: NDArray[np.float32] = self._session.run([self._graph.output], feed)[0]
            except Exception as error:  # its errors have no common class but this
                raise run_failed("ONNX Runtime", batch.shape, error) from error
        return np.ascontiguousarray(crop(logits, batch.shape[2:]))


def load_ort(package: Path, card: Card, *, threads: int) -> OrtPredictor:
    """The network of a package in ONNX Runtime, `threads` working on each call.

    Raises:
        PackageError: the package cannot be trusted, or its network not exported.
        UsageError: ONNX Runtime is not installed.
    """
    import_onnxruntime()  # before an export is made for nothing
    with graph_of(package, card) as (path, graph):
        session = open_session(path, threads=threads)
    return OrtPredictor(session, graph, bands=len(card.bands), stride_px=card.stride_px)


def open_session(path: Path, *, threads: int) -> Any:
    """An inference session on the CPU; the graph may come from anywhere.

    Raises:
        PackageError: it keeps weights elsewhere, or is no graph that can be run.
    """
    require_self_contained(path)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # The arena keeps the memory of a call for the next one: without it, a call spends a third of its time on
    # fresh pages. Planned patterns on top of it gain nothing and take 30 to 70 % more memory.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    # Threads that wait must sleep, not spin: other tiles are being read and written meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class but this
        raise not_loadable("ONNX Runtime", path, error) from error


def import_onnxruntime() -> Any:
    """The module, with its reports to the maker switched off.

    Raises:
        UsageError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # only heeded before the import
    try:
        import onnxruntime
    except ImportError as error:
        raise not_installed("ONNX Runtime", "onnx", error) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def not_installed(what: str, extra: str, error: ImportError) -> UsageError:
    """The error for a runtime that is not there."""
    return UsageError(
        explain(
            f"{what} is not installed",
            at=f"the extra `geoseg[{extra}]`",
            expected=f"pip install 'geoseg[{extra}]'",
            found=str(error),
            change="Install it, or choose another --runtime.",
        )
    )


def not_loadable(what: str, path: Path, error: Exception) -> PackageError:
    """The error for a graph that a runtime refuses."""
    return PackageError(
        explain(
            f"{what} cannot load the network",
            at=path,
            expected="an ONNX graph with operators it knows",
            found=one_line(error),
            change="Choose another --runtime, or export the network again with a common opset.",
        )
    )


def run_failed(what: str, shape: tuple[int, ...], error: Exception) -> ExecutionError:
    """The error for a graph that stops half-way."""
    return ExecutionError(
        explain(
            f"{what} cannot compute the network",
            at=f"a batch of shape {shape}",
            expected="a graph that takes any number of patches of any size",
            found=one_line(error),
            change="Choose a smaller patch if memory is short, another --runtime otherwise.",
        )
    )


def one_line(error: Exception) -> str:
    """Kind and text of an error; those of runtimes come with line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())
