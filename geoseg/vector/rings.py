"""Rings put together to outlines, in their one spelling.

Compiled loops; only what needs them imports this module, and inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from geoseg.vector.outlines import Outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KERNEL = njit(cache=True, nogil=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Rings in any order, each from any vertex on; every ring has its region on the left."""

    coords: NDArray[np.int32]
    """Shape (points, 2): column, row."""
    fixed: NDArray[np.bool_]
    """Shape (points,): whether a vertex must stay."""
    offsets: NDArray[np.int64]
    """Shape (rings + 1,): of the rings into the points."""
    first: NDArray[np.int64]
    """Shape (rings,): the point of each that is lowest by column and row."""
    hole: NDArray[np.bool_]
    """Shape (rings,): False for outer rings."""
    closed: bool
    """Whether rings end on their first vertex."""

    def __len__(self) -> int:
        return len(self.first)

    def second(self) -> NDArray[np.int64]:
        """Shape (rings,): the point after the first."""
        after = self.first + 1
        return np.where(after < self.offsets[1:] - self.closed, after, self.offsets[:-1])


def arrange(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    ring_offsets: NDArray[np.int64],
    *,
    polygon: NDArray[np.int64],
    region: NDArray[np.int64],
    scale: int = 1,
    closed: bool = False,
) -> Outlines:
    """The outlines that rings in any order, from any vertex on, make up.

    Args:
        coords: column and row of the vertices; rings have their region on the left, and none meets itself.
        fixed: whether a vertex must stay.
        ring_offsets: of the rings into the vertices.
        polygon: whose ring each is, 0..polygons - 1; each polygon has exactly one outer ring.
        region: whose polygon each is, 0..regions - 1; each region has at least one.
        scale: units of the coordinates per pixel.
        closed: whether rings end on their first vertex.
    """
    first, hole = np.empty(len(polygon), np.int64), np.empty(len(polygon), np.bool_)
    _describe(coords, ring_offsets, closed, first, hole)
    rings = Rings(coords=coords, fixed=fixed, offsets=ring_offsets, first=first, hole=hole, closed=closed)
    return assemble(rings, polygon=polygon, region=region, scale=scale)


def assemble(
    rings: Rings,
    *,
    polygon: NDArray[np.int64],
    region: NDArray[np.int64],
    scale: int = 1,
    starts_differ: bool = False,
) -> Outlines:
    """The outlines that rings make up.

    Args:
        rings: in any order; each meets itself nowhere.
        polygon: whose ring each is, 0..polygons - 1; each polygon has exactly one outer ring.
        region: whose polygon each is, 0..regions - 1; each region has at least one.
        scale: units of the coordinates per pixel.
        starts_differ: no two rings of a region start in one point, as is so along pixels.
    """
    order = np.arange(len(rings))
    # Where generalised rings start at one node, the vertices after it decide.
    for vertex in (rings.first,) if starts_differ else (rings.second(), rings.first):
        for axis in (1, 0):
            order = _sort(order, rings.coords[vertex, axis])
    place = _places(polygon[order[~rings.hole[order]]], region)
    order = _sort(order, place[polygon] * 2 + rings.hole)
    total = len(rings.coords) + (0 if rings.closed else len(rings))
    coords, fixed = np.empty((total, 2), np.int32), np.empty(total, np.bool_)
    offsets = np.empty(len(rings) + 1, np.int64)
    given = (rings.coords, rings.fixed, rings.offsets, rings.closed, rings.first)
    _write(*given, order, coords, fixed, offsets)
    return Outlines(
        coords=coords,
        fixed=fixed,
        ring_offsets=offsets,
        polygon_offsets=_offsets(np.bincount(place[polygon], minlength=len(region))),
        region_offsets=_offsets(np.bincount(region)),
        scale=scale,
    )


def canonical(outlines: Outlines) -> Outlines:
    """The same outlines in their one spelling, which may be lost where vertices are dropped."""
    polygons = np.diff(outlines.polygon_offsets)
    regions = np.diff(outlines.region_offsets)
    return arrange(
        outlines.coords,
        outlines.fixed,
        outlines.ring_offsets,
        polygon=np.repeat(np.arange(len(polygons)), polygons),
        region=np.repeat(np.arange(len(regions)), regions),
        scale=outlines.scale,
        closed=True,
    )


def split_rings(
    coords: NDArray[np.int32], fixed: NDArray[np.bool_], ring_offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Rings that meet themselves in no point, from rings, not closed, that may.

    A ring that comes back to a point is cut there in two: the outer ring of a region that lies around a
    pixel and touches itself at a corner becomes an outer ring and a hole.

    Returns:
        coords, fixed and offsets of the rings, not closed; and the ring that each is a piece of.
    """
    order, offsets, whole = _split(coords, ring_offsets)
    return coords[order], fixed[order], offsets, whole


@_KERNEL
def project(
    coords: NDArray[np.int32],
    scale: float,
    terms: tuple[float, float, float, float, float, float],
    points: NDArray[np.float64],
) -> None:
    """Writes where an affine map puts coordinates in units of 1 / `scale`."""
    a, b, c, d, e, f = terms
    for i in range(len(coords)):
        col, row = coords[i, 0] / scale, coords[i, 1] / scale
        points[i, 0] = a * col + b * row + c
        points[i, 1] = d * col + e * row + f


def _places(polygons: NDArray[np.int64], region: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each polygon comes: by region, and in a region as they come in `polygons`."""
    place = np.arange(len(region))
    if not (np.diff(region) > 0).all():
        place[_sort(polygons, region)] = np.arange(len(region))
    return place


def _sort(order: NDArray[np.int64], key: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers in `order` by their keys, those of one key as they came."""
    if not len(order):
        return order
    ordered = np.empty_like(order)
    _sort_counting(order, key.astype(np.int64), ordered)
    return ordered


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


@_KERNEL
def _sort_counting(order: NDArray[np.int64], key: NDArray[np.int64], ordered: NDArray[np.int64]) -> None:
    """A stable counting sort: lattice coordinates and numbers of regions are small and many alike."""
    low = key.min()
    at = np.zeros(key.max() - low + 2, np.int64)
    for i in order:
        at[key[i] - low + 1] += 1
    for k in range(len(at) - 1):
        at[k + 1] += at[k]
    for i in order:
        ordered[at[key[i] - low]] = i
        at[key[i] - low] += 1


@_KERNEL
def _describe(
    coords: NDArray[np.int32],
    offsets: NDArray[np.int64],
    closed: bool,  # noqa: FBT001  numba takes no keyword-only arguments
    first: NDArray[np.int64],
    hole: NDArray[np.bool_],
) -> None:
    """Writes of each ring which point is lowest by column and row, and whether it is a hole."""
    for ring in range(len(first)):
        stop = offsets[ring + 1] - closed
        lowest, before = offsets[ring], stop - 1
        area = np.int64(0)
        for i in range(offsets[ring], stop):
            col, row = np.int64(coords[i, 0]), np.int64(coords[i, 1])
            area += np.int64(coords[before, 0]) * row - col * np.int64(coords[before, 1])
            if col < coords[lowest, 0] or (col == coords[lowest, 0] and row < coords[lowest, 1]):
                lowest = i
            before = i
        first[ring], hole[ring] = lowest, area > 0


@_KERNEL
def _write(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    closed: bool,  # noqa: FBT001
    first: NDArray[np.int64],
    order: NDArray[np.int64],
    points: NDArray[np.int32],
    stays: NDArray[np.bool_],
    written: NDArray[np.int64],
) -> None:
    """Writes rings in the given order, each from its first point on and back to it."""
    at = written[0] = 0
    for place in range(len(order)):
        ring = order[place]
        start, stop = offsets[ring], offsets[ring + 1] - closed
        i = first[ring]
        for _ in range(stop - start + 1):
            points[at, 0], points[at, 1], stays[at] = coords[i, 0], coords[i, 1], fixed[i]
            at += 1
            i += 1
            if i == stop:
                i = start
        written[place + 1] = at


@_KERNEL
def _split(
    coords: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Point numbers, offsets and origin of the rings that come of cutting rings where they meet themselves.

    Points of the ring under way lie on a stack; one that is on it already closes a ring, which is taken off.
    """
    total, rings = len(coords), len(offsets) - 1
    order, whole = np.empty(total, np.int64), np.empty(total, np.int64)
    cuts = np.zeros(total + 1, np.int64)
    stack, slots = np.empty(total, np.int64), np.empty(total, np.int64)
    size = 4
    while size < 2 * total:
        size *= 2
    point_in, height_in = np.full(size, -1, np.int64), np.empty(size, np.int64)
    at = count = 0
    for ring in range(rings):
        height = 0
        for i in range(offsets[ring], offsets[ring + 1]):
            slot = _slot(coords, point_in, offsets[ring], i)
            if point_in[slot] < 0:
                point_in[slot], height_in[slot] = i, -1
            below = height_in[slot]
            if below >= 0:
                for k in range(below, height):
                    order[at] = stack[k]
                    at += 1
                    height_in[slots[k]] = -1
                whole[count] = ring
                count += 1
                cuts[count] = at
                height = below
            stack[height], slots[height], height_in[slot] = i, slot, height
            height += 1
        order[at : at + height] = stack[:height]
        at += height
        whole[count] = ring
        count += 1
        cuts[count] = at
    return order[:at], cuts[: count + 1], whole[:count]


@_KERNEL
def _slot(coords: NDArray[np.int32], point_in: NDArray[np.int64], start: int, i: int) -> np.int64:
    """Where in a hash table point i is, or will be; those before `start` are of other rings."""
    col, row = np.int64(coords[i, 0]), np.int64(coords[i, 1])
    last = len(point_in) - 1
    slot = (col * 73856093 ^ row * 19349663) & last
    while point_in[slot] >= 0:
        other = point_in[slot]
        if other >= start and coords[other, 0] == col and coords[other, 1] == row:
            break
        slot = (slot + 1) & last
    return slot
