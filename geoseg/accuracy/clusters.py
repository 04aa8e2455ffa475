"""How much scores would vary with other reference polygons, when polygons are all the reference there is.

Pixels of one polygon are alike: a thousand of them are not a thousand observations. So whole polygons are
drawn again and again, with replacement and within each class (a cluster bootstrap, Efron and Tibshirani
1993), and the scores of those draws say how well the score is known.

Polygons that somebody has chosen are no random sample: the intervals are for places like those, not for the
map. For the map, draw points (`geoseg.accuracy.sampling`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pydantic import Field
from rasterio.features import geometry_mask

from geoseg.legend import IGNORE_INDEX
from geoseg.metrics import confusion
from geoseg.value import Value
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geoseg.accuracy.layers import Layer
    from geoseg.raster.labels import PolygonLabels

DRAWS = 2000
_BATCH = 200
_ENDS = (2.5, 97.5)


class Interval(Value):
    """A score of all polygons, and the 95 % interval of it over draws of polygons."""

    value: float
    low: float
    high: float


class ClassIntervals(Value):
    """One class. None: it is absent, or has one polygon only, so that nobody knows how polygons vary."""

    polygons: int = Field(description="Of the class, with a pixel in what is scored")
    iou: Interval | None
    producers_accuracy: Interval | None
    users_accuracy: Interval | None


class PolygonIntervals(Value):
    """Scores with intervals. Where polygons overlap, each counts by itself."""

    polygons: int
    overall_accuracy: Interval
    mean_iou: Interval
    classes: tuple[ClassIntervals, ...] = Field(description="By class index")

    @classmethod
    def of(cls, matrices: NDArray[np.int64], *, seed: int = 0, draws: int = DRAWS) -> PolygonIntervals | None:
        """From a confusion matrix for each polygon, (n, classes, classes + 1); None where all are empty.

        The class of a polygon is the one row of its matrix that holds something.
        """
        matrices = matrices[matrices.any(axis=(1, 2))]
        if not len(matrices):
            return None
        owner = matrices.sum(axis=2).argmax(axis=1)
        classes = matrices.shape[1]
        counts = np.bincount(owner, minlength=classes)
        whole = _scores(matrices.sum(axis=0)[None])
        drawn = _draw(matrices, owner, np.random.default_rng(seed), draws)
        shown = {name: _intervals(whole[name][0], drawn[name]) for name in whole}
        known = counts > 1
        per_class = (shown["iou"], shown["producers"], shown["users"])
        ious, producers, users = (
            [v if k else None for v, k in zip(s, known, strict=True)] for s in per_class
        )
        overall, mean_iou = shown["overall"][0], shown["mean_iou"][0]
        if overall is None or mean_iou is None:
            raise AssertionError("there are pixels, so there are scores")
        return cls(
            polygons=len(matrices),
            overall_accuracy=overall,
            mean_iou=mean_iou,
            classes=tuple(
                ClassIntervals(
                    polygons=int(counts[k]),
                    iou=ious[k],
                    producers_accuracy=producers[k],
                    users_accuracy=users[k],
                )
                for k in range(classes)
            ),
        )


def polygon_matrices(
    labels: PolygonLabels,
    predicted: Layer,
    *,
    window: Window,
    classes: int,
    inside: Callable[[Window], NDArray[np.bool_]] | None = None,
) -> NDArray[np.int64]:
    """A confusion matrix for each polygon, over the pixels whose centre it holds: (n, classes, classes + 1).

    Args:
        labels: reference polygons on the map's grid; those that are to be ignored have empty matrices.
        predicted: the map.
        window: the only part that counts.
        classes: number of classes.
        inside: True where pixels of a window count; None: everywhere.
    """
    found = np.zeros((len(labels.indices), classes, classes + 1), np.int64)
    for i, (geometry, index) in enumerate(zip(labels.geometries, labels.indices, strict=True)):
        first_row, first_col, last_row, last_col = labels.bounds_px[i].tolist()
        row, col = int(np.floor(first_row)), int(np.floor(first_col))
        box = Window(row, col, int(np.ceil(last_row)) - row, int(np.ceil(last_col)) - col).intersect(window)
        if index == IGNORE_INDEX or not box.size:
            continue
        t = labels.geobox.affine
        left, top = t.a * box.col + t.b * box.row + t.c, t.d * box.col + t.e * box.row + t.f
        own = geometry_mask([geometry], box.shape, Affine(t.a, t.b, left, t.d, t.e, top), invert=True)
        if inside is not None:
            own &= inside(box)
        reference = np.where(own, index, IGNORE_INDEX).astype(np.uint8)
        found[i] = confusion(reference, predicted(box), classes)
    return found


def _draw(
    matrices: NDArray[np.int64], owner: NDArray[np.intp], rng: np.random.Generator, draws: int
) -> dict[str, NDArray[np.float64]]:
    """Scores of each draw, by name: (draws, classes or 1)."""
    parts = []
    for start in range(0, draws, _BATCH):
        count = min(_BATCH, draws - start)
        times = np.zeros((count, len(matrices)))
        for k in np.unique(owner):
            own = np.flatnonzero(owner == k)
            times[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=count)
        parts.append(_scores(np.tensordot(times, matrices, axes=1)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _scores(matrix: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
    """Of matrices (n, classes, classes + 1), as `geoseg.metrics.Scores`; NaN where that has None."""
    m = matrix.astype(np.float64)
    hits = np.diagonal(m, axis1=1, axis2=2)
    reference, predicted = m.sum(axis=2), m[:, :, :-1].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(reference > 0, hits / (reference + predicted - hits), np.nan)
        return {
            "iou": iou,
            "producers": hits / reference,
            "users": hits / predicted,
            "overall": (hits.sum(axis=1) / m.sum(axis=(1, 2)))[:, None],
            "mean_iou": np.nanmean(iou, axis=1)[:, None],
        }


def _intervals(value: NDArray[np.float64], drawn: NDArray[np.float64]) -> list[Interval | None]:
    return [
        None if np.isnan(v) else Interval(value=float(v), low=float(low), high=float(high))
        for v, (low, high) in zip(
            value, (_ends(column, v) for column, v in zip(drawn.T, value, strict=True)), strict=True
        )
    ]


def _ends(column: NDArray[np.float64], value: float) -> tuple[float, float]:
    known = column[~np.isnan(column)]
    if not len(known):
        return value, value
    low, high = np.percentile(known, _ENDS)
    return float(low), float(high)
