"""Whole regions from the regions of tiles: what crosses a seam is dissolved, the rest passes through.

Two passes. The first reads the edges of all tiles and finds which regions are one (`regions.link_tiles`);
the second reads the tiles one by one and yields a region as soon as its last tile has been seen. In memory:
one tile, and the regions that cross seams and are not finished.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from geoseg.regions import Edges, RegionTable, SeamGroups, core_grid, link_tiles
from geoseg.vector.polygons import Polygons, canonical, concatenate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from geoseg.vector.trace import TileRegions
    from geoseg.windows import Window


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
    polygons: Polygons
    """Outlines in pixel coordinates of the scene, in canonical form."""

    def __len__(self) -> int:
        return len(self.region_id)


@dataclass(slots=True, kw_only=True)
class _Crossing:
    """What has been seen so far of the regions that cross seams; entries are groups."""

    table: RegionTable
    last_tile: NDArray[np.int64]
    pieces: dict[int, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: SeamGroups) -> _Crossing:
        n = groups.count
        table = RegionTable(
            class_id=np.zeros(n, np.uint8),
            pixels=np.zeros(n, np.int64),
            confidence_sum=np.zeros(n, np.int64),
            confidence_count=np.zeros(n, np.int64),
            area_m2=np.zeros(n, np.float64),
            first_pixel=np.full((n, 2), np.iinfo(np.int32).max, np.int32),
        )
        return cls(table=table, last_tile=groups.last_tile())

    def add(self, group: NDArray[np.intp], table: RegionTable, polygons: Polygons) -> None:
        """Count the regions of one tile in: entry i belongs to group[i]."""
        total = self.table
        total.class_id[group] = table.class_id
        np.add.at(total.pixels, group, table.pixels)
        np.add.at(total.confidence_sum, group, table.confidence_sum)
        np.add.at(total.confidence_count, group, table.confidence_count)
        np.add.at(total.area_m2, group, table.area_m2)
        _lower_first_pixel(total.first_pixel, group, table.first_pixel)
        for at, piece in zip(group.tolist(), polygons.to_shapely(), strict=True):
            self.pieces.setdefault(at, []).append(piece)

    def finish(self, tile: int, group: NDArray[np.intp]) -> tuple[RegionTable, Polygons]:
        """The regions among `group` whose last tile this is; their pieces are forgotten."""
        done = np.unique(group[self.last_tile[group] == tile])
        whole = [_dissolve(np.array(self.pieces.pop(at), object)) for at in done.tolist()]
        return self.table.take(done), canonical(np.array(whole, object))


def merge_tiles(
    cores: Sequence[Window],
    *,
    load_edges: Callable[[Window], Edges],
    load_regions: Callable[[Window], TileRegions],
    scene_width: int,
) -> Iterator[RegionBatch]:
    """The regions of the scene, one batch per tile, in row-major order of the tiles.

    The batches hold what tracing the whole class raster at once would give: the same regions, ids, sums and
    polygons. A region is in the batch of the last tile it touches.

    Args:
        cores: the cores of all tiles; they partition the scene as a grid.
        load_edges: the edges of the tile with the given core; called once per core, before any regions.
        load_regions: the regions of the tile with the given core; called once per core.
        scene_width: width of the scene in pixels, for the region ids.

    Raises:
        UsageError: when the cores are not a grid.
    """
    order = [cores[i] for i in core_grid(cores).ravel().tolist()]
    groups = link_tiles(order, load_edges)
    crossing = _Crossing.of(groups)
    for tile, core in enumerate(order):
        regions = load_regions(core)
        label, group = groups.of_tile(tile)
        at = (label - 1).astype(np.intp)
        crossing.add(group, regions.table.take(at), regions.polygons.take(at))
        inside = np.delete(np.arange(len(regions)), at)
        parts = [
            (regions.table.take(inside), regions.polygons.take(inside)),
            crossing.finish(tile, group),
        ]
        yield _batch([t for t, _ in parts], [p for _, p in parts], scene_width)


def _dissolve(pieces: NDArray[Any]) -> Any:
    """The union of one region's pieces, exact: all coordinates are integers on horizontal or vertical lines.

    A hole of a piece lies inside its tile, where no other piece of the region can be (it would have to cross
    the ring around it). So only the outer rings are united, and the holes put back: a background with a
    hundred thousand holes costs as much as its outline.
    """
    outline = shapely.get_rings(shapely.union_all(shapely.polygons(shapely.get_exterior_ring(pieces))))
    rings, piece = shapely.get_rings(pieces, return_index=True)
    holes = rings[1:][piece[1:] == piece[:-1]]
    return shapely.polygons(outline[0], holes=np.concatenate([outline[1:], holes]))


def _lower_first_pixel(
    first: NDArray[np.int32], group: NDArray[np.intp], candidate: NDArray[np.int32]
) -> None:
    """Replace first pixels, in place, by candidates that come earlier in row-major order."""
    order = np.lexsort((candidate[:, 1], candidate[:, 0]))[::-1]
    group, candidate = group[order], candidate[order]
    now = first[group]
    earlier = (candidate[:, 0] < now[:, 0]) | ((candidate[:, 0] == now[:, 0]) & (candidate[:, 1] < now[:, 1]))
    first[group[earlier]] = candidate[earlier]  # of several for one group the earliest is written last


def _batch(tables: list[RegionTable], polygons: list[Polygons], scene_width: int) -> RegionBatch:
    """Tables and polygons put together and ordered by region id."""
    first = np.concatenate([t.first_pixel for t in tables]).astype(np.int64)
    region_id = first[:, 0] * scene_width + first[:, 1]
    order = np.argsort(region_id)
    count = np.concatenate([t.confidence_count for t in tables])[order]
    total = np.concatenate([t.confidence_sum for t in tables])[order]
    return RegionBatch(
        region_id=region_id[order],
        class_id=np.concatenate([t.class_id for t in tables])[order],
        pixels=np.concatenate([t.pixels for t in tables])[order],
        area_m2=np.concatenate([t.area_m2 for t in tables])[order],
        mean_confidence=np.where(count > 0, total / np.maximum(count, 1), np.nan),
        polygons=concatenate(polygons).take(order),
    )
