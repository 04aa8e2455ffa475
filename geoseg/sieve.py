"""The minimum mapping unit: regions below it are dissolved into their neighbours, the same for any tiling.

The rule. Of the regions below the minimum that share a border with another, the smallest comes first: by
area, then pixels, then first pixel row by row. It takes the class with which it shares the longest border,
all adjacent regions of a class counted together, the lowest class id of several; and becomes one region with
them. So on until none is left. Nodata is no neighbour, so nothing crosses it. With 8-connected regions
borders are still counted along unit edges, and what meets at a corner is one region if its class is.

A region that comes before all its neighbours below the minimum may be dissolved out of turn: none of what
may happen elsewhere first reaches it, since neighbours only change class when it is their turn, and regions
only grow. Hence the three steps. `reduce_tile` dissolves what lies inside a tile and comes before its
neighbours even if these are only seen in part, and keeps the rest as a small graph; `solve` joins the graphs
of all tiles and applies the rule; `recode` writes the classes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.errors import UsageError, explain
from geoseg.regions import core_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from geoseg.adjacency import Adjacency
    from geoseg.dissolve import Forest, Lists
    from geoseg.regions import RegionTable
    from geoseg.windows import Window

_AREA = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([^\d\s.]\S*)\s*")
_TO_M2 = {"m2": 1, "m²": 1, "ha": 10_000, "km2": 1_000_000, "km²": 1_000_000}

_NODATA = 256
"""Stands for no region where class ids stand for regions that are settled."""
_SETTLED = _NODATA + 1
"""First nodes of a scene: one for all settled regions of a class, as their class is all that others ask for,
and one for nodata, which nobody asks."""

_CORNERS_TOO = 8
"""The connectivity that joins pixels at corners."""

_PREFIX = "mmu_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A size to compare regions with."""

    value: float
    """Greater than 0."""
    unit: Literal["m2", "px"]

    def __post_init__(self) -> None:
        if self.unit not in {"m2", "px"}:
            raise ValueError(f"an area is in m2 or px, not in {self.unit!r}")
        if not 0 < self.value < math.inf:
            raise ValueError(f"an area to compare with is greater than 0 and finite, not {self.value}")

    def __str__(self) -> str:
        return f"{self.value:.15g} {self.unit}"


def parse_area(text: str) -> Area:
    """The area a user has written: a number and one of m2, m², ha, km2, km², px, as in 0.5ha.

    Raises:
        UsageError: it is something else, or not greater than 0.
    """
    found = _AREA.fullmatch(text)
    unit = found[2].lower() if found else ""
    if found and (unit in _TO_M2 or unit == "px"):
        value = float(Decimal(found[1]) * _TO_M2.get(unit, 1))
        if 0 < value < math.inf:
            return Area(value=value, unit="px" if unit == "px" else "m2")
    raise UsageError(
        explain(
            "not an area",
            at=repr(text),
            expected="a number greater than 0 and its unit: m2, ha, km2 or px",
            found=_fault(text, unit),
            change="Write it like 0.5ha, 400m2 or 12px; leave it out to keep regions of any size.",
        )
    )


def _fault(text: str, unit: str) -> str:
    if not unit:
        return "no number with a unit after it"
    known = unit in _TO_M2 or unit == "px"
    return f"{text.strip()[: -len(unit)].strip()}, which is out of range" if known else f"unit {unit!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGraph:
    """What a tile leaves undecided: regions below the minimum, as nodes, and their neighbours.

    Below 0, references are to settled regions: -1 - class id.
    """

    minimum: float
    """Size a region needs, in the unit of `area`."""
    connectivity: int
    """4 or 8."""
    weights: NDArray[np.int64]
    """Of a horizontal and of a vertical unit edge, shape (2,)."""
    class_id: NDArray[np.uint8]
    """Class of each node as it is now."""
    area: NDArray[np.float64]
    """Size of each node, as far as it lies in the tile."""
    pixels: NDArray[np.int64]
    """Its number of pixels."""
    first: NDArray[np.int64]
    """Its first pixel in row-major order: scene row << 32 | scene column."""
    offsets: NDArray[np.int64]
    """Where the neighbours of each node begin, shape (nodes + 1,)."""
    target: NDArray[np.int32]
    """Neighbours within the tile: nodes or settled regions."""
    border: NDArray[np.int64]
    """Weighted length of the border with each; 0 where they meet at corners only."""
    of_label: NDArray[np.int32]
    """What became of each label 1..n: a node, or settled; shape (n,)."""
    top: NDArray[np.int32]
    """What the pixels of the first row belong to, -257 for nodata; of no length where there is no seam. The
    other sides likewise."""
    bottom: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.class_id)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for an .npz without pickle; `from_arrays` restores an equal value."""
        return {_PREFIX + f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TileGraph:
        """The graph in `arrays`."""
        found: dict[str, Any] = {f.name: arrays[_PREFIX + f.name] for f in fields(cls)}
        found |= {"minimum": float(found["minimum"]), "connectivity": int(found["connectivity"])}
        return cls(**found)

    def recoding(self, class_of_node: NDArray[np.uint8], *, nodata: int) -> NDArray[np.uint8]:
        """The class of each label 0..n in the end, shape (n + 1,); label 0 is nodata.

        Args:
            class_of_node: what `solve` found for this tile.
            nodata: the value that is no class.
        """
        classes = np.empty(len(self.of_label) + 1, np.uint8)
        classes[0] = nodata
        open_ = self.of_label >= 0
        classes[1:][open_] = class_of_node[self.of_label[open_]]
        classes[1:][~open_] = -1 - self.of_label[~open_]
        return classes


GRAPH_NAMES = tuple(_PREFIX + f.name for f in fields(TileGraph))
"""Keys of a graph among a part's arrays."""


def recode(labels: NDArray[np.int32], recoding: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The cleaned classes of a tile, from its labels as `reduce_tile` was given them."""
    return np.take(recoding, labels)


def reduce_tile(
    labels: NDArray[np.int32],
    table: RegionTable,
    *,
    minimum: Area,
    seams: tuple[bool, bool, bool, bool],
    weights: tuple[int, int] = (1, 1),
    connectivity: int = 4,
) -> TileGraph:
    """Decides what does not depend on other tiles; the graph holds the rest.

    Args:
        labels: the tile's regions, 0 where there is none.
        table: what is known of them; entry i is label i + 1.
        minimum: regions smaller than this are dissolved. In m2, the sums of pixel areas must be exact for
            the result to be the same for any tiling.
        seams: whether another tile lies beyond the top, the bottom, the left, the right.
        weights: what a horizontal unit edge counts, between two pixels one above the other, and a vertical
            one, between two side by side: positive integers in the proportion of a pixel's width to its
            height, the same for all tiles.
        connectivity: of the labels, 4 or 8.

    Raises:
        UsageError: the minimum is in m2, and pixels have no known area.
    """
    from geoseg.adjacency import find_adjacency
    from geoseg.dissolve import Lists, dissolve, plant

    if connectivity not in {4, 8} or min(weights) < 1:
        raise ValueError(f"connectivity {connectivity} is not 4 or 8, or weights {weights} are not positive")
    area = _sizes(table, minimum)
    near = find_adjacency(labels, wanted=area < minimum.value, weights=weights, connectivity=connectivity)
    first = (table.first_pixel[:, 0].astype(np.int64) << 32) | table.first_pixel[:, 1]
    touching = _touching(labels, seams, len(table))
    forest = plant(table.class_id, area, table.pixels, first, touching)
    dissolve(forest, Lists(near.offsets, near.neighbour, near.border), minimum.value, careful=True)
    return _graph(
        forest, near, labels, minimum=minimum, seams=seams, weights=weights, connectivity=connectivity
    )


def _sizes(table: RegionTable, minimum: Area) -> NDArray[np.float64]:
    """What is compared with the minimum."""
    if minimum.unit == "px":
        return table.pixels.astype(np.float64)
    if np.isnan(table.area_m2).any():
        raise UsageError(
            explain(
                "regions cannot be compared with a minimum area",
                at=str(minimum),
                expected="a raster with a coordinate reference system",
                found="none, so nobody can know the area of a pixel",
                change="Give the minimum in pixels, like 12px, or assign the CRS with gdal_edit.py -a_srs.",
            )
        )
    return table.area_m2


def _sides(labels: NDArray[np.int32], seams: tuple[bool, bool, bool, bool]) -> dict[str, NDArray[np.int32]]:
    """Labels along the top, bottom, left and right, those without a seam of no length."""
    sides = {"top": labels[0], "bottom": labels[-1], "left": labels[:, 0], "right": labels[:, -1]}
    return {name: side if seam else side[:0] for (name, side), seam in zip(sides.items(), seams, strict=True)}


def _touching(
    labels: NDArray[np.int32], seams: tuple[bool, bool, bool, bool], count: int
) -> NDArray[np.bool_]:
    """Which regions have pixels along a seam, so that more of them, or of their borders, lies beyond."""
    touching = np.zeros(count + 1, bool)
    for side in _sides(labels, seams).values():
        touching[side] = True
    return touching[1:]


def _graph(
    forest: Forest,
    near: Adjacency,
    labels: NDArray[np.int32],
    *,
    minimum: Area,
    seams: tuple[bool, bool, bool, bool],
    weights: tuple[int, int],
    connectivity: int,
) -> TileGraph:
    """What is left of a forest, numbered anew."""
    from geoseg.dissolve import Lists, left_over, roots_of

    lists = Lists(near.offsets, near.neighbour, near.border)
    nodes, offsets, target, border = left_over(forest, lists, minimum.value)
    roots = roots_of(forest)
    of_root = -1 - forest.class_id.astype(np.int32)
    of_root[nodes] = np.arange(len(nodes), dtype=np.int32)
    of_label = of_root[roots]
    of_pixel = np.concatenate([np.array([-1 - _NODATA], np.int32), of_label])
    return TileGraph(
        minimum=minimum.value,
        connectivity=connectivity,
        weights=np.array(weights, np.int64),
        class_id=forest.class_id[nodes],
        area=forest.area[nodes],
        pixels=forest.pixels[nodes],
        first=forest.first[nodes],
        offsets=offsets,
        target=of_root[target],
        border=border,
        of_label=of_label,
        **{name: of_pixel[side] for name, side in _sides(labels, seams).items()},
    )


def solve(
    cores: Sequence[Window], load_graph: Callable[[Window], TileGraph]
) -> dict[Window, NDArray[np.uint8]]:
    """The class of every node of every tile in the end, by core.

    In memory: the nodes of all tiles, none of which is as large as the minimum within its tile, and a row of
    strips.

    Args:
        cores: the cores of all tiles; they partition the scene as a grid.
        load_graph: the graph of the tile with the given core; called once per core.

    Raises:
        UsageError: when the cores are not a grid.
    """
    from geoseg.dissolve import dissolve, roots_of

    order = [[cores[i] for i in row] for row in core_grid(cores).tolist()]
    scene = _Scene()
    for row in order:
        scene.add_row(load_graph(core) for core in row)
    forest = scene.forest()
    dissolve(forest, scene.lists(), scene.graphs[0].minimum, careful=False)
    class_id = forest.class_id[roots_of(forest)][_SETTLED:]
    stops = np.cumsum([len(graph) for graph in scene.graphs])
    return dict(zip((core for row in order for core in row), np.split(class_id, stops[:-1]), strict=True))


@dataclass(slots=True)
class _Scene:
    """The graphs of all tiles put together, one row of the grid after the other.

    Strips along seams have shape (2, pixels): node, class id.
    """

    graphs: list[TileGraph] = field(default_factory=list)
    """Those seen so far, without what only their tiles need."""
    count: int = _SETTLED
    """Number of nodes so far."""
    same: list[NDArray[np.int64]] = field(default_factory=list)
    """Nodes that are one region across a seam, each (2, pairs)."""
    beyond: list[NDArray[np.int64]] = field(default_factory=list)
    """Neighbours across seams, each (3, entries): node, neighbour, border."""
    above: NDArray[np.int64] | None = None
    """The bottom of the row of tiles before: one strip, so that tiles also meet at corners."""

    def add_row(self, graphs: Iterator[TileGraph]) -> None:
        """Count the graphs of a row of tiles in, from left to right."""
        tops, bottoms, beside = [], [], None
        for graph in graphs:
            self._require_like(graph)
            if beside is not None:
                self._meet(beside, self._strip(graph, graph.left), graph, border=graph.weights[1])
            beside = self._strip(graph, graph.right)
            tops.append(self._strip(graph, graph.top))
            bottoms.append(self._strip(graph, graph.bottom))
            self.count += len(graph)
            none = np.empty(0, np.int32)
            self.graphs.append(replace(graph, of_label=none, top=none, bottom=none, left=none, right=none))
        if self.above is not None:
            self._meet(self.above, np.concatenate(tops, axis=1), graph, border=graph.weights[0])
        self.above = np.concatenate(bottoms, axis=1)

    def forest(self) -> Forest:
        """All nodes; those that are one region across a seam are united."""
        from geoseg.dissolve import plant, unite_pairs

        settled = np.arange(_SETTLED)
        forest = plant(
            np.concatenate([settled.astype(np.uint8), *(g.class_id for g in self.graphs)]),
            np.concatenate([np.full(_SETTLED, math.inf), *(g.area for g in self.graphs)]),
            np.concatenate([settled, *(g.pixels for g in self.graphs)]),
            np.concatenate([settled, *(g.first for g in self.graphs)]),
            np.zeros(self.count, bool),
        )
        unite_pairs(forest, *np.concatenate([np.empty((2, 0), np.int64), *self.same], axis=1))
        return forest

    def lists(self) -> Lists:
        """The neighbours of all nodes; the settled need none."""
        from geoseg.dissolve import Lists

        entries, start = [np.empty((3, 0), np.int64), *self.beyond], _SETTLED
        for graph in self.graphs:
            node = np.repeat(np.arange(start, start + len(graph)), np.diff(graph.offsets))
            entries.append(np.stack([node, _in_scene(graph.target, start), graph.border]))
            start += len(graph)
        node, neighbour, border = np.concatenate(entries, axis=1)
        order = np.argsort(node, kind="stable")
        offsets = np.zeros(self.count + 1, np.int64)
        np.cumsum(np.bincount(node, minlength=self.count), out=offsets[1:])
        return Lists(offsets, neighbour[order].astype(np.int32), border[order])

    def _require_like(self, graph: TileGraph) -> None:
        """All tiles have to be reduced by one rule."""
        first = self.graphs[0] if self.graphs else graph
        one, other = ((g.minimum, g.connectivity, *g.weights.tolist()) for g in (first, graph))
        if one != other:
            raise ValueError(f"tiles were reduced by different rules: {one} and {other}")

    def _strip(self, graph: TileGraph, pixels: NDArray[np.int32]) -> NDArray[np.int64]:
        """A side of the tile that is counted in next."""
        node = _in_scene(pixels, self.count)
        class_id = node.copy()
        class_id[pixels >= 0] = graph.class_id[pixels[pixels >= 0]]
        return np.stack([node, class_id])

    def _meet(
        self, one: NDArray[np.int64], other: NDArray[np.int64], graph: TileGraph, *, border: int
    ) -> None:
        """Two strips that lie along each other, and pixels whose corners touch."""
        if one.shape != other.shape:
            raise ValueError(f"seams of {one.shape[1]} and {other.shape[1]} pixels do not fit together")
        self._link(one, other, border)
        if graph.connectivity == _CORNERS_TOO:
            self._link(one[:, :-1], other[:, 1:], 0)
            self._link(one[:, 1:], other[:, :-1], 0)

    def _link(self, one: NDArray[np.int64], other: NDArray[np.int64], border: int) -> None:
        """Pixels of one class belong to one region, others to neighbours."""
        region = (one[0] != _NODATA) & (other[0] != _NODATA)
        alike = one[1] == other[1]
        self.same.append(np.stack([one[0], other[0]])[:, region & alike])
        for mine, theirs in ((one[0], other[0]), (other[0], one[0])):
            entries = np.stack([mine, theirs, np.full_like(mine, border)])
            self.beyond.append(entries[:, region & ~alike & (mine >= _SETTLED)])


def _in_scene(reference: NDArray[np.int32], start: int) -> NDArray[np.int64]:
    """Nodes of the scene for references of a tile whose nodes begin at `start`."""
    there = reference.astype(np.int64)
    return np.where(there < 0, -1 - there, there + start)
