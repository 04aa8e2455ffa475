"""Compiled: the vertices of original lines, which no line may sweep over while it is simplified."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geoseg.vector.runs import INNER, KERNEL, RAW, Runs

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Index(NamedTuple):
    """Points by row, then by column, each position once."""

    row: int
    """Row that `offsets[0]` stands for."""
    offsets: NDArray[np.int64]
    """Of the rows into the points."""
    col: NDArray[np.int32]
    """Column of each point."""
    arc: NDArray[np.int32]
    """Which arc it lies on; -1 for nodes and for arcs that are not simplified now."""
    rank: NDArray[np.int32]
    """Its place along that arc."""


@KERNEL
def index_points(points: NDArray[np.int32], arcs: NDArray[np.int32], ranks: NDArray[np.int32]) -> Index:
    """The points by row and column, each position once.

    Where several coincide, one that has a place along an arc counts; positions on an arc without any place
    along it are left out.
    """
    low, high = points[0].astype(np.int64), points[0].astype(np.int64)
    for i in range(len(points)):
        for axis in range(2):
            low[axis], high[axis] = min(low[axis], points[i, axis]), max(high[axis], points[i, axis])
    order = np.arange(len(points), dtype=np.int64)
    for axis in range(2):
        at = np.zeros(high[axis] - low[axis] + 2, np.int64)
        for i in range(len(points)):
            at[points[i, axis] - low[axis] + 1] += 1
        at = np.cumsum(at)
        ordered = np.empty_like(order)
        for place in range(len(points)):
            key = points[order[place], axis] - low[axis]
            ordered[at[key]] = order[place]
            at[key] += 1
        order = ordered
    offsets = np.zeros(high[1] - low[1] + 2, np.int64)
    col, arc, rank = np.empty(len(points), np.int32), np.empty(len(points), np.int32), np.empty_like(ranks)
    count = start = 0
    while start < len(order):
        first = chosen = order[start]
        stop = start
        while stop < len(order) and _same(points, order[stop], first):
            i = order[stop]
            if arcs[i] >= 0 and (arcs[chosen] < 0 or ranks[i] >= 0):
                chosen = i
            stop += 1
        if arcs[chosen] < 0 or ranks[chosen] >= 0:
            col[count], arc[count], rank[count] = points[first, 0], arcs[chosen], ranks[chosen]
            offsets[points[first, 1] - low[1] + 1] += 1
            count += 1
        start = stop
    return Index(int(low[1]), np.cumsum(offsets), col[:count].copy(), arc[:count].copy(), rank[:count].copy())


@INNER
def _same(points: NDArray[np.int32], one: int, other: int) -> bool:
    return bool(points[one, 0] == points[other, 0] and points[one, 1] == points[other, 1])


@KERNEL
def near_lines(
    index: Index,
    coords: NDArray[np.int32],
    runs: Runs,
    seams: tuple[int, int, int, int],
    box: tuple[int, int, int, int],
    reach: int,
) -> NDArray[np.int32]:
    """The indexed points within `reach` of raw runs or of seam lines, and some more; `box` is as `seams`."""
    cell = max(reach, 8)
    near = np.zeros(((box[2] - box[0]) // cell + 3, (box[3] - box[1]) // cell + 3), np.bool_)
    for run in range(len(runs.start)):
        if not runs.kind[run] & RAW:
            continue
        low, stop, at = runs.ring[run], runs.ring[run] + runs.size[run], runs.start[run]
        for _ in range(runs.edges[run]):
            to = low if at + 1 == stop else at + 1
            first_row, last_row = min(coords[at, 1], coords[to, 1]), max(coords[at, 1], coords[to, 1])
            first_col, last_col = min(coords[at, 0], coords[to, 0]), max(coords[at, 0], coords[to, 0])
            i, j = (first_row - box[0]) // cell, (first_col - box[1]) // cell
            near[i : (last_row - box[0]) // cell + 3, j : (last_col - box[1]) // cell + 3] = True
            at = to
    found = np.empty((len(index.col), 2), np.int32)
    count = 0
    for step in range(len(index.offsets) - 1):
        row = index.row + step
        by_row = abs(row - seams[0]) <= reach or abs(row - seams[2]) <= reach
        i = (row - box[0]) // cell + 1
        for at in range(index.offsets[step], index.offsets[step + 1]):
            col = index.col[at]
            j = (col - box[1]) // cell + 1
            by_col = abs(col - seams[1]) <= reach or abs(col - seams[3]) <= reach
            if by_row or by_col or near[i, j]:
                found[count, 0], found[count, 1] = col, row
                count += 1
    return found[:count].copy()


@INNER
def cross(points: NDArray[np.int64], a: int, b: int, c: int) -> int:
    """Twice the signed area of the triangle abc."""
    return int(
        (points[b, 0] - points[a, 0]) * (points[c, 1] - points[a, 1])
        - (points[b, 1] - points[a, 1]) * (points[c, 0] - points[a, 0])
    )


@INNER
def is_free(
    points: NDArray[np.int64],
    corners: tuple[int, int, int],
    own: tuple[int, int, int, int],
    index: Index,
) -> bool:
    """Whether a triangle, its sides included, holds no obstacle but its corners and some of its own line.

    Args:
        points: of an arc.
        corners: places along it.
        own: the arc's number, from where to where its own points do not count, and how many it has.
        index: all obstacles.
    """
    a, b, c = corners
    twice = cross(points, a, b, c)
    if abs(twice) <= 1:
        return True  # no other lattice point is in it; and what was straight and met nothing is so still
    a_col, a_row, b_col, b_row = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
    c_col, c_row = points[c, 0], points[c, 1]
    sign = 1 if twice > 0 else -1
    arc, low, high, count = own
    for row in range(min(a_row, b_row, c_row), max(a_row, b_row, c_row) + 1):
        if not 0 <= row - index.row < len(index.offsets) - 1:
            continue
        at, stop = index.offsets[row - index.row], index.offsets[row - index.row + 1]
        first, last = _span(a_col, a_row, b_col, b_row, c_col, c_row, row)
        at += np.searchsorted(index.col[at:stop], first)
        while at < stop and index.col[at] <= last:
            col = index.col[at]
            mine = index.arc[at] == arc and 0 <= (index.rank[at] - low) % count <= (high - low) % count
            corner = (col == a_col and row == a_row) or (col == b_col and row == b_row)
            corner = corner or (col == c_col and row == c_row)
            if not mine and not corner:
                ab = (b_col - a_col) * (row - a_row) - (b_row - a_row) * (col - a_col)
                bc = (c_col - b_col) * (row - b_row) - (c_row - b_row) * (col - b_col)
                ca = (a_col - c_col) * (row - c_row) - (a_row - c_row) * (col - c_col)
                if sign * ab >= 0 and sign * bc >= 0 and sign * ca >= 0:
                    return False
            at += 1
    return True


@INNER
def _span(
    a_col: int, a_row: int, b_col: int, b_row: int, c_col: int, c_row: int, row: int
) -> tuple[int, int]:
    """First and last column that the triangle abc may reach in a row."""
    first, last = max(a_col, b_col, c_col), min(a_col, b_col, c_col)
    for col, at, to_col, to in (
        (a_col, a_row, b_col, b_row),
        (b_col, b_row, c_col, c_row),
        (c_col, c_row, a_col, a_row),
    ):
        if min(at, to) <= row <= max(at, to):
            if at == to:
                first, last = min(first, col, to_col), max(last, col, to_col)
            else:
                where = col + (row - at) * (to_col - col) // (to - at)
                first, last = min(first, where), max(last, where + 1)
    return first, last
