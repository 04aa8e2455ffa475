"""Compiled: lengths and areas of outlines, side by side, in one pass over their points."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def measure_regions(
    coords: NDArray[np.int32],
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    region_offsets: NDArray[np.int64],
    scale: int,
    along: NDArray[np.float64],
    down: NDArray[np.float64],
    cosine: NDArray[np.float64],
    step_rows: int,
    step_cols: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres around each region, holes included, and pixels within: (regions,) each.

    `coords` are columns and rows in units of 1/scale pixels, rings closed; `along`, `down` and `cosine` are
    a ruler's. Holes run the other way round than the outer rings, so signed areas add up.
    """
    regions = len(region_offsets) - 1
    lengths, areas = np.zeros(regions), np.zeros(regions)
    per_row, per_col = 1.0 / (step_rows * scale), 1.0 / (step_cols * scale)
    for region in range(regions):
        length, twice = 0.0, np.int64(0)
        first, last = polygon_offsets[region_offsets[region]], polygon_offsets[region_offsets[region + 1]]
        for ring in range(first, last):
            line = coords[ring_offsets[ring] : ring_offsets[ring + 1]]
            twice += _twice_the_area(line)
            length += _length(line, along, down, cosine, per_row, per_col)
        lengths[region], areas[region] = length / scale, abs(twice) / (2.0 * scale * scale)
    return lengths, areas


@numba.njit(cache=True, nogil=True)
def _twice_the_area(line: NDArray[np.int32]) -> np.int64:
    total = np.int64(0)
    for i in range(len(line) - 1):
        total += np.int64(line[i, 0]) * line[i + 1, 1] - np.int64(line[i + 1, 0]) * line[i, 1]
    return total


@numba.njit(cache=True, nogil=True)
def _length(
    line: NDArray[np.int32],
    along: NDArray[np.float64],
    down: NDArray[np.float64],
    cosine: NDArray[np.float64],
    per_row: float,
    per_col: float,
) -> float:
    """Metres of a line, times units per pixel; `per_row` and `per_col` are steps of the lattice per unit.

    Most sides are along rows or columns: what is interpolated for them is linear in their sums (of lengths,
    and of lengths times places), which cost less than to interpolate for each.
    """
    total, row, col = 0.0, 0, 0
    across, upright = (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)
    for i in range(len(line) - 1):
        x, y = float(line[i, 0]), float(line[i, 1])
        dx, dy = line[i + 1, 0] - x, line[i + 1, 1] - y
        if (dx != 0 and dy != 0) or abs(dx) * per_col > 1 or abs(dy) * per_row > 1:
            total += _side(x, y, dx, dy, along, down, cosine, per_row, per_col)
            continue
        u, v = (x + dx / 2) * per_col, (y + dy / 2) * per_row
        here_col, here_row = _cell(u, along.shape[1]), _cell(v, along.shape[0])
        if here_col != col or here_row != row:
            total += _sum(along, row, col, across) + _sum(down, row, col, upright)
            across, upright, row, col = (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), here_row, here_col
        u, v = u - col, v - row
        across = _added(across, abs(dx), u, v)
        upright = _added(upright, abs(dy), u, v)
    return total + _sum(along, row, col, across) + _sum(down, row, col, upright)


@numba.njit(cache=True, nogil=True)
def _added(
    sums: tuple[float, float, float, float], length: float, u: float, v: float
) -> tuple[float, float, float, float]:
    return sums[0] + length, sums[1] + length * u, sums[2] + length * v, sums[3] + length * u * v


@numba.njit(cache=True, nogil=True)
def _sum(nodes: NDArray[np.float64], row: int, col: int, sums: tuple[float, float, float, float]) -> float:
    """Metres of all sides that were added, between the four nodes from (row, col) on."""
    corner, right = nodes[row, col], nodes[row, col + 1]
    below, across = nodes[row + 1, col], nodes[row + 1, col + 1]
    return (  # type: ignore[no-any-return]
        corner * sums[0]
        + (right - corner) * sums[1]
        + (below - corner) * sums[2]
        + (corner - right - below + across) * sums[3]
    )


@numba.njit(cache=True, nogil=True)
def _cell(place: float, nodes: int) -> int:
    """The node before a place, such that there is one after it, too."""
    return min(max(int(place), 0), nodes - 2)


@numba.njit(cache=True, nogil=True)
def _side(
    x: float,
    y: float,
    dx: float,
    dy: float,
    along: NDArray[np.float64],
    down: NDArray[np.float64],
    cosine: NDArray[np.float64],
    per_row: float,
    per_col: float,
) -> float:
    """Metres from (x, y) on by (dx, dy), times units per pixel; of long ones in pieces, in the middle."""
    pieces = 1 + int(max(abs(dx) * per_col, abs(dy) * per_row))
    dx, dy = dx / pieces, dy / pieces
    total = 0.0
    for piece in range(pieces):
        u, v = (x + (piece + 0.5) * dx) * per_col, (y + (piece + 0.5) * dy) * per_row
        row, col = _cell(v, along.shape[0]), _cell(u, along.shape[1])
        wide = _between(along, row, col, v - row, u - col) * dx
        high = _between(down, row, col, v - row, u - col) * dy
        square = wide * wide + high * high + 2 * _between(cosine, row, col, v - row, u - col) * wide * high
        total += 0.0 if square < 0 else sqrt(square)  # NaN stays NaN
    return total


@numba.njit(cache=True, nogil=True)
def _between(nodes: NDArray[np.float64], row: int, col: int, v: float, u: float) -> float:
    """The value at (v, u) between the four nodes from (row, col) on, each from 0 to 1."""
    above = nodes[row, col] * (1 - u) + nodes[row, col + 1] * u
    below = nodes[row + 1, col] * (1 - u) + nodes[row + 1, col + 1] * u
    return above * (1 - v) + below * v  # type: ignore[no-any-return]
