"""Which regions of a labelled tile lie side by side, and how long their borders are.

Borders are counted along the unit edges between pixels, so only neighbours above, below, left and right have
one. For 8-connected regions those that meet at a corner alone are listed too, with a border of length 0:
were they of one class, they would be one region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjacency:
    """The neighbours of some regions; region i has label i + 1."""

    offsets: NDArray[np.int64]
    """Shape (regions + 1,): the neighbours of region i are entries offsets[i] up to offsets[i + 1]."""
    neighbour: NDArray[np.int32]
    """Region next to it, each once, in the order met when the tile is read row by row."""
    border: NDArray[np.int64]
    """Weighted length of their common border; 0 where they meet at corners only."""


def find_adjacency(
    labels: NDArray[np.int32],
    *,
    wanted: NDArray[np.bool_],
    weights: tuple[int, int] = (1, 1),
    connectivity: int = 4,
) -> Adjacency:
    """The neighbours of the regions that are wanted; others have none listed.

    What is asked for is what costs memory: a sea with a million islands need not list them, though every
    island lists the sea.

    Args:
        labels: 0 where there is no region, else 1..n.
        wanted: which regions, shape (n,).
        weights: what a horizontal unit edge counts, between two pixels one above the other, and a vertical
            one, between two side by side.
        connectivity: 8 lists regions that meet at corners too.
    """
    count = len(wanted)
    along, upright = weights
    corners = connectivity == 8  # noqa: PLR2004 - the word itself
    last, cursor = np.full(count, -1, np.int32), np.zeros(count, np.int64)
    none = np.empty(0, np.int32)
    _sweep(labels, wanted, last, cursor, none, np.empty(0, np.int64), along, upright, corners)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(cursor)])
    neighbour, border = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int64)
    if len(neighbour):
        last[:] = -1
        _sweep(labels, wanted, last, offsets[:-1].copy(), neighbour, border, along, upright, corners)
    offsets = _distinct(offsets, neighbour, border)
    stop = offsets[-1]
    return Adjacency(offsets=offsets, neighbour=neighbour[:stop].copy(), border=border[:stop].copy())


@numba.njit(cache=True, nogil=True)
def _sweep(
    labels: NDArray[np.int32],
    wanted: NDArray[np.bool_],
    last: NDArray[np.int32],
    cursor: NDArray[np.int64],
    neighbour: NDArray[np.int32],
    border: NDArray[np.int64],
    along: int,
    upright: int,
    corners: bool,  # noqa: FBT001 - numba passes by place
) -> None:
    """Offers every pair of unlike pixels to `_note`, row by row.

    With empty lists entries are only counted; the same pairs in the same order then fill them.
    """
    height, width = labels.shape
    for r in range(height):
        for c in range(width):
            here = labels[r, c]
            if c + 1 < width and labels[r, c + 1] != here:
                _note(here, labels[r, c + 1], upright, wanted, last, cursor, neighbour, border)
            if r + 1 == height:
                continue
            if labels[r + 1, c] != here:
                _note(here, labels[r + 1, c], along, wanted, last, cursor, neighbour, border)
            if corners and c + 1 < width:
                beside, below = labels[r, c + 1], labels[r + 1, c]
                if labels[r + 1, c + 1] != here:
                    _note(here, labels[r + 1, c + 1], 0, wanted, last, cursor, neighbour, border)
                if below != beside:
                    _note(beside, below, 0, wanted, last, cursor, neighbour, border)


@numba.njit(cache=True, nogil=True)
def _note(
    one: int,
    other: int,
    length: int,
    wanted: NDArray[np.bool_],
    last: NDArray[np.int32],
    cursor: NDArray[np.int64],
    neighbour: NDArray[np.int32],
    border: NDArray[np.int64],
) -> None:
    """Enters a border in the lists of both labels; a neighbour met twice in a row widens its entry."""
    if one == 0 or other == 0:
        return
    for turn in range(2):
        a, b = (one - 1, other - 1) if turn == 0 else (other - 1, one - 1)
        if not wanted[a]:
            continue
        fresh = last[a] != b
        if len(neighbour):
            if fresh:
                neighbour[cursor[a]] = b
                border[cursor[a]] = length
            else:
                border[cursor[a] - 1] += length
        if fresh:
            last[a] = b
            cursor[a] += 1


@numba.njit(cache=True, nogil=True)
def _distinct(
    offsets: NDArray[np.int64], neighbour: NDArray[np.int32], border: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Moves entries together, in place, so that each neighbour is listed once; returns the new offsets."""
    count = len(offsets) - 1
    closed = np.zeros_like(offsets)
    slot = np.full(count, -1, np.int64)
    at = 0
    for a in range(count):
        first = at
        for entry in range(offsets[a], offsets[a + 1]):
            b = neighbour[entry]
            if slot[b] >= first:
                border[slot[b]] += border[entry]
                continue
            slot[b] = at
            neighbour[at] = b
            border[at] = border[entry]
            at += 1
        closed[a + 1] = at
    return closed
