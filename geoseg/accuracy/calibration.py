"""Whether a map is as often right as it says: reliability, and the temperature that makes it so.

A map that is sure at 90 % should be right in 90 of 100 pixels. The expected calibration error (Naeini et al.
2015, Guo et al. 2017) is the mean distance between the two, over groups of pixels about equally sure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from geoseg.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = 101
"""Confidences are whole percent."""
GROUPS = 10
LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are considered; beyond them a network knows nothing, or was tested on too little."""


class ReliabilityGroup(Value):
    """Pixels that are about equally sure."""

    from_percent: int = Field(description="Lowest confidence of the group")
    to_percent: int = Field(description="Highest")
    pixels: int
    confidence: float | None = Field(description="Mean confidence, 0 to 1; None where there are no pixels")
    accuracy: float | None = Field(description="Share that is right")


class Reliability(Value):
    """How well confidence tells what is right."""

    pixels: int = Field(description="Reference pixels with a prediction and a confidence")
    mean_confidence: float
    accuracy: float
    expected_error: float = Field(description="ECE: |accuracy - confidence|, mean over pixels by group")
    largest_error: float = Field(description="Of any group")
    groups: tuple[ReliabilityGroup, ...]

    @classmethod
    def of(cls, tally: NDArray[np.int64], *, groups: int = GROUPS) -> Reliability | None:
        """From counts as `tally_confidence` makes them; None where nothing was counted."""
        total = int(tally.sum())
        if not total:
            return None
        found = tuple(_group(tally, k, groups) for k in range(groups))
        errors = [
            (abs(g.accuracy - g.confidence), g.pixels)
            for g in found
            if g.accuracy is not None and g.confidence is not None
        ]
        return cls(
            pixels=total,
            mean_confidence=_confidence(tally, 0),
            accuracy=int(tally[1].sum()) / total,
            expected_error=sum(error * pixels for error, pixels in errors) / total,
            largest_error=max(error for error, _ in errors),
            groups=found,
        )


def tally_confidence(percent: NDArray[np.uint8], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Wrong (row 0) and right (row 1) pixels by whole percent, shape (2, 101); those of parts add up."""
    counts = np.bincount(percent.astype(np.intp) + LEVELS * right, minlength=2 * LEVELS)
    return counts.reshape(2, LEVELS).astype(np.int64)


def fit_temperature(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> float:
    """What to divide logits by so that the likelihood of what is true is largest (Guo et al. 2017).

    That likelihood has one maximum in 1 / temperature: its slope falls, and where it is 0 is found by
    bisection. When it lies outside LOWEST to HIGHEST, the nearer of the two is returned.

    Args:
        logits: (pixels, classes), of pixels the network has not been trained on.
        targets: (pixels,) class indices.
    """
    if len(logits) == 0 or len(logits) != len(targets):
        raise ValueError(f"{len(logits)} logits and {len(targets)} targets: as many as each other, not none")
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    true = z[np.arange(len(z)), targets]

    def slope(log_temperature: float) -> float:
        share = softmax(z * math.exp(-log_temperature), axis=1)
        return float(np.mean((share * z).sum(axis=1) - true))

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if slope(low) <= 0:
        return LOWEST
    if slope(high) >= 0:
        return HIGHEST
    return math.exp(float(brentq(slope, low, high, xtol=1e-10)))


def log_loss(logits: NDArray[np.floating], targets: NDArray[np.integer], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the targets, in nats."""
    shares = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-np.mean(shares[np.arange(len(shares)), targets]))


def reliability_of_logits(
    logits: NDArray[np.floating], targets: NDArray[np.integer], temperature: float = 1.0
) -> Reliability | None:
    """As of a map that stores the probability of the class it chose, in whole percent."""
    shares = softmax(logits.astype(np.float64) / temperature, axis=1)
    percent = np.rint(100 * shares.max(axis=1)).astype(np.uint8)
    return Reliability.of(tally_confidence(percent, logits.argmax(axis=1) == targets))


def _group(tally: NDArray[np.int64], k: int, groups: int) -> ReliabilityGroup:
    """The k-th of groups of equal width; a confidence on their border belongs to the lower one."""
    edges = [round(100 * i / groups) for i in range(groups + 1)]
    first, last = (edges[k] + 1 if k else 0), edges[k + 1]
    part = tally[:, first : last + 1]
    pixels = int(part.sum())
    return ReliabilityGroup(
        from_percent=first,
        to_percent=last,
        pixels=pixels,
        confidence=_confidence(part, first) if pixels else None,
        accuracy=int(part[1].sum()) / pixels if pixels else None,
    )


def _confidence(tally: NDArray[np.int64], first: int) -> float:
    by_level = tally.sum(axis=0)
    levels = np.arange(first, first + len(by_level))
    return int((by_level * levels).sum()) / (100 * int(by_level.sum()))
