"""PyTorch on a GPU: as many patches at once as fit, scores decided where they are.

    call A:  pin, upload | compute, start download | wait
    call B:               pin, upload              | compute, start download | wait

A predictor takes two calls at once: while one computes, the pixels of the next are on their way. Only the
launching of computations takes turns; waiting for results does not, so the GPU need not pause in between.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from geoseg.errors import ExecutionError, explain
from geoseg.models.pytorch import as_patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from geoseg.models.segmenter import Segmenter
    from geoseg.stitch import Confidence

    Work = Callable[[Tensor], list[Tensor]]
    """What is computed of patches on the device; the first result says whether the scores are finite."""

Precision = Literal["float32", "bfloat16", "float16"]
CALLS = 2
"""Calls a predictor is given at once: one computes, one moves its pixels."""
_SHARE = 0.8
"""Of the free memory that a batch is planned to take: the rest is for what the estimate does not know."""
_NO_MEMORY = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
"""How the libraries under torch say it, which is not always by torch.OutOfMemoryError."""


class CudaPredictor:
    """Logits or decisions of a network for batches of patches; safe to call from several threads.

    The network is taken over. A batch that does not fit is cut up, and the size that did fit is remembered
    for patches of that shape. In float32, arithmetic is exact: no TF32, no algorithm chosen by a race. In the
    other precisions convolutions and products are rounded to them; scores and decisions are float32.
    """

    def __init__(
        self,
        model: Segmenter,
        *,
        bands: int,
        device: str,
        precision: Precision = "float32",
        compiled: bool = False,
        call_bytes_per_px: int | None = None,
    ) -> None:
        """`call_bytes_per_px`, of a float32 call, lets the first batch be of a size that fits."""
        self.bands = bands
        """Channels a batch must have."""
        self.device = device
        """Where the network runs, "cuda:N"; "cpu" does all the same, slowly."""
        self._dtype: torch.dtype = getattr(torch, precision)
        self._bytes_per_px = call_bytes_per_px
        self._model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self._model = torch.compile(self._model)
        self._traffic = _Traffic(device)
        self._turn = threading.Lock()
        self._fits: dict[tuple[int, ...], int] = {}

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, classes, h, w), C-contiguous, for normalised patches (n, bands, h, w).

        Raises:
            MismatchError: the batch is not four-dimensional float32 with the network's bands.
            ExecutionError: one patch alone does not fit, or the scores are not finite.
        """

        def work(patches: Tensor) -> list[Tensor]:
            logits = self._forward(patches).contiguous()
            return [logits.isfinite().all(), logits]

        return self._in_parts(batch, work)[0]

    def decide(
        self, batch: NDArray[np.float32], confidence: Confidence | None, temperature: float | None = None, /
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Class index and confidence percent (n, h, w), as `geoseg.stitch.decide` gives them.

        Raises:
            MismatchError: the batch is not four-dimensional float32 with the network's bands.
            ExecutionError: one patch alone does not fit, or the scores are not finite.
        """

        def work(patches: Tensor) -> list[Tensor]:
            logits = self._forward(patches)
            best, index = logits.max(dim=1)  # of equals, the first
            decided = [best.isfinite().all(), index.to(torch.uint8)]
            if confidence is not None:
                if temperature is not None:
                    logits, best = logits / temperature, best / temperature
                decided.append(_percent(_certainty(logits, best, confidence)))
            return decided

        index, *percents = self._in_parts(batch, work)
        return index, percents[0] if percents else None

    def _forward(self, patches: Tensor) -> Tensor:
        reduced = self._dtype != torch.float32
        with torch.autocast(torch.device(self.device).type, dtype=self._dtype, enabled=reduced):
            logits: Tensor = self._model(patches.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def _in_parts(self, batch: NDArray[np.float32], work: Work) -> list[NDArray[Any]]:
        """The results of `work`, without its verdict, for as many patches at once as fit."""
        patches = as_patches(batch, bands=self.bands)
        parts: list[list[NDArray[Any]]] = []
        start, retried = 0, False
        while start < len(patches):
            part = patches[start : start + self._size(patches)]
            results = self._attempt(part, work)
            if results is None:
                self._shrink(part, retried=retried)
                retried = len(part) == 1
                continue
            parts.append(results)
            start, retried = start + len(part), False
        return [p[0] if len(p) == 1 else np.concatenate(p) for p in zip(*parts, strict=True)]

    def _size(self, patches: Tensor) -> int:
        """How many to run at once."""
        shape = patches.shape[2:]
        if shape not in self._fits and self._bytes_per_px is not None:
            free = free_bytes(self.device)
            if free is not None:
                self._fits[shape] = max(1, int(_SHARE * free / (self._bytes_per_px * shape.numel())))
        return self._fits.get(shape, len(patches))

    def _attempt(self, part: Tensor, work: Work) -> list[NDArray[Any]] | None:
        """Results on the host; None when there was not enough memory for them.

        None instead of an exception: that would hold on to all that was allocated so far.
        """
        try:
            return self._run(part, work)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY):
                return None
            raise

    def _run(self, part: Tensor, work: Work) -> list[NDArray[Any]]:
        patches = self._traffic.upload(part)
        with torch.inference_mode(), self._turn, _EXACT:
            self._traffic.await_upload(patches)
            results = [self._traffic.download(result) for result in work(patches)]
            done = self._traffic.mark()
        done()
        finite, *arrays = [result.numpy() for result in results]
        if not finite:
            raise ExecutionError(
                explain(
                    "the network's answer cannot be used",
                    at=f"{len(part)} patches of {part.shape[2]} x {part.shape[3]} px on {self.device}",
                    expected="finite scores",
                    found=f"scores that are not, computed in {self._dtype}".replace("torch.", ""),
                    change="Check that the package's weights and normalisation belong together; "
                    "float16 overflows beyond 65504: the runtimes torch and torch-bf16 do not.",
                )
            )
        return arrays

    def _shrink(self, part: Tensor, *, retried: bool) -> None:
        """Makes room and notes that so many patches do not fit.

        Raises:
            ExecutionError: it was one patch, for the second time.
        """
        if self.device != "cpu":
            torch.cuda.empty_cache()
        size, shape = len(part), part.shape[2:]
        if size > 1:
            self._fits[shape] = min(size // 2, self._fits.get(shape, size))
        elif retried:
            raise ExecutionError(
                explain(
                    "the device has too little memory for one patch",
                    at=f"a patch of {shape[0]} x {shape[1]} px on {self.device}",
                    expected="room for one network call",
                    found="not enough, with nothing else of this process on it",
                    change="Use a smaller --patch-size or --memory, or stop what else runs on the device.",
                )
            )


class _Traffic:
    """Copies between host and device that nobody waits for; on the CPU there is nothing to copy."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._uploads = None if device == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, host: Tensor) -> Tensor:
        """The tensor on the device, some time later: see `await_upload`."""
        if self._uploads is None:
            return host
        with torch.cuda.stream(self._uploads):
            return host.pin_memory().to(self._device, non_blocking=True)

    def await_upload(self, tensor: Tensor) -> None:
        """Lets what is launched next wait for the upload, and keeps its memory until that is done with it."""
        if self._uploads is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._uploads)
            tensor.record_stream(computing)

    def download(self, tensor: Tensor) -> Tensor:
        """The tensor in pinned host memory, once what `mark` returns has been called."""
        if self._uploads is None:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    def mark(self) -> Callable[[], object]:
        """Waits, asleep, until all that has been launched so far is done."""
        if self._uploads is None:
            return lambda: None
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event.synchronize


class _Exact:
    """While any network runs: no TF32, no algorithm chosen by a race, so that runs and devices agree.

    These flags belong to the process, while several GPUs run at once: the first in sets them, the last out
    puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
                self._before.enter_context(torch.backends.cudnn.flags(**flags))
                self._before.callback(
                    torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()
                )
                torch.set_float32_matmul_precision("highest")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.close()


_EXACT = _Exact()


def free_bytes(device: str) -> int | None:
    """Memory a network call could take; None where it cannot be told."""
    if device == "cpu":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _certainty(logits: Tensor, best: Tensor, kind: Confidence) -> Tensor:
    """How sure the decision for logits (n, classes, h, w) is, 0 to 1: (n, h, w)."""
    classes = logits.shape[1]
    if kind == "probability":
        return (logits - best[:, None]).exp_().sum(dim=1).reciprocal_()
    if classes == 1:
        return torch.ones_like(best)
    probability = logits.softmax(dim=1)
    if kind == "margin":
        top = probability.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]
    safe = probability.clamp_min(torch.finfo(torch.float32).tiny)
    return 1 + (probability * safe.log_()).sum(dim=1) / float(np.log(np.float32(classes)))


def _percent(share: Tensor) -> Tensor:
    """Shares 0..1 as whole percent 0..100, rounded to nearest."""
    return (share * 100).round_().clamp_(0, 100).to(torch.uint8)
