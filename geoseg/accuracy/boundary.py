"""Agreement along class boundaries, counted block by block with a margin: as if counted in one piece.

Boundary IoU (Cheng et al. 2021) compares, of each class, the pixels within a distance of its own boundary:

    reference   . . . A A A A        the band of A, 2 px wide:   . . . b b A A
    prediction  . . A A A A A                                    . . b b A A A     1 of 3 px in both: 1/3

Boundary F1 (Csurka et al. 2013) asks how much of each outline lies within the distance of the other one.

A boundary is where two pixels differ that are both known; where nothing is known, and at the end of what is
evaluated, there is none. (Cheng et al. take the image's edge for one.)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from scipy import ndimage

from geoseg.legend import IGNORE_INDEX
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_UNKNOWN = -1
_ROUNDING = 1 + 1e-9
"""A distance of exactly the tolerance is within it, however the pixel size is rounded."""
_MOST_SHIFTS = 400
"""With more neighbours than this, which is 16 px far, a distance transform for each class is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disc:
    """All steps of at most a distance, in a grid whose pixels need not be square."""

    radius_m: float
    row_m: float
    """Metres from row to row."""
    col_m: float
    """Metres from column to column."""

    def __post_init__(self) -> None:
        if not (self.row_m > 0 and self.col_m > 0):
            raise ValueError(f"pixel sizes {self.row_m} and {self.col_m} are not greater than 0")
        if self.radius_m * _ROUNDING < max(self.row_m, self.col_m):
            raise ValueError(f"a radius of {self.radius_m} m reaches no neighbour on both axes")

    @property
    def reach_px(self) -> tuple[int, int]:
        """The longest step, in rows and in columns."""
        return int(self.radius_m * _ROUNDING / self.row_m), int(self.radius_m * _ROUNDING / self.col_m)

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(rows, columns) of every step down, or right along the row; the others are their opposites."""
        down, right = self.reach_px
        return [
            (row, col)
            for row in range(down + 1)
            for col in range(-right, right + 1)
            if (row or col > 0) and self._holds(row, col)
        ]

    def _holds(self, row: int, col: int) -> bool:
        return (row * self.row_m) ** 2 + (col * self.col_m) ** 2 <= (self.radius_m * _ROUNDING) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryCounts:
    """Pixels by class; counts of parts add up to those of the whole."""

    band_reference: NDArray[np.int64]
    """Of the reference, no further than the tolerance from what is another class there."""
    band_predicted: NDArray[np.int64]
    """Of the prediction, likewise."""
    band_both: NDArray[np.int64]
    """In both."""
    outline_reference: NDArray[np.int64]
    """Of the reference, beside another class."""
    outline_reference_found: NDArray[np.int64]
    """Of these, no further than the tolerance from the prediction's outline of the class."""
    outline_predicted: NDArray[np.int64]
    outline_predicted_right: NDArray[np.int64]
    """Of these, no further than the tolerance from the reference's."""

    @classmethod
    def none(cls, classes: int) -> BoundaryCounts:
        """Nothing counted yet."""
        return cls(**{f.name: np.zeros(classes, np.int64) for f in fields(cls)})

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


class ClassBoundary(Value):
    """One class. None: it has no boundary in the reference, or for a ratio nothing to divide by."""

    iou: float | None = Field(description="Boundary IoU: of the pixels near its boundary")
    f1: float | None = Field(description="Harmonic mean of precision and recall of the outline")
    precision: float | None = Field(description="Share of the predicted outline near the reference's")
    recall: float | None = Field(description="Share of the reference's outline near the predicted one")
    outline_px: int = Field(description="Pixels of the reference's outline")


class BoundaryScores(Value):
    """Agreement along boundaries; means are over classes with a boundary in the reference."""

    tolerance_m: float
    mean_iou: float | None
    mean_f1: float | None
    classes: tuple[ClassBoundary, ...] = Field(description="By class index")

    @classmethod
    def of(cls, counts: BoundaryCounts, *, tolerance_m: float) -> BoundaryScores:
        """Scores from counts of everything."""
        per_class = tuple(_class_scores(counts, i) for i in range(len(counts.band_both)))
        ious = [c.iou for c in per_class if c.iou is not None]
        f1s = [c.f1 for c in per_class if c.f1 is not None]
        return cls(
            tolerance_m=tolerance_m,
            mean_iou=sum(ious) / len(ious) if ious else None,
            mean_f1=sum(f1s) / len(f1s) if f1s else None,
            classes=per_class,
        )


def count_boundaries(
    reference: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    *,
    core: tuple[slice, slice],
    classes: int,
    disc: Disc,
) -> BoundaryCounts:
    """Counts of the pixels of `core`.

    Args:
        reference: class indices, IGNORE_INDEX where nothing is known.
        predicted: class indices, IGNORE_INDEX where there is none: another class than any.
        core: what is counted. The arrays reach `disc.reach_px` + 1 pixels further, or to the end of all.
        classes: number of classes.
        disc: what is near.
    """
    known = reference != IGNORE_INDEX
    truth = np.where(known, reference.astype(np.int16), _UNKNOWN)
    claim = np.where(predicted == IGNORE_INDEX, classes, predicted.astype(np.int16))
    claim[~known] = _UNKNOWN
    steps = disc.steps
    bands = [_band(labels, classes, disc, steps) for labels in (truth, claim)]
    outlines = [_outline(labels, classes) for labels in (truth, claim)]
    found = _near(outlines[0], outlines[1], classes, disc, steps)
    right = _near(outlines[1], outlines[0], classes, disc, steps)

    def tally(labels: NDArray[np.int16], where: NDArray[np.bool_]) -> NDArray[np.int64]:
        chosen = labels[core][where[core]]
        return np.bincount(chosen[(chosen >= 0) & (chosen < classes)], minlength=classes).astype(np.int64)

    return BoundaryCounts(
        band_reference=tally(truth, bands[0]),
        band_predicted=tally(claim, bands[1]),
        band_both=tally(truth, bands[0] & bands[1] & (truth == claim)),
        outline_reference=tally(outlines[0], outlines[0] >= 0),
        outline_reference_found=tally(outlines[0], found),
        outline_predicted=tally(outlines[1], outlines[1] >= 0),
        outline_predicted_right=tally(outlines[1], right),
    )


def _class_scores(counts: BoundaryCounts, index: int) -> ClassBoundary:
    own = {f.name: int(getattr(counts, f.name)[index]) for f in fields(counts)}
    present = own["band_reference"] > 0
    union = own["band_reference"] + own["band_predicted"] - own["band_both"]
    precision = _ratio(own["outline_predicted_right"], own["outline_predicted"])
    recall = _ratio(own["outline_reference_found"], own["outline_reference"])
    total = (precision or 0.0) + (recall or 0.0)
    f1 = 2 * (precision or 0.0) * (recall or 0.0) / total if total else 0.0
    return ClassBoundary(
        iou=_ratio(own["band_both"], union) if present else None,
        f1=f1 if present else None,
        precision=precision,
        recall=recall,
        outline_px=own["outline_reference"],
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _band(
    labels: NDArray[np.int16], classes: int, disc: Disc, steps: list[tuple[int, int]]
) -> NDArray[np.bool_]:
    """Known pixels with a known pixel of another class within the disc."""
    if len(steps) <= _MOST_SHIFTS:
        return _differs(labels, steps)
    near = np.zeros(labels.shape, bool)
    for index in range(classes):
        own = labels == index
        near |= own & _within(~own & (labels != _UNKNOWN), disc)
    return near


def _differs(labels: NDArray[np.int16], steps: list[tuple[int, int]]) -> NDArray[np.bool_]:
    near = np.zeros(labels.shape, bool)
    for here, there in _pairs(steps, labels.shape):
        a, b = labels[here], labels[there]
        differ = (a != b) & (a != _UNKNOWN) & (b != _UNKNOWN)
        near[here] |= differ
        near[there] |= differ
    return near


def _outline(labels: NDArray[np.int16], classes: int) -> NDArray[np.int16]:
    """The class where one of the four neighbours is of another, else _UNKNOWN."""
    edge = _differs(labels, [(0, 1), (1, 0)])
    outline: NDArray[np.int16] = np.where(edge & (labels < classes), labels, np.int16(_UNKNOWN))
    return outline


def _near(
    own: NDArray[np.int16],
    other: NDArray[np.int16],
    classes: int,
    disc: Disc,
    steps: list[tuple[int, int]],
) -> NDArray[np.bool_]:
    """Pixels of an outline that have a pixel of the other one, of their class, within the disc."""
    near: NDArray[np.bool_] = (own == other) & (own != _UNKNOWN)
    if len(steps) <= _MOST_SHIFTS:
        for here, there in _pairs(steps, own.shape):
            near[here] |= (own[here] == other[there]) & (own[here] != _UNKNOWN)
            near[there] |= (own[there] == other[here]) & (own[there] != _UNKNOWN)
        return near
    for index in range(classes):
        near |= (own == index) & _within(other == index, disc)
    return near


def _within(marked: NDArray[np.bool_], disc: Disc) -> NDArray[np.bool_]:
    """Pixels that have a marked one within the disc."""
    if not marked.any():
        return marked
    distance = ndimage.distance_transform_edt(~marked, sampling=(disc.row_m, disc.col_m))
    near: NDArray[np.bool_] = distance <= disc.radius_m * _ROUNDING
    return near


Slices = tuple[slice, slice]


def _pairs(steps: list[tuple[int, int]], shape: tuple[int, ...]) -> Iterator[tuple[Slices, Slices]]:
    """For each step, the pixels it can be made from, and where it leads to."""
    height, width = shape
    for row, col in steps:
        if row >= height or abs(col) >= width:
            continue
        left, right = max(0, -col), max(0, col)
        here = slice(0, height - row), slice(left, width - right)
        there = slice(row, height), slice(right, width - left)
        yield here, there
