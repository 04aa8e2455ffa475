"""From overlapping patch scores to one decision per pixel. Pure numpy.

Scores are never reduced to classes before they are stitched, and class ids are never averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE_NODATA = 255
"""Confidence value (uint8) for "no answer"."""


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities from logits (classes, height, width), float32; sums to 1 over axis 0."""
    shifted: NDArray[np.float32] = scores - scores.max(axis=0)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=0)
    return shifted


def decide(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Class index of the highest score, (height, width); ties go to the lower index."""
    index: NDArray[np.uint8] = scores.argmax(axis=0).astype(np.uint8)
    return index


def percent(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities 0..1 as whole percent 0..100, rounded to nearest."""
    rounded: NDArray[np.uint8] = np.clip(np.rint(probability * np.float32(100)), 0, 100).astype(np.uint8)
    return rounded


def top_probability(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest softmax probability per pixel (height, width), without forming the others."""
    shifted: NDArray[np.float32] = scores - scores.max(axis=0)
    np.exp(shifted, out=shifted)
    top: NDArray[np.float32] = np.float32(1) / shifted.sum(axis=0)
    return top


def ramp(length: int) -> NDArray[np.float32]:
    """Blend weights along one side of a patch: a raised cosine, positive everywhere, (length,).

    The half-pixel offset keeps the ends above zero: weights of zero at the scene's border would leave a
    frame that no patch decides.
    """
    position = (np.arange(length, dtype=np.float64) + 0.5) / length
    return np.sin(np.pi * position, dtype=np.float64).astype(np.float32) ** 2


def blend_weights(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Weights (height, width) of a patch in a blend: the outer product of two ramps."""
    return np.outer(ramp(shape[0]), ramp(shape[1]))
