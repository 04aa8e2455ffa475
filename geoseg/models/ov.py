"""OpenVINO on the CPU: float32, the same bits whatever the number of threads."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import PackageError, UsageError, explain
from geoseg.models.batches import ANSWERS, crop, pad_to_stride, require_batch
from geoseg.models.graphs import graph_of
from geoseg.models.ort import OrtPredictor, not_installed, not_loadable, open_session, run_failed
from geoseg.models.wrap import plausible
from geoseg.onnxfile import require_self_contained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.package import Card, Graph

_TELEMETRY = "openvino_telemetry"
_TRIAL_PX = 96
"""About the side of the patch that is compared."""
_AGREEMENT = 1e-2
"""Largest difference of a logit, over the largest logit if that is above 1: rounding stays far below."""
_log = logging.getLogger(__name__)
_import_lock = threading.Lock()


class OpenVinoPredictor:
    """Raw logits of a network for batches of patches of any size.

    Safe to call from several threads; they take turns, so that the memory is that of one call. While one
    thread looks at its logits another may have its own computed.
    """

    def __init__(self, compiled: Any, graph: Graph, *, bands: int, stride_px: int) -> None:
        self.bands = bands
        """Channels a batch must have."""
        self._graph = graph
        self._stride_px = stride_px
        self._turn = threading.Lock()
        # Each keeps the memory of its logits: fresh pages for every call cost a tenth of a light network.
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(ANSWERS):
            self._free.put(compiled.create_infer_request())

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, classes, h, w), contiguous, for normalised patches (n, bands, h, w).

        Raises:
            MismatchError: when the batch is not four-dimensional float32 with the network's bands.
            ExecutionError: when the graph cannot be computed.
        """
        with self.lend(batch) as logits:
            return np.array(logits)

    @contextmanager
    def lend(self, batch: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """The same, not contiguous where the batch had to be padded, in memory that is used again later.

        Raises:
            MismatchError: when the batch is not four-dimensional float32 with the network's bands.
            ExecutionError: when the graph cannot be computed.
        """
        require_batch(batch, bands=self.bands, by="OpenVINO")
        padded = pad_to_stride(batch, self._stride_px)
        request = self._free.get()
        try:
            yield crop(self._infer(request, padded), batch.shape[2:])
        finally:
            self._free.put(request)

    def _infer(self, request: Any, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._turn:
            try:
                request.infer({self._graph.input: padded}, share_inputs=True, share_outputs=True)
                return request.get_tensor(self._graph.output).data  # type: ignore[no-any-return]
            except RuntimeError as error:
                raise run_failed("OpenVINO", padded.shape, error) from error


def load_openvino(package: Path, card: Card, *, threads: int) -> OpenVinoPredictor:
    """The network of a package in OpenVINO, `threads` working on each call.

    Raises:
        PackageError: the package cannot be trusted, its network not exported, or OpenVINO gets it wrong.
        UsageError: OpenVINO is not installed.
    """
    openvino = import_openvino()  # before an export is made for nothing
    with graph_of(package, card) as (path, graph):
        require_self_contained(path)
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", _settings(threads))
        except RuntimeError as error:
            raise not_loadable("OpenVINO", path, error) from error
        predictor = OpenVinoPredictor(compiled, graph, bands=len(card.bands), stride_px=card.stride_px)
        _require_agreement(predictor, path, graph, card)
    return predictor


def _require_agreement(predictor: OpenVinoPredictor, path: Path, graph: Graph, card: Card) -> None:
    """Returns when a random patch gets the logits that ONNX Runtime gives it, where that is installed.

    OpenVINO leaves out in silence what it does not know of an operator: `antialias` and `exclude_outside` of
    Resize in 2026.4, by which a tenth of a map's labels came out wrong.
    """
    try:
        session = open_session(path, threads=1)
    except (UsageError, PackageError):  # not installed, or it lacks an operator that OpenVINO has
        _log.warning("%s: without ONNX Runtime nobody can tell whether OpenVINO computes it rightly", path)
        return
    reference = OrtPredictor(session, graph, bands=len(card.bands), stride_px=card.stride_px)
    side = -(-_TRIAL_PX // card.stride_px) * card.stride_px
    batch = plausible(card.bands, side, count=1)
    expected = reference(batch)
    difference = float(np.abs(predictor(batch) - expected).max())
    if not difference <= _AGREEMENT * max(1.0, float(np.abs(expected).max())):
        raise PackageError(
            explain(
                "OpenVINO computes something else than the network",
                at=path,
                expected=f"the logits of ONNX Runtime for a random patch, to {_AGREEMENT:g}",
                found=f"a difference of {difference:.3g}",
                change="Use --runtime onnxruntime.",
            )
        )


def _settings(threads: int) -> dict[str, Any]:
    return {
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        # Several processes would pin themselves to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def import_openvino() -> Any:
    """The module, without its reports to the maker.

    Raises:
        UsageError: it is not installed.
    """
    with _import_lock, _without(_TELEMETRY):
        try:
            import openvino
        except ImportError as error:
            raise not_installed("OpenVINO", "openvino", error) from error
    return openvino


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Makes the import of a module fail while the block runs, if it has not been imported yet.

    `import openvino` tells Google Analytics about it, unless the module that does so is missing; there is no
    other switch than a file in the user's home.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(module, None)
