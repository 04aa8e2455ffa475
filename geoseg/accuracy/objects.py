"""Which of the reference's objects a map has found, by their size; counted block by block.

An object is a 4-connected region of one class of the reference. It is found when at least half of its pixels
are mapped as its class. Objects that cross blocks are put together: what is kept in memory are those that
touch the part not seen yet.

    block 1 | block 2        A lies in both: its left part waits until the row of blocks below has been seen.
       A A  |  A .
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from scipy import ndimage

from geoseg.legend import IGNORE_INDEX
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geoseg.windows import Window

DEFAULT_EDGES_PX = (10, 100, 1000, 10_000)
"""Sizes at which a new group of objects begins, in pixels."""


class SizeGroup(Value):
    """Objects of one class from one size to another."""

    from_px: int = Field(description="Smallest size, in pixels")
    to_px: int | None = Field(description="Larger ones belong to the next group; None: there is none")
    from_m2: float
    to_m2: float | None
    objects: int
    found: int = Field(description="Of which at least half of the pixels are mapped as their class")
    recall: float | None = Field(description="found / objects; None where there are none")
    pixels: int = Field(description="Of all of them")
    pixel_recall: float | None = Field(description="Share of their pixels that is mapped as their class")


class ObjectScores(Value):
    """Recall of objects by class and size. What the evaluated part cuts off counts as what is left of it."""

    pixel_m2: float = Field(description="Area of a pixel, in the middle of the map")
    classes: tuple[tuple[SizeGroup, ...], ...] = Field(description="By class index, then by size")


class ObjectCounter:
    """Counts the objects of blocks that are given row by row; blocks of a row have the same height."""

    def __init__(self, classes: int, edges_px: Sequence[int] = DEFAULT_EDGES_PX) -> None:
        """`edges_px` are sizes, ascending and above 1, at which a group begins; the first begins at 1."""
        if any(b <= a for a, b in zip((1, *edges_px), edges_px, strict=False)):
            raise ValueError(f"sizes must ascend from above 1, not {tuple(edges_px)}")
        self._edges = np.array([1, *edges_px])
        shape = classes, len(self._edges)
        self._objects, self._found, self._pixels, self._hits = (np.zeros(shape, np.int64) for _ in range(4))
        self._open = _Open()
        self._row: int | None = None
        self._above: dict[int, NDArray[np.int64]] = {}
        self._below: dict[int, NDArray[np.int64]] = {}
        self._left: NDArray[np.int64] | None = None

    def add(self, window: Window, reference: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Counts in the next block: class indices, IGNORE_INDEX where nothing is known or mapped."""
        if window.row != self._row:
            self._next_row(window.row)
        labels, owner = _label(reference)
        size = np.bincount(labels.ravel(), minlength=len(owner))
        hits = np.bincount(labels[reference == predicted], minlength=len(owner))
        sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        touching = np.zeros(len(owner), bool)
        for side in sides:
            touching[side] = True
        touching[0] = False
        inner = ~touching
        inner[0] = False
        self._count(owner[inner], size[inner], hits[inner])
        numbers = np.zeros(len(owner), np.int64)  # 0: no object
        numbers[touching] = self._open.add(owner[touching], size[touching], hits[touching])
        top, bottom, left, right = (numbers[side] for side in sides)
        if window.col in self._above:
            self._open.join(self._above[window.col], top)
        if self._left is not None:
            self._open.join(self._left, left)
        self._below[window.col], self._left = bottom, right

    def finish(self, *, pixel_m2: float) -> ObjectScores:
        """The scores of all that was added; nothing can be added any more."""
        self._next_row(None)
        self._next_row(None)
        return ObjectScores(
            pixel_m2=pixel_m2,
            classes=tuple(
                tuple(self._group(index, k, pixel_m2) for k in range(len(self._edges)))
                for index in range(len(self._objects))
            ),
        )

    def _next_row(self, row: int | None) -> None:
        self._row, self._left = row, None
        self._above, self._below = self._below, {}
        self._count(*self._open.close(except_for=list(self._above.values())))

    def _count(self, owner: NDArray[np.intp], size: NDArray[np.int64], hits: NDArray[np.int64]) -> None:
        at = owner, np.searchsorted(self._edges, size, side="right") - 1
        np.add.at(self._objects, at, 1)
        np.add.at(self._found, at, 2 * hits >= size)
        np.add.at(self._pixels, at, size)
        np.add.at(self._hits, at, hits)

    def _group(self, index: int, k: int, pixel_m2: float) -> SizeGroup:
        at = index, k
        first = int(self._edges[k])
        last = int(self._edges[k + 1]) if k + 1 < len(self._edges) else None
        objects, pixels = int(self._objects[at]), int(self._pixels[at])
        return SizeGroup(
            from_px=first,
            to_px=last,
            from_m2=first * pixel_m2,
            to_m2=None if last is None else last * pixel_m2,
            objects=objects,
            found=int(self._found[at]),
            recall=int(self._found[at]) / objects if objects else None,
            pixels=pixels,
            pixel_recall=int(self._hits[at]) / pixels if pixels else None,
        )


class _Open:
    """Objects that may go on in blocks to come, by numbers from 1; those that have met are one."""

    def __init__(self) -> None:
        self._next = 1
        self._parent: dict[int, int] = {}
        self._facts: dict[int, tuple[int, int, int]] = {}

    def add(
        self, owner: NDArray[np.intp], size: NDArray[np.int64], hits: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Their numbers."""
        numbers = np.arange(self._next, self._next + len(owner))
        self._next += len(owner)
        facts = zip(owner.tolist(), size.tolist(), hits.tolist(), strict=True)
        for number, known in zip(numbers.tolist(), facts, strict=True):
            self._parent[number] = number
            self._facts[number] = known
        return numbers

    def join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Objects of one class that lie side by side, given as numbers along a common border, become one."""
        both = (one > 0) & (other > 0)
        for a, b in np.unique(np.stack([one[both], other[both]], axis=1), axis=0).tolist():
            a_root, b_root = self._root(a), self._root(b)
            index, size, hits = self._facts[a_root]
            other_index, other_size, other_hits = self._facts[b_root]
            if a_root != b_root and index == other_index:
                self._parent[b_root] = a_root
                self._facts[a_root] = index, size + other_size, hits + other_hits
                del self._facts[b_root]

    def close(
        self, *, except_for: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
        """Class, size and hits of all objects but those whose numbers are given, which are forgotten.

        The numbers given are replaced, in place, by the only ones that are still known.
        """
        for numbers in except_for:
            values, where = np.unique(numbers, return_inverse=True)
            roots = [self._root(v) if v else 0 for v in values.tolist()]
            numbers[:] = np.array(roots, np.int64)[where]
        kept = {number for numbers in except_for for number in numbers.tolist()}
        done = [facts for number, facts in self._facts.items() if number not in kept]
        self._facts = {number: facts for number, facts in self._facts.items() if number in kept}
        self._parent = {number: number for number in self._facts}
        owner, size, hits = np.array(done, np.int64).reshape(-1, 3).T
        return owner, size, hits

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number


def _label(reference: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """4-connected regions of equal class, numbered from 1, 0 for none; and the class of each number."""
    labels = np.zeros(reference.shape, np.intp)
    owner = [0]
    for index in np.flatnonzero(np.bincount(reference.ravel(), minlength=256)[:IGNORE_INDEX]).tolist():
        own = reference == index
        found, count = ndimage.label(own)
        labels[own] = found[own] + (len(owner) - 1)
        owner += [index] * count
    return labels, np.array(owner, np.intp)
