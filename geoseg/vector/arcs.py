"""Compiled: borders between two nodes, each simplified by itself, and yet none ever meets another.

The vertices of a simplified line lie on the original one (the smoothed one, if lines are smoothed first). A
step takes a vertex b between a and c out, or puts one in. It is done only if

1. the original vertices between a and c are all within the tolerance of the segment ac, of the segments that
   are new otherwise;
2. the triangle abc, its sides included, holds no vertex of any original line, and no point where this line
   may have one, save its corners and what is on this line from a to c;
3. enough of the arc is left (see `_fewest`).

*Lines stay apart.* Say they are, and a step is done. What meets the new side of the triangle now, and is not
that very side, which 3 excludes, has come in through it, as it does not cross the others. So it ends in the
triangle, which 2 excludes. One line after the other could be simplified like this, the others being original
or done: vertices of done lines lie on original ones, and an original line that has no vertex in a triangle
does not enter it. As 2 speaks of original lines only, it does not matter which are done: no order, no tiling
and no number of workers shows in the result.

*Pixels keep their class.* One that changes sides lies between the original line from a to c and the segment
ac. All vertices of that line are within the tolerance of the segment, so everything between them is, too; and
going straight away from the segment one meets the line before the tolerance is used up.

*Obstacles.* Points inside straight pieces of other original lines may be among them or not: they are in a
triangle only with a vertex. All that can matter are within two tolerances of the original line: as 1 is asked
first, the third corner of a triangle is within one of its longest new side, and so is that of the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geoseg.vector.obstacles import Index, cross, is_free
from geoseg.vector.runs import CLOSED, INNER, KERNEL, Line, Runs, draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 4
_NEGLIGIBLE = 1e-9
_LONG = 8
"""Half pixels from end to end from which on an arc is a line rather than a side of something small."""


class Work(NamedTuple):
    """Room to simplify one arc."""

    before: NDArray[np.int64]
    """The vertex before each that is left."""
    behind: NDArray[np.int64]
    """The vertex after it; -1 where no vertex is left."""
    cost: NDArray[np.float64]
    """By how much the squared deviation grows if it goes; -1 when it was found that it cannot go now."""
    heap_cost: NDArray[np.float64]
    """Costs in the heap,"""
    heap_at: NDArray[np.int64]
    """and the vertices they belong to."""
    heaped: NDArray[np.int64]
    """Shape (1,): how many these are."""
    sums: NDArray[np.int64]
    """Integrals along the line up to each point, times 6: of 1, x, y, x * x, x * y and y * y."""


@KERNEL
def simplify_arcs(
    coords: NDArray[np.int32],
    runs: Runs,
    leader: NDArray[np.int64],
    index: Index,
    line: Line,
    tolerance: tuple[float, float],
    smooth: bool,  # noqa: FBT001
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """What is left of each arc between its ends, or all around, in the arc's direction; and offsets.

    Args:
        coords: points of the rings.
        runs: of the rings.
        leader: a run of each arc.
        index: all obstacles.
        line: room for the longest.
        tolerance: along columns and rows, in half pixels; zeros take out only what is in straight lines.
        smooth: whether lines go through midpoints first.
    """
    room, total = len(line.points), 0
    for run in leader:
        total += 2 * runs.edges[run]
    before, behind, cost = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.float64)
    heap_cost, heap_at = np.empty(3 * room + 1, np.float64), np.empty(3 * room + 1, np.int64)
    heaped, sums = np.zeros(1, np.int64), np.zeros((room + 1, 6), np.int64)
    work = Work(before, behind, cost, heap_cost, heap_at, heaped, sums)
    kept, offsets = np.empty((total, 2), np.int32), np.zeros(len(leader) + 1, np.int64)
    at = 0
    for arc in range(len(leader)):
        run = leader[arc]
        closed = runs.kind[run] & CLOSED != 0
        count = draw(coords, runs, run, smooth, line)
        left = _straighten(line.points, count, closed, work)
        if tolerance[0] > 0 and left > 0:
            whole = Arc(arc, count, runs.edges[run], closed)
            left = _simplify(line, whole, index, tolerance, work, left)
        i = 0 if closed else behind[0]
        while behind[i] < 0:
            i += 1
        for _ in range(left):
            kept[at, 0], kept[at, 1] = line.points[i, 0], line.points[i, 1]
            at += 1
            i = behind[i]
        offsets[arc + 1] = at
    return kept[:at].copy(), offsets


class Arc(NamedTuple):
    """Which arc is in `Line`."""

    number: int
    """In the index."""
    size: int
    """Number of its points."""
    turns: int
    """Number of its original vertices, the last end not counted."""
    closed: bool
    """Whether it is a whole ring."""


@INNER
def _straighten(points: NDArray[np.int64], count: int, closed: bool, work: Work) -> int:  # noqa: FBT001
    """Links the vertices where an arc turns; returns how many there are, ends not counted."""
    work.behind[:count] = -1
    start, left = 0, 0
    if closed:
        while cross(points, (start - 1) % count, start, (start + 1) % count) == 0:
            start += 1
        left = 1
    last = start
    for i in range(start + 1, count - (0 if closed else 1)):
        if cross(points, last, i, i + 1 if i + 1 < count else 0) != 0:
            work.behind[last], work.before[i] = i, last
            last = i
            left += 1
    end = start if closed else count - 1
    work.behind[last], work.before[end] = end, last
    return left


@INNER
def _fewest(points: NDArray[np.int64], arc: Arc) -> int:
    """How many vertices a bent arc keeps between its ends, or all around.

    A bare segment is allowed for at most one of all arcs between the same two ends, lest they fall together.
    That needs no look at the others. Take two arcs with nothing between them, and the area of each against
    the segment: put one on the segment, and the area of the other has a known sign, as it lies on one side
    now; put the other there, and the area of the first has the opposite sign. So only arcs whose area is not
    negative may. The segment itself is an original line only if it is along a row or column.
    """
    end = arc.size - 1
    if arc.closed:
        return 4
    cols, rows = points[end, 0] - points[0, 0], points[end, 1] - points[0, 1]
    if cols == 0 and rows == 0:
        return 3
    if cols == 0 or rows == 0:
        return 1
    area = 0
    for i in range(1, end):
        area += cross(points, 0, i, i + 1)
    return 0 if area >= 0 else 1


@INNER
def _simplify(
    line: Line, arc: Arc, index: Index, tolerance: tuple[float, float], work: Work, left: int
) -> int:
    """Takes vertices out, and moves those that are left along the line; returns how many are left."""
    fewest = _fewest(line.points, arc)
    if left > fewest:
        _sum_up(line.points, arc, work.sums)
    for _ in range(_ROUNDS):
        if left <= fewest:
            break
        before = left
        left = _thin(line, arc, index, tolerance, work, left, fewest)
        if left == before or not _shift(line, arc, index, tolerance, work):
            break
    if left == fewest == 1 and not arc.closed:
        _flatten(line, arc, index, tolerance, work)
    return left


@INNER
def _sum_up(points: NDArray[np.int64], arc: Arc, sums: NDArray[np.int64]) -> None:
    """Fills in the integrals; columns and rows are counted from the first point."""
    for i in range(arc.size - (0 if arc.closed else 1)):
        following = i + 1 if i + 1 < arc.size else 0
        x, y = points[i, 0] - points[0, 0], points[i, 1] - points[0, 1]
        to_x, to_y = points[following, 0] - points[0, 0], points[following, 1] - points[0, 1]
        length = abs(to_x - x) + abs(to_y - y)
        sums[i + 1, 0] = sums[i, 0] + 6 * length
        sums[i + 1, 1] = sums[i, 1] + 3 * length * (x + to_x)
        sums[i + 1, 2] = sums[i, 2] + 3 * length * (y + to_y)
        sums[i + 1, 3] = sums[i, 3] + 2 * length * (x * x + x * to_x + to_x * to_x)
        sums[i + 1, 4] = sums[i, 4] + length * (2 * x * y + x * to_y + to_x * y + 2 * to_x * to_y)
        sums[i + 1, 5] = sums[i, 5] + 2 * length * (y * y + y * to_y + to_y * to_y)


@INNER
def _deviation(line: Line, arc: Arc, tolerance: tuple[float, float], work: Work, a: int, c: int) -> float:
    """Squared distance, in tolerances, of the line between a and c from the straight one, integrated."""
    points, sums = line.points, work.sums
    x, y = points[a, 0] - points[0, 0], points[a, 1] - points[0, 1]
    cols, rows = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1]
    turn = arc.size if c < a else 0
    one = sums[c, 0] - sums[a, 0] + sums[turn, 0]
    to_x = sums[c, 1] - sums[a, 1] + sums[turn, 1] - x * one
    to_y = sums[c, 2] - sums[a, 2] + sums[turn, 2] - y * one
    xx = sums[c, 3] - sums[a, 3] + sums[turn, 3] - x * (2 * to_x + x * one)
    xy = sums[c, 4] - sums[a, 4] + sums[turn, 4] - x * to_y - y * (to_x + x * one)
    yy = sums[c, 5] - sums[a, 5] + sums[turn, 5] - y * (2 * to_y + y * one)
    squared = float(rows * rows) * xx - 2.0 * float(cols * rows) * xy + float(cols * cols) * yy
    along, down, area = cols / tolerance[0], rows / tolerance[1], tolerance[0] * tolerance[1]
    return float(max(0.0, squared / (6.0 * area * area * (along * along + down * down))))


@INNER
def _price(line: Line, arc: Arc, tolerance: tuple[float, float], work: Work, b: int) -> float:
    """What taking b out costs."""
    a, c = work.before[b], work.behind[b]
    return max(
        0.0,
        _deviation(line, arc, tolerance, work, a, c)
        - _deviation(line, arc, tolerance, work, a, b)
        - _deviation(line, arc, tolerance, work, b, c),
    )


@INNER
def _thin(
    line: Line,
    arc: Arc,
    index: Index,
    tolerance: tuple[float, float],
    work: Work,
    left: int,
    fewest: int,
) -> int:
    """Takes vertices out, the cheapest first, while that is allowed; returns how many are left."""
    work.heaped[0] = 0
    inner = 0 if arc.closed else 1
    for i in range(inner, arc.size - inner):
        if work.behind[i] >= 0:
            work.cost[i] = _price(line, arc, tolerance, work, i)
            _push(work, work.cost[i], i)
    while work.heaped[0] and left > fewest:
        cost, b = work.heap_cost[0], work.heap_at[0]
        _drop(work)
        if work.behind[b] < 0 or work.cost[b] != cost:
            continue
        a, c = work.before[b], work.behind[b]
        own = (arc.number, a, c, arc.size)
        if not _is_within(line, arc, tolerance, a, c) or not is_free(line.points, (a, b, c), own, index):
            work.cost[b] = -1
            continue
        work.behind[a], work.before[c], work.behind[b] = c, a, -1
        left -= 1
        for i in (a, c):
            if inner <= i < arc.size - inner:
                work.cost[i] = _price(line, arc, tolerance, work, i)
                _push(work, work.cost[i], i)
    return left


@INNER
def _shift(line: Line, arc: Arc, index: Index, tolerance: tuple[float, float], work: Work) -> bool:
    """Moves vertices along the line to where it deviates least; whether any was moved."""
    moved = False
    inner = 0 if arc.closed else 1
    b = inner
    while b < arc.size - inner:
        if work.behind[b] < 0:
            b += 1
            continue
        a, c = work.before[b], work.behind[b]
        least = _deviation(line, arc, tolerance, work, a, b) + _deviation(line, arc, tolerance, work, b, c)
        best, least = b, least - _NEGLIGIBLE
        for k in range(1, (c - a) % arc.size):
            i = (a + k) % arc.size
            if i == b:
                continue
            deviation = _deviation(line, arc, tolerance, work, a, i) + _deviation(
                line, arc, tolerance, work, i, c
            )
            if deviation < least:
                best, least = i, deviation
        following = b + 1
        if best != b and _may_shift(line, arc, index, tolerance, a, b, c, best):
            work.behind[b] = -1
            work.behind[a], work.before[best], work.behind[best], work.before[c] = best, a, c, best
            moved = True
            following = max(following, best + 1)
        b = following
    return moved


@INNER
def _flatten(line: Line, arc: Arc, index: Index, tolerance: tuple[float, float], work: Work) -> None:
    """Moves the one vertex that must stay to where it shows least, if a bare segment would do.

    Where the line deviates least it would make a hook at one of the ends. But what bulges, or is short, may
    be all of a small region's outline on that side.
    """
    points, b = line.points, work.behind[0]
    start, end = work.before[b], work.behind[b]
    cols, rows = abs(points[end, 0] - points[start, 0]), abs(points[end, 1] - points[start, 1])
    area = 0
    for i in range(1, end):
        area += cross(points, start, i, i + 1)
    if max(cols, rows) < _LONG or abs(area) > cols + rows or not _is_within(line, arc, tolerance, start, end):
        return
    for i in range(1, end):
        nearer = abs(cross(points, start, i, end)) < abs(cross(points, start, b, end))
        if nearer and _may_shift(line, arc, index, tolerance, start, b, end, i):
            work.behind[start], work.before[i], work.behind[i], work.before[end] = i, start, end, i
            work.behind[b] = -1
            b = i


@INNER
def _may_shift(
    line: Line, arc: Arc, index: Index, tolerance: tuple[float, float], a: int, b: int, c: int, to: int
) -> bool:
    """Whether the line a, b, c may become a, to, c: first `to` comes in between, then b goes."""
    if not (_is_within(line, arc, tolerance, a, to) and _is_within(line, arc, tolerance, to, c)):
        return False
    own = (arc.number, a, c, arc.size)
    if (to - a) % arc.size < (b - a) % arc.size:
        return is_free(line.points, (a, to, b), own, index) and is_free(line.points, (to, b, c), own, index)
    return is_free(line.points, (b, to, c), own, index) and is_free(line.points, (a, b, to), own, index)


@INNER
def _push(work: Work, cost: float, vertex: int) -> None:
    """Adds to the heap, by cost and then along the arc."""
    costs, vertices = work.heap_cost, work.heap_at
    at = work.heaped[0]
    work.heaped[0] += 1
    while at:
        up = (at - 1) // 2
        if costs[up] < cost or (costs[up] == cost and vertices[up] <= vertex):
            break
        costs[at], vertices[at] = costs[up], vertices[up]
        at = up
    costs[at], vertices[at] = cost, vertex


@INNER
def _drop(work: Work) -> None:
    """Takes the first off the heap."""
    costs, vertices = work.heap_cost, work.heap_at
    work.heaped[0] -= 1
    size = work.heaped[0]
    cost, vertex = costs[size], vertices[size]
    at = 0
    while 2 * at + 1 < size:
        down, right = 2 * at + 1, 2 * at + 2
        if right < size and (
            costs[right] < costs[down] or (costs[right] == costs[down] and vertices[right] < vertices[down])
        ):
            down = right
        if cost < costs[down] or (cost == costs[down] and vertex <= vertices[down]):
            break
        costs[at], vertices[at] = costs[down], vertices[down]
        at = down
    costs[at], vertices[at] = cost, vertex


@INNER
def _is_within(line: Line, arc: Arc, tolerance: tuple[float, float], a: int, c: int) -> bool:
    """Whether the original vertices between a and c are within the tolerance of the segment ac."""
    points = line.points
    a_col, a_row = points[a, 0], points[a, 1]
    c_col, c_row = points[c, 0], points[c, 1]
    along, down = (c_col - a_col) / tolerance[0], (c_row - a_row) / tolerance[1]
    length2 = along * along + down * down
    for k in range(line.after[a], line.after[c] + (arc.turns if c < a else 0)):
        turn = k if k < arc.turns else k - arc.turns
        col, row = (line.turns[turn, 0] - a_col) / tolerance[0], (line.turns[turn, 1] - a_row) / tolerance[1]
        dot = col * along + row * down
        if 0 < dot < length2:
            aside = col * down - row * along
            if aside * aside > length2:
                return False
            continue
        if dot > 0:
            col, row = col - along, row - down
        if col * col + row * row > 1:
            return False
    return True
