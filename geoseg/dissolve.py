"""Compiled: regions below a minimum are dissolved into their neighbours, smallest first.

Regions are nodes of a graph. Those united form a tree (`parent`) whose root carries their class and sums,
and a chain (`follow`) of the nodes whose neighbours are together the neighbours of all. A list of neighbours
is never rewritten: it names nodes, whose roots say what has become of them. A list is read again only when
its region has at least doubled in area, so the work is that of reading all lists some ten times.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Lists(NamedTuple):
    """Neighbours of the nodes: those of node i are entries offsets[i] up to offsets[i + 1]."""

    offsets: NDArray[np.int64]
    neighbour: NDArray[np.int32]
    border: NDArray[np.int64]
    """Weighted length; 0 where they meet at corners only."""


class Forest(NamedTuple):
    """What is known of the nodes, one entry per node in each array; of united ones their root's holds."""

    parent: NDArray[np.int64]
    """The node it was united with, or itself: a root."""
    class_id: NDArray[np.uint8]
    area: NDArray[np.float64]
    """What is compared with the minimum, greater than 0 or at least not less."""
    pixels: NDArray[np.int64]
    first: NDArray[np.int64]
    """Rank of its first pixel in the scene, row by row."""
    partial: NDArray[np.bool_]
    """True while the rest of the region, or of its borders, is not known: then the sums are lower bounds."""
    follow: NDArray[np.int64]
    """The next node of the chain."""
    tail: NDArray[np.int64]
    """The last node of the chain that begins at this root."""


class Found(NamedTuple):
    """Room for what is around a region: as long as all lists, though only a few entries are ever used."""

    node: NDArray[np.int64]
    border: NDArray[np.int64]


def plant(
    class_id: NDArray[np.uint8],
    area: NDArray[np.float64],
    pixels: NDArray[np.int64],
    first: NDArray[np.int64],
    partial: NDArray[np.bool_],
) -> Forest:
    """A forest of nodes that are all roots; it takes copies, since dissolving writes into its arrays."""
    itself = np.arange(len(class_id), dtype=np.int64)
    return Forest(
        parent=itself.copy(),
        class_id=class_id.copy(),
        area=area.copy(),
        pixels=pixels.copy(),
        first=first.copy(),
        partial=partial.copy(),
        follow=itself.copy(),
        tail=itself.copy(),
    )


@numba.njit(cache=True, nogil=True)
def root_of(parent: NDArray[np.int64], node: int) -> int:
    """The root of a node's tree; halves the way there for those who ask later."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@numba.njit(cache=True, nogil=True)
def roots_of(forest: Forest) -> NDArray[np.int64]:
    """The root of every node."""
    roots = np.empty(len(forest.parent), np.int64)
    for node in range(len(roots)):
        roots[node] = root_of(forest.parent, node)
    return roots


@numba.njit(cache=True, nogil=True)
def _unite(forest: Forest, root: int, other: int) -> None:
    """Makes `other`, a root, part of `root`, whose class holds for both."""
    forest.parent[other] = root
    forest.area[root] += forest.area[other]
    forest.pixels[root] += forest.pixels[other]
    forest.first[root] = min(forest.first[root], forest.first[other])
    forest.partial[root] |= forest.partial[other]
    forest.follow[forest.tail[root]] = other
    forest.tail[root] = forest.tail[other]


@numba.njit(cache=True, nogil=True)
def unite_pairs(forest: Forest, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Unites the nodes one[i] and other[i], which are of one class."""
    for i in range(len(one)):
        a, b = root_of(forest.parent, one[i]), root_of(forest.parent, other[i])
        if a != b:
            _unite(forest, a, b)


@numba.njit(cache=True, nogil=True)
def _before(forest: Forest, a: int, b: int) -> bool:
    """Whether root `a` is dissolved before root `b`. A part comes before the whole it belongs to."""
    if forest.area[a] != forest.area[b]:
        return bool(forest.area[a] < forest.area[b])
    if forest.pixels[a] != forest.pixels[b]:
        return bool(forest.pixels[a] < forest.pixels[b])
    return bool(forest.first[a] < forest.first[b])


@numba.njit(cache=True, nogil=True)
def _look_around(forest: Forest, lists: Lists, root: int, found: Found) -> int:
    """The number of neighbours of `root` that it writes to `found`, where one may come several times."""
    count, node, stop = 0, root, forest.tail[root]
    while True:
        for entry in range(lists.offsets[node], lists.offsets[node + 1]):
            other = root_of(forest.parent, lists.neighbour[entry])
            if other != root:
                found.node[count], found.border[count] = other, lists.border[entry]
                count += 1
        if node == stop:
            return count
        node = forest.follow[node]


@numba.njit(cache=True, nogil=True)
def _longest_border(forest: Forest, found: Found, count: int, length: NDArray[np.int64]) -> int:
    """The class with the longest border among the neighbours found, the lowest id of several; -1: no border.

    `length` is scratch: 256 zeros, and again so afterwards.
    """
    best, longest = -1, 0
    for i in range(count):
        class_id = int(forest.class_id[found.node[i]])
        length[class_id] += found.border[i]
        if length[class_id] > longest or (length[class_id] == longest > 0 and class_id < best):
            best, longest = class_id, length[class_id]
    for i in range(count):
        length[forest.class_id[found.node[i]]] = 0
    return best


@numba.njit(cache=True, nogil=True)
def _waits(forest: Forest, root: int, found: Found, count: int) -> bool:
    """Whether one of the neighbours found might have to be dissolved before `root`."""
    for i in range(count):  # noqa: SIM110 - numba compiles no generator expression
        if _before(forest, found.node[i], root):
            return True
    return False


def dissolve(forest: Forest, lists: Lists, minimum: float, *, careful: bool) -> None:
    """Dissolves what is smaller than `minimum`, in place, smallest first.

    Not careful, the graph is the scene: nothing is left below the minimum that has a border with a neighbour.
    Careful, it is a part of it: only those are dissolved that are known wholly and come before all their
    neighbours, however these go on beyond the part. What else is done to the scene, before or after, cannot
    change what becomes of them: until then their neighbours keep their classes, and only grow.
    """
    roots = np.flatnonzero(forest.parent == np.arange(len(forest.parent)))
    waiting = roots[(forest.area[roots] < minimum) & ~forest.partial[roots]]
    order = np.lexsort((forest.first[waiting], forest.pixels[waiting], forest.area[waiting]))
    _dissolve(forest, lists, minimum, careful, waiting[order])


@numba.njit(cache=True, nogil=True)
def _dissolve(
    forest: Forest,
    lists: Lists,
    minimum: float,
    careful: bool,  # noqa: FBT001 - numba passes by place
    waiting: NDArray[np.int64],
) -> None:
    """Goes through what waits, in its order; what has been united takes its place between by a heap."""
    length = np.zeros(256, np.int64)
    found = Found(np.empty(len(lists.neighbour), np.int64), np.empty(len(lists.neighbour), np.int64))
    heap = [(0.0, 0, 0, 0) for _ in range(0)]  # nothing, but of a type
    at = 0
    while at < len(waiting) or heap:
        if not heap or (at < len(waiting) and _before(forest, waiting[at], heap[0][3])):
            root = waiting[at]
            at += 1
        else:
            root = heappop(heap)[3]
        if forest.parent[root] != root:
            continue  # it was united with another since
        count = _look_around(forest, lists, root, found)
        if careful and _waits(forest, root, found, count):
            continue
        class_id = _longest_border(forest, found, count, length)
        if class_id < 0:
            continue
        for other in found.node[:count]:
            if forest.class_id[other] == class_id and forest.parent[other] == other:
                _unite(forest, root, other)
        forest.class_id[root] = class_id
        if forest.area[root] < minimum and not forest.partial[root]:
            heappush(heap, (forest.area[root], forest.pixels[root], forest.first[root], root))


@numba.njit(cache=True, nogil=True)
def left_over(
    forest: Forest, lists: Lists, minimum: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The roots below `minimum` that are partial or have neighbours, and these neighbours.

    Returns:
        the roots, ascending; where the neighbours of each begin in the following, shape (roots + 1,); root of
        each neighbour, each once; border with it.
    """
    roots = np.empty(len(forest.parent), np.int64)
    offsets = np.zeros(len(forest.parent) + 1, np.int64)
    slot = np.full(len(forest.parent), -1, np.int64)
    target, border = np.empty(len(lists.neighbour), np.int64), np.empty(len(lists.neighbour), np.int64)
    found = Found(np.empty_like(target), np.empty_like(border))
    count = at = 0
    for root in range(len(forest.parent)):
        if forest.parent[root] != root or forest.area[root] >= minimum:
            continue
        first = at
        for i in range(_look_around(forest, lists, root, found)):
            other = found.node[i]
            if slot[other] < first:
                slot[other] = at
                target[at], border[at] = other, 0
                at += 1
            border[slot[other]] += found.border[i]
        if forest.partial[root] or at > first:
            roots[count] = root
            offsets[count + 1] = at
            count += 1
    return roots[:count].copy(), offsets[: count + 1].copy(), target[:at].copy(), border[:at].copy()
