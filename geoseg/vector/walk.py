"""Rings of labelled pixels: walked along their borders, straight into arrays.

Compiled loops; only what needs them imports this module, and inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from geoseg.regions import OUTSIDE, UNKNOWN
from geoseg.vector.rings import Rings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KERNEL = njit(cache=True, nogil=True)

# Ways go down, right, up, left: 0 to 3, a left turn is the next one. What is known of a lattice point is a
# byte: bits 0 to 3 say whether there is a border that way, and the others
_SEEN, _POINT, _FIXED = 16, 32, 64
# that the border down has been walked; that a ring has a vertex there even where it goes straight on; and
# that such a vertex, or any other, is fixed.
_WAYS = 15
_STEP_COL = np.array([0, 1, 0, -1])
_STEP_ROW = np.array([1, 0, -1, 0])
# The pixel ahead to the right of one who comes to a lattice point, in a framed array.
_RIGHT_COL = np.array([0, 1, 1, 0])
_RIGHT_ROW = np.array([1, 1, 0, 0])


def trace_rings(
    framed: NDArray[np.int32], *, origin: tuple[int, int], keep_outline: bool
) -> tuple[Rings, NDArray[np.int64]]:
    """All rings around the pixels of each label, its pixels on the left, and whose ring each is.

    A vertex is where a ring turns, where at least three borders meet (a node), and every lattice point
    beside another tile. It is fixed at nodes and on the scene's border, but never beside another tile.
    Where only the corners of two pixels of one label meet, the ring goes on around the other pixel: so no
    ring meets itself, and a hole may touch its outer ring in a point.

    Args:
        framed: labels 1.. in the order of their first pixels, each of one 4-connected piece, and 0 where
            there is no region; the frame holds OUTSIDE and UNKNOWN.
        origin: row and column in the scene of the tile's first pixel.
        keep_outline: whether vertices beside label 0 are fixed too.

    Returns:
        rings, not closed, in the order of the topmost, leftmost pixel on their left; and the label of each.
    """
    edges, down = _count_borders(framed)
    survey = np.empty((framed.shape[0] - 1, framed.shape[1] - 1), np.uint8)
    # As many as there can be: what is not used never becomes memory.
    coords, fixed = np.empty((edges + 1, 2), np.int32), np.empty(edges + 1, np.bool_)
    offsets, first, label = (np.empty(n, np.int64) for n in (down + 1, down, down))
    hole = np.empty(down, np.bool_)
    _survey(framed, keep_outline, survey)
    count = _walk_all(framed, survey, origin, coords, fixed, offsets, first, hole, label)
    points = offsets[count]
    rings = Rings(
        coords=coords[:points],
        fixed=fixed[:points],
        offsets=offsets[: count + 1],
        first=first[:count],
        hole=hole[:count],
        closed=False,
    )
    return rings, label[:count]


def _leftmost_ways() -> NDArray[np.int64]:
    """Shape (16, 4): by the borders at a point and the way one came, the leftmost way that is a border."""
    onward = np.zeros((16, 4), np.int64)
    for borders in range(16):
        for way in range(4):
            turns = [t for t in ((way + 1) % 4, way, (way + 3) % 4) if borders >> t & 1]
            onward[borders, way] = turns[0] if turns else way
    return onward


_ONWARD = _leftmost_ways()


@_KERNEL
def _count_borders(framed: NDArray[np.int32]) -> tuple[int, int]:
    """How many unit edges the rings of all labels have together, and how many of these run down."""
    down = across = 0
    for row in range(1, framed.shape[0] - 1):
        for col in range(1, framed.shape[1] - 1):
            label = framed[row, col]
            if label > 0:
                down += label != framed[row, col - 1]
                across += label != framed[row - 1, col]
    return 2 * (down + across), down


@_KERNEL
def _survey(
    framed: NDArray[np.int32],
    keep_outline: bool,  # noqa: FBT001  numba takes no keyword-only arguments
    points: NDArray[np.uint8],
) -> None:
    """Writes what is known of each lattice point; shape (height + 1, width + 1)."""
    for row in range(points.shape[0]):
        for col in range(points.shape[1]):
            nw, ne = framed[row, col], framed[row, col + 1]
            sw, se = framed[row + 1, col], framed[row + 1, col + 1]
            down, right, up, left = sw != se, ne != se, nw != ne, nw != sw
            node = down + right + up + left > 2  # noqa: PLR2004
            lowest = min(nw, ne, sw, se)
            kept = node | (lowest == OUTSIDE) | (keep_outline & (lowest == 0))
            seam = lowest == UNKNOWN
            known = down | right << 1 | up << 2 | left << 3
            points[row, col] = known | (node | seam) * _POINT | (kept & (not seam)) * _FIXED


@_KERNEL
def _walk_all(
    framed: NDArray[np.int32],
    survey: NDArray[np.uint8],
    origin: tuple[int, int],
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    first: NDArray[np.int64],
    hole: NDArray[np.bool_],
    labels: NDArray[np.int64],
) -> int:
    """Writes all rings; returns how many there are. The arguments are as in `trace_rings`."""
    width = survey.shape[1]
    known = survey.ravel()
    offsets[0] = points = rings = labelled = 0
    for start in range(known.size):
        if known[start] & (_SEEN | 1) != 1:
            continue
        row, col = start // width, start % width
        label = framed[row + 1, col + 1]
        if label <= 0:
            continue
        first[rings] = points
        if known[start] & 3 == 3 and known[start + width + 1] & 12 == 12:  # noqa: PLR2004
            points = _square(known, width, start, 1, coords, fixed, points)
        elif (
            known[start - 1] & 3 == 3  # noqa: PLR2004
            and known[start + width] & 12 == 12  # noqa: PLR2004
            and framed[row, col] == framed[row + 2, col] == framed[row + 1, col - 1] == label
        ):
            known[start] |= _SEEN
            points = _square(known, width, start - 1, 0, coords, fixed, points)
        else:
            first[rings], points = _walk(framed, known, width, start, coords, fixed, points)
        # Labels go by first pixels, so that the outer ring of each comes before all others of its label.
        hole[rings], labels[rings] = label <= labelled, label
        labelled = max(labelled, label)
        rings += 1
        offsets[rings] = points
    for i in range(points):
        coords[i, 0] += origin[1]
        coords[i, 1] += origin[0]
    return rings


@_KERNEL
def _square(
    known: NDArray[np.uint8],
    width: int,
    start: int,
    first_way: int,
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    points: int,
) -> int:
    """Writes the ring of a single pixel: of a region, or the other way round, of a hole.

    Most rings of a noisy map are such, and these take no way to be found.
    """
    row, col = start // width, start % width
    for corner in range(4):
        # by row and column from the first: 00, 10, 11, 01, or for a hole 00, 01, 11, 10
        ahead, aside = corner in (1, 2), corner in (2, 3)
        down, right = (ahead, aside) if first_way else (aside, ahead)
        coords[points + corner, 0], coords[points + corner, 1] = col + right, row + down
        fixed[points + corner] = known[start + right + down * width] & _FIXED != 0
    return points + 4


@_KERNEL
def _walk(
    framed: NDArray[np.int32],
    known: NDArray[np.uint8],
    width: int,
    start: int,
    coords: NDArray[np.int32],
    fixed: NDArray[np.bool_],
    points: int,
) -> tuple[int, int]:
    """Writes the ring that goes down at a lattice point; its lowest vertex, and the vertices so far."""
    row, col = start // width, start % width
    label = framed[row + 1, col + 1]
    at, way = start, 0
    lowest, low_row, low_col = points, row, col + 1
    while True:
        if way == 0:
            known[at] |= _SEEN
        at += _STEP_ROW[way] * width + _STEP_COL[way]
        row += _STEP_ROW[way]
        col += _STEP_COL[way]
        here = known[at]
        onward = _ONWARD[here & _WAYS, way]
        if here & _WAYS == _WAYS and framed[row + _RIGHT_ROW[way], col + _RIGHT_COL[way]] == label:
            onward = (way + 3) & 3
        coords[points, 0], coords[points, 1] = col, row
        fixed[points] = here & _FIXED != 0
        if onward != way or here & _POINT:
            if col < low_col or (col == low_col and row < low_row):
                lowest, low_row, low_col = points, row, col
            points += 1
        way = onward
        if at == start and way == 0:
            return lowest, points
