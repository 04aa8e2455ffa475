"""Outlines of many regions as a few arrays, in pixel coordinates.

Coordinates are (column, row) of pixel *corners*: the pixel at row r and column c spans [c, c + 1] x
[r, r + 1], so a region of 10 x 10 pixels is a polygon of 10 x 10. They stay integers, and the operations
exact, until the affine is applied last.

There is one spelling of an outline: every ring has its region on the left (rows count downwards, so on paper
outer rings run anticlockwise and holes clockwise), starts at its lowest (column, row) and ends there again;
the holes of a polygon, and the polygons of a region, are in the order of their starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """Regions as polygons with holes: offsets of rings into points, polygons into rings, and so on."""

    coords: NDArray[np.int32]
    """Shape (points, 2): column, row of the scene in units of 1 / `scale` pixels."""
    fixed: NDArray[np.bool_]
    """Shape (points,): True where a vertex must stay when lines are generalised."""
    ring_offsets: NDArray[np.int64]
    """Shape (rings + 1,): ring i is coords[ring_offsets[i]:ring_offsets[i + 1]]."""
    polygon_offsets: NDArray[np.int64]
    """Shape (polygons + 1,): polygon i is the rings from polygon_offsets[i], its outer one first."""
    region_offsets: NDArray[np.int64]
    """Shape (regions + 1,): region i is the polygons from region_offsets[i]; one if 4-connected."""
    scale: int = 1
    """Units of the coordinates per pixel."""

    def __len__(self) -> int:
        return len(self.region_offsets) - 1

    def take(self, index: NDArray[np.intp]) -> Outlines:
        """The regions at `index`, in that order."""
        from geoseg.vector.join import take_outlines

        offsets = (self.ring_offsets, self.polygon_offsets, self.region_offsets)
        coords, fixed, *taken = take_outlines(self.coords, self.fixed, *offsets, index)
        ring_offsets, polygon_offsets, region_offsets = taken
        return Outlines(
            coords=coords,
            fixed=fixed,
            ring_offsets=ring_offsets,
            polygon_offsets=polygon_offsets,
            region_offsets=region_offsets,
            scale=self.scale,
        )

    def to_shapely(self, transform: Affine | None = None) -> NDArray[Any]:
        """One geometry per region, in pixel coordinates or, given a transform, in its target's.

        Polygons, or multipolygons for all as soon as one region is in several pieces.
        """
        import shapely

        if not len(self):
            return np.empty(0, object)
        kind = shapely.GeometryType.POLYGON
        offsets: tuple[NDArray[np.int64], ...] = (self.ring_offsets, self.polygon_offsets)
        if len(self.polygon_offsets) != len(self.region_offsets):
            kind, offsets = shapely.GeometryType.MULTIPOLYGON, (*offsets, self.region_offsets)
        geometries: NDArray[Any] = shapely.from_ragged_array(kind, self.to_points(transform), offsets)
        return geometries

    def to_points(self, transform: Affine | None = None) -> NDArray[np.float64]:
        """Shape (points, 2): x and y in pixel coordinates or, given a transform, in its target's."""
        from geoseg.vector.rings import project

        points = np.empty(self.coords.shape, np.float64)
        t = Affine.identity() if transform is None else transform
        terms = (float(t.a), float(t.b), float(t.c), float(t.d), float(t.e), float(t.f))
        project(self.coords, float(self.scale), terms, points)
        return points


def no_outlines(*, scale: int = 1) -> Outlines:
    """A value of length 0."""
    zero = np.zeros(1, np.int64)
    return Outlines(
        coords=np.empty((0, 2), np.int32),
        fixed=np.empty(0, np.bool_),
        ring_offsets=zero,
        polygon_offsets=zero,
        region_offsets=zero,
        scale=scale,
    )


def concatenate(parts: Sequence[Outlines]) -> Outlines:
    """All regions of all parts, in order.

    Raises:
        ValueError: parts that are not empty differ in scale.
    """
    parts = [p for p in parts if len(p)] or list(parts[:1])
    if not parts:
        return no_outlines()
    if len({p.scale for p in parts}) > 1:
        raise ValueError(f"outlines of scales {sorted({p.scale for p in parts})} cannot be put together")
    if len(parts) == 1:
        return parts[0]
    return Outlines(
        coords=np.concatenate([p.coords for p in parts]),
        fixed=np.concatenate([p.fixed for p in parts]),
        ring_offsets=_stack_offsets([p.ring_offsets for p in parts]),
        polygon_offsets=_stack_offsets([p.polygon_offsets for p in parts]),
        region_offsets=_stack_offsets([p.region_offsets for p in parts]),
        scale=parts[0].scale,
    )


def gather(
    offsets: NDArray[np.int64], index: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Element numbers of the ragged rows at `index`, one row after the other, and the new offsets."""
    sizes = offsets[index + 1] - offsets[index]
    taken = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    shift = np.repeat(offsets[index] - taken[:-1], sizes)
    return np.arange(taken[-1]) + shift, taken


def _stack_offsets(offsets: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of ragged arrays put one after the other."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(o) for o in offsets]))]).astype(np.int64)
