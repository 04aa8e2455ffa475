"""How much of each class there is: totals over features, exact in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.legend import Legend
    from geoseg.vector.features import FeatureBatch

_FINE = 2.0**30
"""Parts of a square metre in which fractions are counted: integers, so that order does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class of a scene."""

    class_id: int
    class_name: str
    color: str
    """As #rrggbb."""
    polygons: int
    """Number of features."""
    pixels: int
    area_m2: float
    """NaN where nobody can know."""
    share: float
    """Of the area of all classes, 0 to 1; of their pixels where areas are not known."""
    mean_confidence: float
    """Percent, over the pixels that have a confidence; NaN where none has."""
    area_change_m2: float | None
    """By how much generalised outlines hold more than the pixels they came from; None: not generalised."""


@dataclass(slots=True)
class Totals:
    """Sums by class id, shape (256,) each."""

    polygons: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    area: NDArray[np.int64] = field(default_factory=lambda: np.zeros((256, 2), np.int64))
    """Whole square metres, and the rest in 1 / 2**30."""
    raw_area: NDArray[np.int64] = field(default_factory=lambda: np.zeros((256, 2), np.int64))
    """The same of the pixels; equal to `area` when nothing was generalised."""
    confidence: NDArray[np.int64] = field(default_factory=lambda: np.zeros((256, 2), np.int64))
    """Sum of percents, and the number of pixels that have one."""
    generalised: bool = False
    area_is_known: bool = True

    @property
    def count(self) -> int:
        """Number of features."""
        return int(self.polygons.sum())

    def add(self, batch: FeatureBatch) -> None:
        """Count the features of a batch in."""
        of = batch.class_id
        raw = batch.area_m2 if batch.raw_area_m2 is None else batch.raw_area_m2
        self.generalised |= batch.raw_area_m2 is not None
        self.area_is_known &= not np.isnan(batch.area_m2).any()
        counted = batch.confidence_count
        percent = np.rint(np.where(counted > 0, batch.mean_confidence, 0) * counted)
        self.polygons += np.bincount(of, minlength=256)
        self.pixels += _sums(of, batch.pixels)
        self.area += _area_sums(of, batch.area_m2)
        self.raw_area += _area_sums(of, raw)
        self.confidence += np.stack([_sums(of, percent), _sums(of, counted)], axis=1)

    def rows(self, legend: Legend) -> list[ClassRow]:
        """One row per class of the legend, in its order: who reads them learns what was looked for, too."""
        area = _real(self.area) if self.area_is_known else np.full(256, math.nan)
        parts = area if self.area_is_known else self.pixels.astype(np.float64)
        share = parts / max(parts.sum(), 1e-300)
        change = area - _real(self.raw_area)
        return [
            ClassRow(
                class_id=item.id,
                class_name=item.name,
                color=item.color,
                polygons=int(self.polygons[item.id]),
                pixels=int(self.pixels[item.id]),
                area_m2=float(area[item.id]),
                share=float(share[item.id]),
                mean_confidence=_mean(*self.confidence[item.id].tolist()),
                area_change_m2=float(change[item.id]) if self.generalised else None,
            )
            for item in legend.classes
        ]


def _sums(of: NDArray[np.uint8], values: NDArray[Any]) -> NDArray[np.int64]:
    """Sums of whole numbers by class id; float64 holds them exactly up to 2**53."""
    return np.bincount(of, weights=values, minlength=256).astype(np.int64)


def _area_sums(of: NDArray[np.uint8], area: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole square metres and the rest by class id, shape (256, 2); NaN counts as nothing."""
    known = np.nan_to_num(area)
    whole = np.floor(known)
    return np.stack([_sums(of, whole), _sums(of, np.rint((known - whole) * _FINE))], axis=1)


def _real(total: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(total[:, 0] + total[:, 1] / _FINE, np.float64)


def _mean(total: int, count: int) -> float:
    return total / count if count else math.nan
