"""How much memory a network call takes, measured on one call: no formula knows what a runtime does.

The process itself is watched while it makes the call: any runtime will do, and none has to be loaded again
in another process, which takes seconds. Memory that was freed before must not be there to be used again, or
the call seems to take less: on glibc the heap is emptied first, and large blocks come from the system and go
back to it for the time of the measurement.
"""

from __future__ import annotations

import ctypes
import gc
import os
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_SIDE_PX = 384
"""Side of the patch: large against what does not grow with it, and done in a moment."""
_KEPT = 1.2
"""A heap keeps some of what was freed: calls on end took 1.05 to 1.35 times what was in use at once."""
_ROUND = 10
_PAUSE_S = 0.0005
_STATM = Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 64 * 1024
_MMAP_BYTES, _TRIM_BYTES = 32 * 1024**2, 64 * 1024**2
"""What glibc arrives at by itself in a process that uses large blocks (mallopt(3))."""


def call_bytes_per_px(predict: Predict, *, bands: int, stride_px: int) -> int | None:
    """Peak memory of a call over the pixels of its patch, weights and one-off needs of the library excluded.

    The answer is counted, the patch handed over is not. None where the system does not tell (Linux does).
    A runtime that keeps its memory for the next call must not have been given larger patches before.

    Args:
        predict: normalised images (n, bands, h, w) to logits (n, classes, h, w), on the CPU.
        bands: of the images.
        stride_px: the side of the patch is a multiple of this.
    """
    if not _STATM.exists():
        return None
    side = -(-_SIDE_PX // stride_px) * stride_px
    patch = np.random.default_rng(0).standard_normal((1, bands, side, side), dtype=np.float32)
    first = predict(np.ascontiguousarray(patch[..., :stride_px, :stride_px]))  # one-off memory is taken now
    least = first.shape[1] * first.itemsize  # the answer alone, even where its memory was there already
    with _large_blocks_go_back():
        before = _resident_bytes()
        peak = max(_peak_bytes(predict, patch) for _ in range(2))
    per_px = max(least, _KEPT * (peak - before) / side**2)
    return max(_ROUND, -(-int(per_px) // _ROUND) * _ROUND)


def _peak_bytes(predict: Predict, patch: NDArray[np.float32]) -> int:
    """The most that was resident during a call, which lets go of Python's lock while it works.

    A thread makes the call: its part of the heap is new, without the gaps that training left in ours.
    """
    seen = [_resident_bytes()]
    with ThreadPoolExecutor(1, thread_name_prefix="measured-call") as caller:
        answer = caller.submit(predict, patch)
        while not wait([answer], timeout=_PAUSE_S).done:
            seen.append(_resident_bytes())
        seen.append(_resident_bytes())
    answer.result()
    return max(seen)


def _resident_bytes() -> int:
    return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _large_blocks_go_back() -> Iterator[None]:
    """The heap emptied, and for the time being new blocks of 64 KiB or more not in it; glibc only."""
    gc.collect()
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    library.malloc_trim(0)
    library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
