"""Compiled: rings of tiles cut open at seams, and followed again across them.

A ring of a tile runs along a seam line where its region continues in the next tile, and where it ends there.
What the flags of the seam line say tells these apart: unit edges between two pixels of one class are *open*,
no border at all. A ring without its open edges is a few chains, which begin and end on seam lines; the next
chain of the region begins where one ends, in this tile or another. Where pixels meet at corners only, no edge
is open and no chain ends: so a region has at most one chain that begins at a point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Sides = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Flags of the lattice points along the top, bottom, left and right of a tile; empty where it has no seam."""

NODE = 1
"""Flag of a lattice point on a seam line: at least three borders meet there."""
BARE = 2
"""One of the four pixels around is nodata, or outside the scene."""
BORDER = 4
"""The pixels beside the unit edge that follows, down or to the right, are of two classes, or one is nodata;
if not, the edge is open."""
MET = 8
"""Some border goes through the point."""

FIXED = 1
"""Flag of a vertex: it stays when lines are generalised."""
LOOSE = 2
"""It lies on a seam line and stays only if the ring turns there."""

_KERNEL = njit(cache=True, nogil=True)


def cut_rings(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    ring_offsets: NDArray[np.int64],
    box: tuple[int, int, int, int],
    sides: Sides,
    *,
    scale: int,
    keep_outline: bool,
) -> tuple[Chains, Gates]:
    """The chains that are left of closed rings without their open edges, and where these were.

    Args:
        coords: column and row of each point in units of 1 / scale pixels, rings closed.
        fixed: of each point.
        ring_offsets: of the rings into the points.
        box: row, column, stop row and stop column of the tile, in the same units.
        sides: flags of the lattice points along the upper, lower, left and right side; empty if no seam.
        scale: units per pixel.
        keep_outline: whether vertices beside nodata are fixed.
    """
    flags, side = _mark(coords, fixed, ring_offsets, box, *sides, scale, keep_outline)
    order, offsets, ends, ring = _find_chains(ring_offsets, side)
    chains = Chains(points=coords[order], flags=flags[order], offsets=offsets, ends=coords[ends], ring=ring)
    return chains, Gates(*_find_gates(coords, ring_offsets, side))


class Chains(NamedTuple):
    """Parts of rings without open edges."""

    points: NDArray[np.int32]
    """Shape (points, 2): column and row of their vertices, without the one each chain ends on."""
    flags: NDArray[np.uint8]
    """FIXED, LOOSE or both, of each vertex."""
    offsets: NDArray[np.int64]
    """Shape (chains + 1,): of the chains into the vertices."""
    ends: NDArray[np.int32]
    """Shape (chains, 2): the vertex each chain ends on; where it starts if it is a whole ring."""
    ring: NDArray[np.int64]
    """Ring of each chain."""


class Gates(NamedTuple):
    """Runs of open edges along one side of a tile."""

    ring: NDArray[np.int64]
    """Ring of each run."""
    at: NDArray[np.int32]
    """Shape (gates, 3): direction (0 along a row), and the column and row where the run starts when it goes
    down or to the right. The region on the other side of the seam has the same gate."""


@_KERNEL
def _mark(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    ring_offsets: NDArray[np.int64],
    box: tuple[int, int, int, int],
    top: NDArray[np.uint8],
    bottom: NDArray[np.uint8],
    left: NDArray[np.uint8],
    right: NDArray[np.uint8],
    scale: int,
    keep_outline: bool,  # noqa: FBT001
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Flags of each vertex, and the side (1 to 4) along which an open edge starts there, 0 if none does."""
    flags, side = np.empty(len(coords), np.uint8), np.zeros(len(coords), np.uint8)
    for ring in range(len(ring_offsets) - 1):
        for i in range(ring_offsets[ring], ring_offsets[ring + 1] - 1):
            x, y = coords[i, 0], coords[i, 1]
            flags[i] = FIXED if fixed[i] else 0
            if box[1] < x < box[3] and box[0] < y < box[2]:
                continue
            col, row = (x - box[1]) // scale, (y - box[0]) // scale
            # The edge that starts here has its flags at its upper or left end.
            back_col, back_row = int(coords[i + 1, 0] < x), int(coords[i + 1, 1] < y)
            level, upright = coords[i + 1, 1] == y, coords[i + 1, 0] == x
            line = -1
            if y == box[0] and len(top):
                line = top[col]
                if level and not top[col - back_col] & BORDER:
                    side[i] = 1
            if y == box[2] and len(bottom):
                line = bottom[col]
                if level and not bottom[col - back_col] & BORDER:
                    side[i] = 2
            if x == box[1] and len(left):
                line = left[row]
                if upright and not left[row - back_row] & BORDER:
                    side[i] = 3
            if x == box[3] and len(right):
                line = right[row]
                if upright and not right[row - back_row] & BORDER:
                    side[i] = 4
            if line >= 0:
                node, bare = line & NODE != 0, line & BARE != 0
                flags[i] = FIXED if node or (keep_outline and bare) else 0
                flags[i] |= 0 if node else LOOSE
    return flags, side


@_KERNEL
def _find_chains(
    ring_offsets: NDArray[np.int64], side: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The vertices of all chains, their offsets, the vertex each chain ends on, and its ring."""
    order, offsets = np.empty(len(side), np.int64), np.zeros(len(side) + 1, np.int64)
    ends, ring_of = np.empty(len(side), np.int64), np.empty(len(side), np.int64)
    used = chains = 0
    for ring in range(len(ring_offsets) - 1):
        start, stop = ring_offsets[ring], ring_offsets[ring + 1] - 1
        first, before = start, side[stop - 1]
        for i in range(start, stop):
            if before and not side[i]:
                first = i
            before = side[i]
        if side[first]:
            continue  # the whole tile is of this region
        i = first
        before = np.uint8(1)
        for _ in range(stop - start):
            if not side[i]:
                if before:
                    ring_of[chains], ends[chains] = ring, first
                    chains += 1
                order[used] = i
                used += 1
                offsets[chains] = used
            elif not before:
                ends[chains - 1] = i
            before = side[i]
            i = i + 1 if i + 1 < stop else start
    return order[:used].copy(), offsets[: chains + 1].copy(), ends[:chains].copy(), ring_of[:chains].copy()


@_KERNEL
def _find_gates(
    coords: NDArray[np.int32], ring_offsets: NDArray[np.int64], side: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Ring and place of each run of open edges along one side."""
    ring_of, gates = np.empty(len(side), np.int64), np.empty((len(side), 3), np.int32)
    found = 0
    for ring in range(len(ring_offsets) - 1):
        start, stop = ring_offsets[ring], ring_offsets[ring + 1] - 1
        for i in range(start, stop):
            if not side[i]:
                continue
            before = side[i - 1] if i > start else side[stop - 1]
            after = side[i + 1] if i + 1 < stop else side[start]
            ahead = coords[i, 0] < coords[i + 1, 0] or coords[i, 1] < coords[i + 1, 1]
            if (before if ahead else after) != side[i]:
                at = i if ahead else i + 1
                ring_of[found] = ring
                gates[found, 0] = 0 if coords[i, 1] == coords[i + 1, 1] else 1
                gates[found, 1], gates[found, 2] = coords[at, 0], coords[at, 1]
                found += 1
    return ring_of[:found].copy(), gates[:found].copy()


@_KERNEL
def follow(
    points: NDArray[np.int32], flags: NDArray[np.uint8], following: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rings that `following`, the point after each point, makes of points.

    Returns:
        order: the points ring by ring; without those on seam lines where a ring neither turns nor must stay.
        offsets: of the rings into `order`.
        first: a point of each ring, kept or not.
    """
    order, first = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
    offsets = np.zeros(len(points) + 1, np.int64)
    seen = np.zeros(len(points), np.bool_)
    kept = rings = 0
    for start in range(len(points)):
        if seen[start]:
            continue
        first[rings] = start
        before, at = start, following[start]
        while not seen[at]:
            seen[at] = True
            after = following[at]
            if not flags[at] & LOOSE or not _straight(points, before, at, after):
                order[kept] = at
                kept += 1
            before, at = at, after
        rings += 1
        offsets[rings] = kept
    return order[:kept].copy(), offsets[: rings + 1].copy(), first[:rings].copy()


@_KERNEL
def _straight(points: NDArray[np.int32], before: int, at: int, after: int) -> bool:
    """True when the three lie on one row or column."""
    upright = points[before, 0] == points[at, 0] == points[after, 0]
    level = points[before, 1] == points[at, 1] == points[after, 1]
    return bool(upright or level)


def take_outlines(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    region_offsets: NDArray[np.int64],
    index: NDArray[np.intp],
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The arrays of outlines of the regions at `index`, in that order."""
    points, rings, polygons = _count_taken(ring_offsets, polygon_offsets, region_offsets, index)
    # Allocated here, because memory that numba asks for comes in small pages.
    taken = np.empty((points, 2), np.int32), np.empty(points, np.bool_)
    offsets = (
        np.zeros(rings + 1, np.int64),
        np.zeros(polygons + 1, np.int64),
        np.zeros(len(index) + 1, np.int64),
    )
    # Column and row are copied as one number.
    pairs, taken_pairs = (np.ascontiguousarray(c).view(np.int64)[:, 0] for c in (coords, taken[0]))
    source = (pairs, fixed, ring_offsets, polygon_offsets, region_offsets)
    _take(*source, index, taken_pairs, taken[1], *offsets)
    return *taken, *offsets


@_KERNEL
def _count_taken(
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    region_offsets: NDArray[np.int64],
    index: NDArray[np.intp],
) -> tuple[int, int, int]:
    """Points, rings and polygons of the regions at `index`."""
    points = rings = polygons = 0
    for region in index:
        first, stop = region_offsets[region], region_offsets[region + 1]
        polygons += stop - first
        first, stop = polygon_offsets[first], polygon_offsets[stop]
        rings += stop - first
        points += ring_offsets[stop] - ring_offsets[first]
    return points, rings, polygons


@_KERNEL
def _take(
    pairs: NDArray[np.int64],
    fixed: NDArray[np.bool_],
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    region_offsets: NDArray[np.int64],
    index: NDArray[np.intp],
    taken: NDArray[np.int64],
    stays: NDArray[np.bool_],
    rings: NDArray[np.int64],
    polygons: NDArray[np.int64],
    regions: NDArray[np.int64],
) -> None:
    """Fills the last five with the arrays of the regions at `index`; neighbours are copied together."""
    point = ring = polygon = place = 0
    while place < len(index):
        stop = place + 1
        while stop < len(index) and index[stop] == index[stop - 1] + 1:
            stop += 1
        first, last = index[place], index[stop - 1] + 1
        first_part, last_part = region_offsets[first], region_offsets[last]
        first_line, last_line = polygon_offsets[first_part], polygon_offsets[last_part]
        start, end = ring_offsets[first_line], ring_offsets[last_line]
        for i in range(end - start):
            taken[point + i], stays[point + i] = pairs[start + i], fixed[start + i]
        for i in range(first_line, last_line):
            rings[ring + i - first_line + 1] = ring_offsets[i + 1] - start + point
        for i in range(first_part, last_part):
            polygons[polygon + i - first_part + 1] = polygon_offsets[i + 1] - first_line + ring
        for i in range(first, last):
            regions[place + i - first + 1] = region_offsets[i + 1] - first_part + polygon
        point += end - start
        ring += last_line - first_line
        polygon += last_part - first_part
        place = stop
