"""Whole regions from the regions of tiles: what touches a seam is joined, the rest passes through.

Two passes. The first reads the edges of all tiles and finds which regions are one (`regions.link_tiles`), and
along every line between tiles where borders meet; the second reads the tiles one by one and yields a region
as soon as its last tile has been seen. In memory: one tile, and the regions that touch seams and are not
finished.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from geoseg.regions import core_grid, link_tiles, seam_sides
from geoseg.vector.outlines import Outlines, concatenate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from geoseg.regions import Connectivity, Edges, RegionTable, SeamGroups
    from geoseg.vector.join import Sides
    from geoseg.vector.pieces import Pieces
    from geoseg.vector.simplify import Generalisation
    from geoseg.vector.trace import TileRegions
    from geoseg.windows import Window

_OUTSIDE = -1
_NO_CLASS = -2

_NODE_BORDERS = 3
"""Where so many borders meet, or more, is a node."""

_NO_SEAM = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionBatch:
    """Finished regions of the scene, ordered by `region_id`."""

    region_id: NDArray[np.int64]
    """Row times scene width plus column of the region's first pixel in row-major order: the same id for any
    tiling, unique in the scene."""
    class_id: NDArray[np.uint8]
    """Class of all its pixels."""
    pixels: NDArray[np.int64]
    """Number of pixels."""
    area_m2: NDArray[np.float64]
    """Sum of the pixels' areas; NaN where those are."""
    mean_confidence: NDArray[np.float64]
    """Percent, over the pixels that have a confidence; NaN where none has."""
    min_confidence: NDArray[np.uint8]
    """Percent, the lowest that a pixel has; 255 where none has."""
    confidence_count: NDArray[np.int64]
    """Number of pixels that have a confidence."""
    box: NDArray[np.int32]
    """Shape (regions, 4): row, column, stop row and stop column of the pixels."""
    mix: NDArray[np.int64] | None
    """Shape (regions, classes): pixels by what their class was before small regions were dissolved; None when
    nobody asked."""
    outlines: Outlines
    """In pixel coordinates of the scene, in their one spelling."""

    def __len__(self) -> int:
        return len(self.region_id)


def merge_tiles(
    cores: Sequence[Window],
    *,
    load_edges: Callable[[Window], Edges],
    load_regions: Callable[[Window], TileRegions],
    scene_width: int,
    connectivity: Connectivity = 4,
    generalise: Generalisation | None = None,
) -> Iterator[RegionBatch]:
    """The regions of the scene, one batch per tile, in row-major order of the tiles.

    The batches hold what tracing the whole class raster at once would give: the same regions, ids, sums and
    outlines, to the bit. A region is in the batch of the last tile it touches or, when lines are generalised,
    of the last tile that holds vertices which its lines must not sweep over.

    Args:
        cores: the cores of all tiles; they partition the scene as a grid.
        load_edges: the edges of the tile with the given core; called once per core, before any regions.
        load_regions: the regions of the tile with the given core; called once per core.
        scene_width: width of the scene in pixels, for the region ids.
        connectivity: 4 or 8, as the tiles were traced.
        generalise: how lines were generalised in the tiles; those that touch seams are here.

    Raises:
        UsageError: when the cores are not a grid.
        ExecutionError: when outlines of neighbouring tiles do not fit together.
    """
    grid = core_grid(cores)
    order = [cores[i] for i in grid.ravel().tolist()]
    lines = _SeamLines(scene=order[0].cover(order[-1]))
    groups = link_tiles(order, lines.watching(load_edges), connectivity=connectivity)
    near = _Neighbours.of(order, grid.shape, reach=_reach_px(generalise))
    obstacles = None if generalise is None else _Obstacles(how=generalise, neighbours=near)
    waiting = _Waiting(finish=near.finish(groups), tiles=len(order), obstacles=obstacles)

    def merged(tile: int, core: Window) -> RegionBatch:
        # A function, so that a tile is forgotten before its batch is used and the next one loaded.
        regions = load_regions(core)
        waiting.add(tile, core, regions, groups.of_tile(tile), lines.sides(core))
        return _batch(regions, waiting.finished(tile), scene_width)

    for tile, core in enumerate(order):
        yield merged(tile, core)


@dataclass(slots=True, kw_only=True)
class _SeamLines:
    """What is on the lines between tiles: the classes on either side, as tiles are seen."""

    scene: Window
    rows: dict[int, NDArray[np.int16]] = field(default_factory=dict)
    """By row of the line: shape (2, scene width), classes above and below it."""
    cols: dict[int, NDArray[np.int16]] = field(default_factory=dict)
    """By column of the line: shape (2, scene height), classes left and right of it."""

    def watching(self, load_edges: Callable[[Window], Edges]) -> Callable[[Window], Edges]:
        """`load_edges`, but what it loads is remembered here."""

        def load(core: Window) -> Edges:
            edges = load_edges(core)
            self._remember(core, edges)
            return edges

        return load

    def sides(self, core: Window) -> Sides:
        """The flags along the four sides of a tile, empty where there is no seam."""
        rows, cols = core.slices(origin=self.scene)
        return (
            _flags(self.rows.get(core.row), cols),
            _flags(self.rows.get(core.stop_row), cols),
            _flags(self.cols.get(core.col), rows),
            _flags(self.cols.get(core.stop_col), rows),
        )

    def _remember(self, core: Window, edges: Edges) -> None:
        rows, cols = core.slices(origin=self.scene)
        height, width = self.scene.shape
        # Beside a line lies the last row or column of one tile (0), and the first of the next (1).
        beside = (
            (self.rows, core.row, (1, cols), edges.top, width),
            (self.rows, core.stop_row, (0, cols), edges.bottom, width),
            (self.cols, core.col, (1, rows), edges.left, height),
            (self.cols, core.stop_col, (0, rows), edges.right, height),
        )
        for (lines, at, place, strip, size), seam in zip(beside, seam_sides(core, self.scene), strict=True):
            if seam and at not in lines:
                lines[at] = np.empty((2, size), np.int16)
            if seam:
                lines[at][place] = np.where(strip[0] > 0, strip[1], _NO_CLASS)


def _flags(line: NDArray[np.int16] | None, span: slice) -> NDArray[np.uint8]:
    """What is known of the lattice points of a seam line from span.start to span.stop, both included.

    Pixels side by side are of one region exactly if they are of one class: classes say where borders are.
    """
    from geoseg.vector.join import BARE, BORDER, MET, NODE

    if line is None:
        return _NO_SEAM
    outside = np.full((2, 1), _OUTSIDE, np.int16)
    around = np.hstack([outside, line, outside])[:, span.start : span.stop + 2]
    before, after = around[:, :-1], around[:, 1:]
    along, across = before != after, around[0] != around[1]
    borders = along.sum(axis=0) + across[:-1] + across[1:]
    border = across[1:]
    bare = ((before < 0) | (after < 0)).any(axis=0)
    flags = np.zeros(len(border), np.uint8)
    for flag, found in (
        (NODE, borders >= _NODE_BORDERS),
        (BARE, bare),
        (BORDER, border),
        (MET, borders > 0),
    ):
        flags[found] |= flag
    return flags


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbours:
    """Which tiles lie within a distance of which, by place in the grid."""

    rows: NDArray[np.intp]
    """Shape (tile rows, 2): first and last tile row near each."""
    cols: NDArray[np.intp]
    """Shape (tile columns, 2): first and last tile column near each."""

    @classmethod
    def of(cls, order: Sequence[Window], shape: tuple[int, ...], *, reach: int) -> _Neighbours:
        columns = shape[1]
        rows = np.array([(core.row, core.stop_row) for core in order[::columns]])
        cols = np.array([(core.col, core.stop_col) for core in order[:columns]])
        return cls(rows=_near(rows, reach), cols=_near(cols, reach))

    def __call__(self, tile: int) -> NDArray[np.intp]:
        """The tiles near a tile, and itself, ascending."""
        row, col = divmod(tile, len(self.cols))
        rows = np.arange(self.rows[row, 0], self.rows[row, 1] + 1)
        cols = np.arange(self.cols[col, 0], self.cols[col, 1] + 1)
        return (rows[:, None] * len(self.cols) + cols).ravel()

    def last(self) -> NDArray[np.intp]:
        """The last tile near each tile."""
        return (self.rows[:, 1:] * len(self.cols) + self.cols[:, 1]).ravel()

    def finish(self, groups: SeamGroups) -> NDArray[np.intp]:
        """The tile after which nothing is missing: of each tile, then of each group."""
        last = self.last()
        of_group = np.zeros(groups.count, np.intp)
        for tile, stop in enumerate(last.tolist()):
            _, group = groups.of_tile(tile)
            of_group[group] = np.maximum(of_group[group], stop)
        return np.concatenate([last, of_group])


def _near(spans: NDArray[np.intp], reach: int) -> NDArray[np.intp]:
    """First and last of the abutting spans within `reach` of each."""
    first = np.searchsorted(spans[:, 1], spans[:, 0] - reach, side="right")
    last = np.searchsorted(spans[:, 0], spans[:, 1] + reach, side="left") - 1
    return np.stack([first, last], axis=1)


def _reach_px(generalise: Generalisation | None) -> int:
    """How far from a region's vertices others may stop its lines from being drawn straighter, at most."""
    return 0 if generalise is None else math.ceil(generalise.reach / generalise.scale) + 1


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """Pieces of regions that are not finished, by the tile that finishes them."""

    finish: NDArray[np.intp]
    """The tile that finishes what touches the seams of each tile only; then, for each group, that group."""
    tiles: int
    """How many of these are of tiles."""
    obstacles: _Obstacles | None
    """When lines are generalised."""
    pieces: dict[int, list[tuple[int, Pieces]]] = field(default_factory=dict)
    """Tile of origin and pieces, by finishing tile."""
    single: int = 0
    """How many regions touch a seam and cross none, so far."""

    def add(
        self,
        tile: int,
        core: Window,
        regions: TileRegions,
        crossing: tuple[NDArray[np.int64], NDArray[np.intp]],
        sides: Sides,
    ) -> None:
        """Count the regions of a tile that touch a seam in."""
        from geoseg.vector.pieces import cut

        at, key = self._keys(regions, crossing)
        finish = self.finish[np.where(key < 0, tile, key)]
        keep_outline = self.obstacles is not None and self.obstacles.how.keep_outline
        for last in np.unique(finish).tolist():
            chosen = finish == last
            pieces = cut(
                regions.outlines.take(at[chosen]),
                regions.table.take(at[chosen]),
                key[chosen],
                core=core,
                sides=sides,
                keep_outline=keep_outline,
            )
            self.pieces.setdefault(last, []).append((tile, pieces))
        if self.obstacles is not None:
            on_seams = _obstacles_on_seams(core, sides, self.obstacles.how)
            last = int(finish.max(initial=self.finish[tile]))
            self.obstacles.add(tile, np.concatenate([regions.obstacles, on_seams]), last)

    def finished(self, tile: int) -> tuple[RegionTable, Outlines] | None:
        """The regions that this tile finishes, whole; what only they needed is forgotten."""
        found = self.pieces.pop(tile, None)
        whole = None if found is None else self._joined(found)
        if self.obstacles is not None:
            self.obstacles.forget(tile)
        return whole

    def _joined(self, found: list[tuple[int, Pieces]]) -> tuple[RegionTable, Outlines]:
        from geoseg.vector.pieces import join

        table, outlines = join([pieces for _, pieces in found])
        if self.obstacles is not None:
            from geoseg.vector.simplify import finish_arcs

            around = self.obstacles.near({origin for origin, _ in found})
            outlines = finish_arcs(outlines, around, self.obstacles.how)
        return table, outlines

    def _keys(
        self, regions: TileRegions, crossing: tuple[NDArray[np.int64], NDArray[np.intp]]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """The tile's regions that touch seams, and a key for each: place of its group in `finish`, or < 0."""
        label, group = crossing
        key = np.zeros(len(regions), np.int64)
        key[label - 1] = group + self.tiles
        at = np.flatnonzero(regions.touching)
        key = key[at]
        single = np.flatnonzero(key == 0)
        key[single] = -1 - self.single - np.arange(len(single))
        self.single += len(single)
        return at, key


@dataclass(slots=True, kw_only=True)
class _Obstacles:
    """Vertices that lines must not sweep over, as they were, while regions near them are not finished."""

    how: Generalisation
    neighbours: _Neighbours
    held: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    """By tile."""
    last: dict[int, int] = field(default_factory=dict)
    """The tile after which those of a tile are not needed any more."""

    def add(self, tile: int, obstacles: NDArray[np.int32], last: int) -> None:
        """Keep a tile's obstacles; its own regions are finished with tile `last`."""
        self.held[tile] = obstacles
        for other in self.neighbours(tile).tolist():
            self.last[other] = max(self.last.get(other, 0), last)

    def near(self, tiles: set[int]) -> NDArray[np.int32]:
        """The obstacles of these tiles and those near them."""
        around = np.unique(np.concatenate([self.neighbours(tile) for tile in tiles]))
        return np.concatenate([self.held[tile] for tile in around.tolist()])

    def forget(self, tile: int) -> None:
        """Drop what is not needed after this tile."""
        for other in [other for other, last in self.last.items() if last <= tile]:
            del self.held[other], self.last[other]


def _obstacles_on_seams(core: Window, sides: Sides, how: Generalisation) -> NDArray[np.int32]:
    """What borders consist of on the seams above and left of a tile, before they are generalised.

    Lattice points; or if they are smoothed, midpoints of unit edges, and what is fixed nevertheless. That
    points in the middle of a straight border are among them does no harm.
    """
    from geoseg.vector.join import BARE, BORDER, MET, NODE

    top, _, left, _ = sides
    found = []
    for axis, flags in enumerate((top, left)):
        met = flags & MET != 0
        if how.smooth:
            met &= flags & (NODE | BARE if how.keep_outline else NODE) != 0
        along = how.scale * np.flatnonzero(met)
        if how.smooth:
            along = np.concatenate([along, how.scale * np.flatnonzero(flags & BORDER) + how.scale // 2])
        points = np.tile(how.scale * np.array([core.col, core.row]), (len(along), 1))
        points[:, axis] += along
        found.append(points)
    return np.concatenate(found).astype(np.int32)


def _batch(
    regions: TileRegions, finished: tuple[RegionTable, Outlines] | None, scene_width: int
) -> RegionBatch:
    """The regions of a tile that touch no seam, and the finished ones, ordered by region id."""
    from geoseg.vector.pieces import put_together

    table, outlines, chosen = regions.table, regions.outlines, ~regions.touching
    if finished is not None:
        table, outlines = put_together([table, finished[0]]), concatenate([outlines, finished[1]])
        chosen = np.concatenate([chosen, np.ones(len(finished[0]), np.bool_)])
    at = np.flatnonzero(chosen)
    first = table.first_pixel[at].astype(np.int64)
    region_id = first[:, 0] * scene_width + first[:, 1]
    order = np.argsort(region_id)
    if len(at) < len(table) or (order[1:] < order[:-1]).any():
        table, outlines = table.take(at[order]), outlines.take(at[order])
    count = table.confidence_count
    return RegionBatch(
        region_id=region_id[order],
        class_id=table.class_id,
        pixels=table.pixels,
        area_m2=table.area_m2,
        mean_confidence=np.where(count > 0, table.confidence_sum / np.maximum(count, 1), np.nan),
        min_confidence=table.confidence_min,
        confidence_count=count,
        box=table.box,
        mix=table.mix,
        outlines=outlines,
    )
