"""Compiled: rings cut at their fixed vertices, and what the two regions beside a border have in common.

A *run* is what a ring has between two fixed vertices, or a whole ring without any. The regions on both sides
of a border have it as a run, in opposite directions; the *arc* is the one line they share, in one direction:
from its lower end (by column, then row). Coordinates are in half pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CLOSED, REVERSED, RAW = 1, 2, 4
"""Kinds of runs: a whole ring; against its arc's direction; left alone because it touches a seam line."""

Loop = TypeVar("Loop", bound="Callable[..., Any]")
KERNEL = njit(cache=True, nogil=True)
_ANY: Any = njit  # whose type does not know all of its options
INNER: Callable[[Loop], Loop] = _ANY(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what only kernels call: a third of the time to compile goes into making functions known to Python."""


class Runs(NamedTuple):
    """Runs in the order of the rings; each array has an entry per run."""

    start: NDArray[np.int64]
    """Point it starts at."""
    edges: NDArray[np.int64]
    """Number of its edges."""
    ring: NDArray[np.int64]
    """First point of its ring."""
    size: NDArray[np.int64]
    """Number of points of its ring."""
    kind: NDArray[np.uint8]
    """Flags: a whole ring; runs against its arc; stays raw because it touches a seam line."""
    arc: NDArray[np.int64]
    """Which arc it is; -1 where there is nothing to simplify."""


class Line(NamedTuple):
    """Room for one arc, in its direction."""

    points: NDArray[np.int64]
    """Where a vertex may be, ends included: original vertices and midpoints between them; smooth: instead of
    the original vertices the midpoints of the pixel sides before and after."""
    after: NDArray[np.int64]
    """How many of the original vertices come before each point."""
    turns: NDArray[np.int64]
    """The original vertices."""


@KERNEL
def split_runs(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    seams: tuple[int, int, int, int],
) -> Runs:
    """The runs of closed rings; those that touch a seam line (top, left, bottom, right) stay raw."""
    most = 0
    for ring in range(len(offsets) - 1):
        most += max(1, fixed[offsets[ring] : offsets[ring + 1] - 1].sum())
    runs = Runs(
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.zeros(most, np.uint8),
        np.full(most, -1, np.int64),
    )
    run = 0
    for ring in range(len(offsets) - 1):
        low, size = offsets[ring], offsets[ring + 1] - offsets[ring] - 1
        at, closed = _first(coords, fixed, low, size)
        left = size
        while left > 0:
            runs.start[run], runs.ring[run], runs.size[run] = at, low, size
            raw = _on_seam(coords[at, 0], coords[at, 1], seams)
            edges = 0
            while edges == 0 or (edges < left and not fixed[at]):
                edges += 1
                at = low if at == low + size - 1 else at + 1
                raw = raw or _on_seam(coords[at, 0], coords[at, 1], seams)
            runs.edges[run] = edges
            runs.kind[run] = (CLOSED if closed else 0) | (RAW if raw else 0)
            runs.kind[run] |= REVERSED if _is_reversed(coords, runs, run) else 0
            left -= edges
            run += 1
    return runs


@INNER
def _first(coords: NDArray[np.int32], fixed: NDArray[np.bool_], low: int, size: int) -> tuple[int, bool]:
    """Where the first run of a ring starts, at a fixed vertex or else at the lowest; whether it is all."""
    lowest = low
    for i in range(low, low + size):
        if fixed[i]:
            return i, False
        if _is_lower(coords, i, lowest):
            lowest = i
    return lowest, True


@INNER
def _is_lower(coords: NDArray[np.int32], one: int, other: int) -> bool:
    """By column, then row."""
    if coords[one, 0] == coords[other, 0]:
        return bool(coords[one, 1] < coords[other, 1])
    return bool(coords[one, 0] < coords[other, 0])


@INNER
def _on_seam(col: int, row: int, seams: tuple[int, int, int, int]) -> bool:
    return row == seams[0] or col == seams[1] or row == seams[2] or col == seams[3]


@INNER
def vertex(runs: Runs, run: int, k: int) -> int:
    """The point that is vertex k of a run's arc, in the direction of the arc."""
    k = runs.edges[run] - k if runs.kind[run] & REVERSED else k
    return int(runs.ring[run] + (runs.start[run] - runs.ring[run] + k) % runs.size[run])


@INNER
def _is_reversed(coords: NDArray[np.int32], runs: Runs, run: int) -> bool:
    """Whether a run starts at the higher end of its arc; of equal ends the next vertices decide."""
    edges = runs.edges[run]
    one, other = vertex(runs, run, 0), vertex(runs, run, edges)
    if coords[one, 0] == coords[other, 0] and coords[one, 1] == coords[other, 1]:
        one, other = vertex(runs, run, 1), vertex(runs, run, edges - 1)
    return _is_lower(coords, other, one)


@KERNEL
def number_arcs(coords: NDArray[np.int32], runs: Runs) -> NDArray[np.int64]:
    """Fills in `runs.arc`; returns one run of each arc.

    No two arcs share a vertex that is not fixed, so the first such vertex tells which arc it is.
    """
    slots = 16
    while slots < 2 * len(runs.start):
        slots *= 2
    table, names = np.full(slots, -1, np.int64), np.empty(len(runs.start), np.int64)
    leader = np.empty(len(runs.start), np.int64)
    arcs = 0
    for run in range(len(runs.start)):
        closed = runs.kind[run] & CLOSED != 0
        if runs.kind[run] & RAW or (runs.edges[run] == 1 and not closed):
            continue
        name = vertex(runs, run, 0 if closed else 1)
        mixed = np.int64(coords[name, 0]) * 73856093 ^ np.int64(coords[name, 1]) * 19349663
        slot = (mixed ^ mixed >> 15) & (slots - 1)
        while table[slot] >= 0:
            other = names[table[slot]]
            if coords[other, 0] == coords[name, 0] and coords[other, 1] == coords[name, 1]:
                break
            slot = (slot + 1) & (slots - 1)
        if table[slot] < 0:
            table[slot], names[arcs], leader[arcs] = arcs, name, run
            arcs += 1
        runs.arc[run] = table[slot]
    return leader[:arcs].copy()


@KERNEL
def room_for_lines(runs: Runs) -> Line:
    """Room for the longest of all lines."""
    edges = 0
    for run in range(len(runs.start)):
        edges = max(edges, runs.edges[run])
    room = 3 * edges + 2
    return Line(np.empty((room, 2), np.int64), np.empty(room, np.int64), np.empty((edges + 1, 2), np.int64))


@INNER
def draw(coords: NDArray[np.int32], runs: Runs, run: int, smooth: bool, line: Line) -> int:  # noqa: FBT001
    """Puts a run's arc into `line`, closed ones without a last point; returns the number of its points."""
    edges = runs.edges[run]
    low, stop = runs.ring[run], runs.ring[run] + runs.size[run]
    step = -1 if runs.kind[run] & REVERSED else 1
    at = vertex(runs, run, 0)
    for k in range(edges + 1):
        line.turns[k, 0], line.turns[k, 1] = coords[at, 0], coords[at, 1]
        at += step
        at = low if at == stop else (stop - 1 if at < low else at)
    closed = runs.kind[run] & CLOSED != 0
    count = 0
    for k in range(edges):
        col, row = line.turns[k, 0], line.turns[k, 1]
        to_col, to_row = line.turns[k + 1, 0], line.turns[k + 1, 1]
        if not smooth or (k == 0 and not closed):
            line.points[count, 0], line.points[count, 1], line.after[count] = col, row, k
            count += 1
        length = max(abs(to_col - col), abs(to_row - row))
        cols, rows = (to_col - col) // length, (to_row - row) // length
        done = 0
        for half in (1 if smooth else 0, length // 2, length - 1 if smooth else 0):
            if half > done:
                line.points[count, 0], line.points[count, 1] = col + half * cols, row + half * rows
                line.after[count] = k + 1
                count += 1
                done = half
    if not closed:
        line.points[count, 0], line.points[count, 1] = line.turns[edges, 0], line.turns[edges, 1]
        line.after[count] = edges
        count += 1
    return count


@KERNEL
def collect_points(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    runs: Runs,
    leader: NDArray[np.int64],
    line: Line,
    seams: tuple[int, int, int, int],
    smooth: bool,  # noqa: FBT001
    between: bool,  # noqa: FBT001
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Points of all original lines but those on seam lines, some twice: position, arc and place along it.

    With `between` there are also the half pixels in between, whose place is -1: what is known of a line from
    elsewhere may be among them.
    """
    total = fixed.sum()
    for run in range(len(runs.start)):
        if runs.kind[run] & RAW or (runs.arc[run] >= 0 and leader[runs.arc[run]] == run):
            total += 3 * runs.edges[run] + (_length(coords, runs, run) if between else 0)
    points = np.empty((total, 2), np.int32)
    arcs, ranks = np.full(total, -1, np.int32), np.full(total, -1, np.int32)
    at = 0
    for i in range(len(coords)):
        if fixed[i] and not _on_seam(coords[i, 0], coords[i, 1], seams):
            points[at, 0], points[at, 1] = coords[i, 0], coords[i, 1]
            at += 1
    for run in range(len(runs.start)):
        arc = runs.arc[run]
        if not (runs.kind[run] & RAW or (arc >= 0 and leader[arc] == run)):
            continue
        count = draw(coords, runs, run, smooth, line)
        end = 0 if runs.kind[run] & CLOSED else 1
        for i in range(end, count - end):
            col, row = line.points[i, 0], line.points[i, 1]
            if arc >= 0 or not _on_seam(col, row, seams):
                points[at, 0], points[at, 1], arcs[at], ranks[at] = col, row, arc, i
                at += 1
        for k in range(runs.edges[run] if between else 0):
            cols, rows = line.turns[k + 1, 0] - line.turns[k, 0], line.turns[k + 1, 1] - line.turns[k, 1]
            length = max(abs(cols), abs(rows))
            for half in range(1, length):
                points[at, 0] = line.turns[k, 0] + half * cols // length
                points[at, 1] = line.turns[k, 1] + half * rows // length
                arcs[at] = arc
                at += 1
    return points[:at].copy(), arcs[:at].copy(), ranks[:at].copy()


@INNER
def _length(coords: NDArray[np.int32], runs: Runs, run: int) -> int:
    """Of a run, in half pixels."""
    low, stop, at = runs.ring[run], runs.ring[run] + runs.size[run], runs.start[run]
    length = 0
    for _ in range(runs.edges[run]):
        to = low if at + 1 == stop else at + 1
        length += abs(coords[to, 0] - coords[at, 0]) + abs(coords[to, 1] - coords[at, 1])
        at = to
    return int(length)


@KERNEL
def join_runs(
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    runs: Runs,
    kept: NDArray[np.int32],
    kept_offsets: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
    """Closed rings again, arcs replaced by what was kept of them, which is fixed from now on; and offsets."""
    total = len(runs.start)
    rings = 0
    for run in range(len(runs.start)):
        arc = runs.arc[run]
        total += runs.edges[run] if arc < 0 else kept_offsets[arc + 1] - kept_offsets[arc] + 1
        rings += run == 0 or runs.ring[run] != runs.ring[run - 1]
    points, stays = np.empty((total + rings, 2), np.int32), np.empty(total + rings, np.bool_)
    offsets = np.zeros(rings + 1, np.int64)
    at, ring = 0, 0
    for run in range(len(runs.start)):
        arc = runs.arc[run]
        low, stop, i = runs.ring[run], runs.ring[run] + runs.size[run], runs.start[run]
        for _ in range(runs.edges[run] if arc < 0 else (0 if runs.kind[run] & CLOSED else 1)):
            points[at, 0], points[at, 1], stays[at] = coords[i, 0], coords[i, 1], fixed[i]
            at += 1
            i = low if i + 1 == stop else i + 1
        if arc >= 0:
            first, count = kept_offsets[arc], kept_offsets[arc + 1] - kept_offsets[arc]
            for k in range(count):
                taken = first + (count - 1 - k if runs.kind[run] & REVERSED else k)
                points[at, 0], points[at, 1] = kept[taken, 0], kept[taken, 1]
                stays[at] = True
                at += 1
        if run + 1 == len(runs.start) or runs.ring[run + 1] != low:
            first = offsets[ring]
            points[at, 0], points[at, 1], stays[at] = points[first, 0], points[first, 1], stays[first]
            at += 1
            ring += 1
            offsets[ring] = at
    return points[:at].copy(), stays[:at].copy(), offsets
