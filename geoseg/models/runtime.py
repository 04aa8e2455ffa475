"""The reference runtime: PyTorch, eager, float32."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoseg.errors import MismatchError, UsageError, explain
from geoseg.models.store import load_package
from geoseg.package import read_card

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.models.segmenter import Segmenter
    from geoseg.package import Card

_KEPT = 4
"""Packages kept in memory per process."""

_cache: OrderedDict[tuple[Path, str, str], tuple[Card, TorchPredictor]] = OrderedDict()
_cache_lock = threading.Lock()
_cuda_lock = threading.Lock()


class TorchPredictor:
    """Raw logits of a network for batches of patches; safe to call from several threads.

    The network is taken over: moved to the device, into evaluation mode and into channels-last memory.
    Convolutions are faster so, and the class axis of the result lies together in memory, which makes the
    arg-max over it several times faster. All arithmetic is float32, without reduced-precision shortcuts.
    """

    def __init__(
        self, model: Segmenter, *, bands: int, device: str = "cpu", threads: int | None = None
    ) -> None:
        self.bands = bands
        """Channels a batch must have."""
        self.device = resolve_device(device)
        """Where the network runs: "cpu" or "cuda:N"."""
        set_threads(threads)
        self._model = model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, classes, h, w) for normalised patches (n, bands, h, w).

        Raises:
            MismatchError: when the batch is not four-dimensional float32 with the network's bands.
        """
        self._check(batch)
        # torch wants to be allowed to write to what it shares, although it does not here.
        shared = torch.from_numpy(batch if batch.flags.writeable else batch.copy())
        with torch.inference_mode(), self._exact():
            x = shared.to(self.device, memory_format=torch.channels_last)
            logits: NDArray[np.float32] = self._model(x).cpu().numpy()
        return logits

    def _check(self, batch: NDArray[np.float32]) -> None:
        if batch.ndim == 4 and batch.shape[1] == self.bands and batch.dtype == np.float32:  # noqa: PLR2004
            return
        raise MismatchError(
            explain(
                "the network cannot take this batch",
                at="TorchPredictor",
                expected=f"float32 of shape (n, {self.bands}, h, w)",
                found=f"{batch.dtype} of shape {batch.shape}",
                change="Select the bands of the model card, in its order, and normalise them.",
            )
        )

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """On CUDA: no TF32 and no algorithm chosen by a race, so that runs and patch sizes agree.

        Those flags belong to the whole process: one call at a time may set and restore them.
        """
        if self.device == "cpu":
            yield
            return
        flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
        with _cuda_lock, torch.backends.cudnn.flags(**flags):
            yield


def load_predictor(
    folder: Path, *, device: str = "cpu", threads: int | None = None
) -> tuple[Card, TorchPredictor]:
    """The card of a package and a runtime for it, loaded once per process, package and device.

    Raises:
        PackageError: when the package cannot be trusted.
        UsageError: when there is no such device.
    """
    place = resolve_device(device)
    set_threads(threads)
    folder = folder.resolve()
    key = (folder, read_card(folder).fingerprint, place)
    with _cache_lock:
        if key not in _cache:
            card, model = load_package(folder)
            _cache[key] = card, TorchPredictor(model, bands=len(card.bands), device=place)
            while len(_cache) > _KEPT:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return _cache[key]


def set_threads(threads: int | None) -> None:
    """Use that many threads per operation in this process; None leaves what is set.

    Raises:
        UsageError: for fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)


def devices() -> tuple[str, ...]:
    """What a network can run on here: "cpu", then "cuda:0" and so on."""
    return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))


def resolve_device(device: str) -> str:
    """One of `devices()`: "auto" is the first GPU if there is one, "cuda" the first GPU.

    Raises:
        UsageError: when it does not exist here; lists those that do.
    """
    here = devices()
    if device == "auto":
        return here[1] if len(here) > 1 else "cpu"
    wanted = "cuda:0" if device == "cuda" else device
    if wanted in here:
        return wanted
    raise UsageError(
        explain(
            "there is no such device",
            at=f"device {device!r}",
            expected=f"one of: auto, {', '.join(here)}",
            found="no usable CUDA device" if len(here) == 1 and wanted.startswith("cuda") else "another name",
            change="Choose one of these; CUDA needs its driver and a CUDA build of torch.",
        )
    )
