"""Many polygons as a few arrays, in pixel coordinates.

Coordinates are (column, row) of pixel *corners*: the pixel at row r and column c spans [c, c + 1] x
[r, r + 1], so a region of 10 x 10 pixels is a polygon of 10 x 10. They stay integers, and the operations
exact, until the affine is applied last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from affine import Affine
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Polygons:
    """Polygons with holes: offsets of rings into the coordinates, and of polygons into the rings."""

    coords: NDArray[np.int32]
    """Shape (points, 2): column, row of the scene; each ring ends on its first point."""
    ring_offsets: NDArray[np.int64]
    """Shape (rings + 1,): ring i is coords[ring_offsets[i]:ring_offsets[i + 1]]."""
    polygon_offsets: NDArray[np.int64]
    """Shape (polygons + 1,): polygon i is the rings from polygon_offsets[i], its outer one first."""

    def __len__(self) -> int:
        return len(self.polygon_offsets) - 1

    def take(self, index: NDArray[np.intp]) -> Polygons:
        """The polygons at `index`, in that order."""
        rings, polygon_offsets = _gather(self.polygon_offsets, index)
        points, ring_offsets = _gather(self.ring_offsets, rings)
        return Polygons(
            coords=self.coords[points], ring_offsets=ring_offsets, polygon_offsets=polygon_offsets
        )

    def to_shapely(self, transform: Affine | None = None) -> NDArray[Any]:
        """Shapely polygons, in pixel coordinates or, given a transform, in its target's."""
        coords = self.coords.astype(np.float64)
        if transform is not None:
            col, row = coords.T
            coords = np.stack(
                [
                    transform.a * col + transform.b * row + transform.c,
                    transform.d * col + transform.e * row + transform.f,
                ],
                axis=1,
            )
        if not len(self):
            return np.empty(0, object)
        offsets = (self.ring_offsets, self.polygon_offsets)
        geometries: NDArray[Any] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coords, offsets)
        return geometries


def no_polygons() -> Polygons:
    """A value of length 0."""
    zero = np.zeros(1, np.int64)
    return Polygons(coords=np.empty((0, 2), np.int32), ring_offsets=zero, polygon_offsets=zero)


def concatenate(parts: Sequence[Polygons]) -> Polygons:
    """All polygons of all parts, in order."""
    if not parts:
        return no_polygons()
    return Polygons(
        coords=np.concatenate([p.coords for p in parts]),
        ring_offsets=_stack_offsets([p.ring_offsets for p in parts]),
        polygon_offsets=_stack_offsets([p.polygon_offsets for p in parts]),
    )


def canonical(geometries: NDArray[Any]) -> Polygons:
    """The one spelling of rectilinear polygons in pixel coordinates.

    Rings start at their lowest (column, row), outer rings run one way and holes the other, holes are in the
    order of their starts, and a vertex is where a ring turns: equal point sets give equal arrays.
    """
    if not len(geometries):
        return no_polygons()
    kind, coords, offsets = shapely.to_ragged_array(shapely.normalize(geometries))
    if kind != shapely.GeometryType.POLYGON:
        raise ValueError(f"expected polygons only, got {kind!r}: a region is in one piece")
    polygons = Polygons(
        coords=coords.astype(np.int32),
        ring_offsets=offsets[0].astype(np.int64),
        polygon_offsets=offsets[1].astype(np.int64),
    )
    return _order_holes(_only_turns(polygons))


def _only_turns(polygons: Polygons) -> Polygons:
    """The same polygons without vertices inside straight lines; each ring's first vertex must be a turn."""
    coords, offsets = polygons.coords, polygons.ring_offsets
    step = np.diff(coords, axis=0)
    turns = np.ones(len(coords), bool)
    # Segments are horizontal or vertical: the ring is straight where both stay so.
    turns[1:-1] = (step[1:, 0] == 0) != (step[:-1, 0] == 0)
    turns[offsets[:-1]] = True
    turns[offsets[1:] - 1] = True
    kept = np.concatenate([[0], np.cumsum(turns)])
    return Polygons(
        coords=coords[turns], ring_offsets=kept[offsets], polygon_offsets=polygons.polygon_offsets
    )


def _order_holes(polygons: Polygons) -> Polygons:
    """The same polygons, the holes of each in the order of their first points, which differ.

    GEOS orders them by their numbers of points first, and has counted those inside straight lines.
    """
    polygon_of_ring = np.repeat(np.arange(len(polygons)), np.diff(polygons.polygon_offsets))
    hole = np.ones(len(polygon_of_ring), bool)
    hole[polygons.polygon_offsets[:-1]] = False
    col, row = polygons.coords[polygons.ring_offsets[:-1]].T
    points, ring_offsets = _gather(polygons.ring_offsets, np.lexsort((row, col, hole, polygon_of_ring)))
    return Polygons(
        coords=polygons.coords[points], ring_offsets=ring_offsets, polygon_offsets=polygons.polygon_offsets
    )


def _gather(
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
