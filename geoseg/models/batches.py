"""What every runtime asks of a batch of patches, whatever runs the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import MismatchError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANSWERS = 2
"""Answers in memory at once where calls take turns: one is looked at while the next is computed."""
_AXES = 4


def require_batch(batch: NDArray[np.float32], *, bands: int, by: str) -> None:
    """Returns when the batch is float32 of shape (n, bands, h, w), h and w at least 1; `by` is who asks.

    Raises:
        MismatchError: with what it is instead.
    """
    fits = batch.ndim == _AXES and batch.shape[1] == bands and batch.dtype == np.float32
    if fits and 0 not in batch.shape[2:]:
        return
    raise MismatchError(
        explain(
            "the network cannot take this batch",
            at=by,
            expected=f"float32 of shape (n, {bands}, h, w)",
            found=f"{batch.dtype} of shape {batch.shape}",
            change="Select the bands of the model card, in its order, and normalise them.",
        )
    )


def pad_to_stride(batch: NDArray[np.float32], stride_px: int) -> NDArray[np.float32]:
    """The batch with zeros at the bottom and on the right, sides multiples of the stride; contiguous.

    As `Segmenter` does it: the upper left corner stays where it is, and with it the network's phase.
    """
    below, right = (-side % stride_px for side in batch.shape[2:])
    if below or right:
        batch = np.pad(batch, ((0, 0), (0, 0), (0, below), (0, right)))
    return np.ascontiguousarray(batch)


def crop(logits: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The upper left `shape` (h, w) of logits (n, classes, height, width)."""
    return logits[..., : shape[0], : shape[1]]
