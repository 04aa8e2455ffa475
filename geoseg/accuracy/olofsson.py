"""Accuracy and area from a stratified random sample of points, with the uncertainty of each.

Counting pixels of a map gives a biased area: the map errs, and not evenly. A sample with reference labels
tells by how much (Olofsson et al. 2014). The estimators are those of Stehman (2014), for strata that need not
be the classes of the map; where they are, they are the same as Olofsson's.

    total:  Y = sum over strata of W_h mean_h(y),     var = sum of W_h^2 (1 - n_h / N_h) s_h^2(y) / n_h
    ratio:  R = Y / X,                                var = var of the total of (y - R x), over X^2

W_h is a stratum's share of the area, n_h its number of points, N_h of pixels. User's accuracy is the ratio of
"mapped and true" to "mapped", producer's accuracy that to "true".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from geoseg.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = 1.959963984540054
"""Half width of a 95 % interval, in standard errors."""
_LEAST_POINTS = 2
"""With one point in a stratum nobody knows how much points in it differ."""


class Estimate(Value):
    """A number, and how well it is known."""

    value: float
    standard_error: float
    low: float = Field(description="Lower end of the 95 % interval, not below what is possible")
    high: float = Field(description="Upper end")


class ClassEstimate(Value):
    """One class."""

    users_accuracy: Estimate | None = Field(description="None: no point is mapped as the class")
    producers_accuracy: Estimate | None = Field(description="None: no point is truly of the class")
    area_share: Estimate = Field(description="Of the whole area that is truly of the class")
    mapped_points: int
    true_points: int


class Estimates(Value):
    """What a sample says about a map, and about what is on the ground."""

    points: int
    overall_accuracy: Estimate
    classes: tuple[ClassEstimate, ...] = Field(description="By class index")
    shares: tuple[tuple[float, ...], ...] = Field(
        description="Error matrix of area shares: rows are map classes, the last one for what is not mapped; "
        "columns are reference classes"
    )
    counts: tuple[tuple[int, ...], ...] = Field(description="Points, in the same places")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strata:
    """What the points were drawn from."""

    pixels: NDArray[np.float64]
    """Number of pixels of each stratum; infinite where the part that was looked at does not matter."""
    area: NDArray[np.float64]
    """Area of each, in any unit."""

    @property
    def weight(self) -> NDArray[np.float64]:
        """Share of each in the area of all."""
        weight: NDArray[np.float64] = self.area / self.area.sum()
        return weight


def estimate(
    stratum: NDArray[np.integer],
    mapped: NDArray[np.integer],
    true: NDArray[np.integer],
    *,
    strata: Strata,
    classes: int,
) -> Estimates:
    """Accuracies and areas from points drawn at random within strata.

    Args:
        stratum: index of each point's stratum.
        mapped: class index the map has there; `classes` where it has none.
        true: class index that the reference has there.
        strata: the population of each stratum.
        classes: number of classes.

    Raises:
        ValueError: a stratum that has an area has fewer than two points.
    """
    few = np.flatnonzero(
        (np.bincount(stratum, minlength=len(strata.area)) < _LEAST_POINTS) & (strata.area > 0)
    )
    if few.size:
        raise ValueError(f"stratum {few[0]} has fewer than {_LEAST_POINTS} points")
    sample = _Sample(stratum=stratum, strata=strata)
    is_mapped = mapped[:, None] == np.arange(classes)
    is_true = true[:, None] == np.arange(classes)
    both = is_mapped & is_true
    cell = np.zeros((classes + 1, classes), np.int64)
    np.add.at(cell, (mapped, true), 1)
    return Estimates(
        points=len(stratum),
        overall_accuracy=_interval(*sample.total(mapped == true)),
        classes=tuple(
            ClassEstimate(
                users_accuracy=sample.ratio(both[:, i], is_mapped[:, i]),
                producers_accuracy=sample.ratio(both[:, i], is_true[:, i]),
                area_share=_interval(*sample.total(is_true[:, i])),
                mapped_points=int(is_mapped[:, i].sum()),
                true_points=int(is_true[:, i].sum()),
            )
            for i in range(classes)
        ),
        shares=tuple(
            tuple(sample.total((mapped == i) & (true == j))[0] for j in range(classes))
            for i in range(classes + 1)
        ),
        counts=tuple(tuple(row) for row in cell.tolist()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    stratum: NDArray[np.integer]
    strata: Strata

    def total(self, y: NDArray[np.generic]) -> tuple[float, float]:
        """The share of the area that y, 0 to 1, stands for, and the variance of that."""
        values, weight = y.astype(np.float64), self.strata.weight
        total = variance = 0.0
        for h in np.flatnonzero(weight).tolist():
            own = values[self.stratum == h]
            unseen = 1 - len(own) / self.strata.pixels[h]
            total += weight[h] * own.mean()
            variance += weight[h] ** 2 * unseen * own.var(ddof=1) / len(own)
        return float(total), float(max(variance, 0.0))

    def ratio(self, y: NDArray[np.bool_], x: NDArray[np.bool_]) -> Estimate | None:
        """The total of y over that of x; None where no point has x."""
        whole, _ = self.total(x)
        if not whole:
            return None
        value = self.total(y)[0] / whole
        _, variance = self.total(y - value * x)
        return _interval(value, variance / whole**2)


def _interval(value: float, variance: float) -> Estimate:
    error = math.sqrt(variance)
    return Estimate(
        value=value,
        standard_error=error,
        low=max(0.0, value - Z95 * error),
        high=min(1.0, value + Z95 * error),
    )
