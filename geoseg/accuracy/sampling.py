"""A stratified random sample of a map's pixels: how many, how shared among classes, and which.

    survey   pixels and area of each class, one pass over the map
    size     from the standard error wanted (Cochran 1977, eq. 5.25; Olofsson et al. 2014, eq. 13)
    share    among classes: by area, all alike, or by Neyman; rare classes get a least number
    draw     every pixel of a class is as likely as any other of it; a second pass finds where they are

A draw is a function of the map, the numbers and the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from geoseg.accuracy.layers import chunks
from geoseg.errors import LabelError, UsageError, explain
from geoseg.legend import IGNORE_INDEX
from geoseg.vector.area import pixel_areas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from geoseg.accuracy.layers import Layer
    from geoseg.raster.aoi import Aoi
    from geoseg.raster.scene import Scene
    from geoseg.windows import Window

Allocation = Literal["proportional", "equal", "neyman"]
"""How points are shared among classes: by area; alike; by area and by how uncertain the class is."""
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
MINIMUM = 50
"""Points a class gets at least: fewer say too little about it (Olofsson et al. 2014, section 5.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSurvey:
    """How much of each class there is."""

    pixels: NDArray[np.int64]
    """By class index."""
    area_m2: NDArray[np.float64]
    """True area, by class index."""
    by_chunk: NDArray[np.int64]
    """(chunks, classes): pixels in each chunk of the grid, row by row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Pixels that were drawn, in random order: their places tell nothing about their classes."""

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    index: NDArray[np.uint8]
    """Class index that the map has there."""


def survey_map(
    read: Layer,
    scene: Scene,
    *,
    classes: int,
    aoi: Aoi | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> MapSurvey:
    """Pixels and areas of each class of a map on the grid of `scene`, one chunk in memory at a time.

    Raises:
        LabelError: there is no class anywhere.
    """
    area, by_chunk, done = np.zeros(classes), [], 0
    for chunk, index in _chunks(read, scene, aoi):
        known = index != IGNORE_INDEX
        by_chunk.append(np.bincount(index[known], minlength=classes))
        m2 = np.broadcast_to(pixel_areas(scene.geobox, chunk), chunk.shape)
        area += np.bincount(index[known], weights=m2[known], minlength=classes)
        done += chunk.size
        if on_progress:
            on_progress(done, scene.window.size)
    counts = np.array(by_chunk, np.int64).reshape(-1, classes)
    if not counts.any():
        raise LabelError(
            explain(
                "there is nothing to sample",
                at=", ".join(scene.paths),
                expected="pixels of a class, in the area that is asked for",
                found="none",
                change="Check the map and the area of interest.",
            )
        )
    return MapSurvey(pixels=counts.sum(axis=0), area_m2=area, by_chunk=counts)


def sample_size(share: NDArray[np.float64], expected: NDArray[np.float64], *, standard_error: float) -> int:
    """Points needed so that overall accuracy has the standard error, when points follow the shares.

    n = (sum of W_i sqrt(U_i (1 - U_i)) / S)^2, for a population much larger than the sample.

    Args:
        share: of each class in the map's area; they add up to 1.
        expected: user's accuracy of each class that is hoped for, 0 to 1.
        standard_error: of overall accuracy, 0 to 1.

    Raises:
        UsageError: a number is not between 0 and 1.
    """
    _require_shares(expected)
    if not 0 < standard_error < 1:
        raise UsageError(f"the standard error must lie between 0 and 1, not {standard_error:g}")
    return math.ceil((float((share * _spread(expected)).sum()) / standard_error) ** 2 - 1e-9)


_HALVINGS = 200
"""Enough for any two float64."""


def allocate(
    size: int,
    survey: MapSurvey,
    *,
    how: Allocation = "proportional",
    minimum: int = MINIMUM,
    expected: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Points of each class. They add up to `size`, or to all pixels where there are fewer.

    Classes that would get less than `minimum` get that, at the others' expense; no class gets more points
    than it has pixels, and those that are not in the map get none.

    Args:
        size: of the whole sample.
        survey: what there is.
        how: `neyman` shares by W_i sqrt(U_i (1 - U_i)), which makes the error of overall accuracy smallest.
        minimum: points a class gets at least; estimates need 2.
        expected: user's accuracy of each class, for `neyman`.

    Raises:
        UsageError: the minimum is below 2 or too much for the size, or `neyman` lacks what it needs.
    """
    weight = _weights(survey, how, expected)
    least = np.minimum(minimum, survey.pixels)
    if minimum < 2 or least.sum() > size:  # noqa: PLR2004 - see `geoseg.accuracy.olofsson`
        raise UsageError(
            explain(
                "the sample cannot be shared among the classes",
                at=f"{size} points",
                expected=f"at least {max(int(least.sum()), 2)}, with 2 or more for each class",
                found=f"at least {minimum} for each of {int((survey.pixels > 0).sum())} classes",
                change="Ask for more points, or for a smaller minimum.",
            )
        )
    return _shared(min(size, int(survey.pixels.sum())), weight, least, survey.pixels)


def draw_points(
    read: Layer,
    scene: Scene,
    survey: MapSurvey,
    counts: NDArray[np.int64],
    *,
    seed: int,
    aoi: Aoi | None = None,
) -> Drawn:
    """So many pixels of each class at random, none twice.

    Args:
        read: the map.
        scene: its grid.
        survey: what `survey_map` found in the same map and area.
        counts: points by class index.
        seed: of the draw.
        aoi: the area that was surveyed.
    """
    rng = np.random.default_rng(seed)
    # The pixels of a class are numbered chunk by chunk, row by row.
    wanted = [
        np.sort(rng.choice(int(total), int(n), replace=False))
        for total, n in zip(survey.pixels, counts, strict=True)
    ]
    before = np.zeros(len(counts), np.int64)
    found: list[NDArray[np.int64]] = []
    for own, window in zip(survey.by_chunk, chunks(scene.window, scene.window), strict=True):
        bounds = [np.searchsorted(w, (b, b + n)) for w, b, n in zip(wanted, before, own, strict=True)]
        if any(stop > start for start, stop in bounds):
            index = _inside(read, scene, aoi, window)
            for k, (start, stop) in enumerate(bounds):
                row, col = np.nonzero(index == k)
                at = wanted[k][start:stop] - before[k]
                place = np.stack([row[at] + window.row, col[at] + window.col, np.full(len(at), k)], axis=1)
                found.append(place.astype(np.int64))
        before += own
    points = rng.permutation(np.concatenate(found))
    return Drawn(row=points[:, 0], col=points[:, 1], index=points[:, 2].astype(np.uint8))


def _chunks(read: Layer, scene: Scene, aoi: Aoi | None) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    for chunk in chunks(scene.window, scene.window):
        yield chunk, _inside(read, scene, aoi, chunk)


def _inside(read: Layer, scene: Scene, aoi: Aoi | None, window: Window) -> NDArray[np.uint8]:
    """The map's classes, IGNORE_INDEX outside the area."""
    if aoi is None:
        return read(window)
    return np.where(aoi.mask(window, scene.geobox), read(window), np.uint8(IGNORE_INDEX))


def _weights(survey: MapSurvey, how: Allocation, expected: NDArray[np.float64] | None) -> NDArray[np.float64]:
    present = (survey.pixels > 0).astype(np.float64)
    if how == "equal":
        return present
    if how == "proportional":
        return survey.area_m2.copy()
    if expected is None:
        raise UsageError("the allocation neyman needs to know the user's accuracy expected of each class")
    _require_shares(expected)
    weight = survey.area_m2 * _spread(expected)
    if not (weight * present).any():
        raise UsageError("no class is expected to have any error: neyman has nothing to share points by")
    return weight


def _shared(
    size: int, weight: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`size` shared by weight, between the bounds of each, of which those below add up to no more than it.

    The shares are `clip(level * weight, least, most)` for the level at which they add up; then the largest
    remainders are rounded up. What weighs nothing is lifted last.
    """
    weight = np.where(most > 0, np.maximum(weight, 1e-12 * weight.max(initial=1e-12)), 1.0)
    low, high = 0.0, float((most / weight).max(initial=0.0))
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        low, high = (level, high) if np.clip(level * weight, least, most).sum() < size else (low, level)
    shares = np.clip(high * weight, least, most)
    counts = np.clip(np.floor(shares).astype(np.int64), least, most)
    while (left := size - int(counts.sum())) > 0:
        first = np.argsort(-np.where(counts < most, shares - counts, -np.inf), kind="stable")[:left]
        counts[first[counts[first] < most[first]]] += 1
    return counts


def _spread(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of a pixel's being right."""
    spread: NDArray[np.float64] = np.sqrt(accuracy * (1 - accuracy))
    return spread


def _require_shares(expected: NDArray[np.float64]) -> None:
    if not ((expected >= 0) & (expected <= 1)).all():
        raise UsageError("expected user's accuracies must lie between 0 and 1")
