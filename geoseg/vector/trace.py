"""Polygons of one tile: its regions traced along pixel corners, with their sums and edges."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.features import shapes

from geoseg.regions import Edges, RegionTable, edges_of, find_regions
from geoseg.vector.polygons import Polygons, canonical, concatenate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from geoseg.windows import Window

_shapes_lock = threading.Lock()

_POLYGONS_AT_ONCE = 8192
"""Polygons held as Python lists before they become arrays: those lists are twenty times larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRegions:
    """The regions of one tile: region i has label i + 1 in `edges`."""

    table: RegionTable
    """Class, sums and first pixel of each region."""
    polygons: Polygons
    """Outline of each region, in pixel coordinates of the scene, in canonical form."""
    edges: Edges
    """Labels and classes along the four sides of the core."""

    def __len__(self) -> int:
        return len(self.table)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for an .npz without pickle; `from_arrays` restores an equal value."""
        parts = (self.table, self.polygons)
        arrays = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
        return arrays | self.edges.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TileRegions:
        """The regions in `arrays`."""
        return cls(
            table=RegionTable(**{f.name: arrays[f.name] for f in fields(RegionTable)}),
            polygons=Polygons(**{f.name: arrays[f.name] for f in fields(Polygons)}),
            edges=Edges.from_arrays(arrays),
        )


def trace_tile(
    classes: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
    nodata: int,
) -> TileRegions:
    """The regions of a tile with polygons, sums and edges.

    Args:
        classes: class ids, of the core's shape.
        confidence: percent 0..100 or 255 for none, of the core's shape; None when there is none at all.
        pixel_area: m2 of each pixel, broadcastable to the core's shape.
        core: where the tile is in the scene.
        nodata: the value in `classes` that is no class.
    """
    labels, table = find_regions(
        classes, confidence=confidence, pixel_area=pixel_area, core=core, nodata=nodata
    )
    return TileRegions(table=table, polygons=_trace(labels, core), edges=edges_of(labels, classes))


def _trace(labels: NDArray[np.int32], core: Window) -> Polygons:
    """One polygon per label, in the order of labels."""
    traced = list(_trace_chunks(labels, core))
    polygons = concatenate([p for p, _ in traced])
    order = np.argsort(np.concatenate([np.empty(0, np.int32), *(found for _, found in traced)]))
    return polygons.take(order)


def _trace_chunks(labels: NDArray[np.int32], core: Window) -> Iterator[tuple[Polygons, NDArray[np.int32]]]:
    """Polygons and their labels, some thousands at a time."""
    found: list[int] = []
    polygons: list[list[list[tuple[float, float]]]] = []
    for geometry, label in _shapes(labels):
        found.append(int(label))
        polygons.append(geometry["coordinates"])
        if len(found) == _POLYGONS_AT_ONCE:
            yield _as_arrays(polygons, core), np.array(found, np.int32)
            found, polygons = [], []
    if found:
        yield _as_arrays(polygons, core), np.array(found, np.int32)


def _shapes(labels: NDArray[np.int32]) -> Iterator[tuple[Any, float]]:
    """Rasterio's shapes, started by one thread at a time.

    All of its C code runs before the first shape comes, inside `warnings.catch_warnings`, which replaces the
    process's warning filters and is not safe in threads: others would see its warnings, or lose theirs.
    """
    found = shapes(labels, mask=labels > 0, connectivity=4)
    with _shapes_lock:
        first = next(found, None)
    return iter(()) if first is None else chain([first], found)


def _as_arrays(polygons: list[list[list[tuple[float, float]]]], core: Window) -> Polygons:
    """Lists of rings of points relative to the core, as canonical polygons of the scene."""
    rings = list(chain.from_iterable(polygons))
    points = np.fromiter(chain.from_iterable(chain.from_iterable(rings)), np.float64).reshape(-1, 2)
    coords = points.astype(np.int32) + np.array([core.col, core.row], np.int32)
    raw = Polygons(
        coords=coords,
        ring_offsets=np.cumsum([0, *map(len, rings)], dtype=np.int64),
        polygon_offsets=np.cumsum([0, *map(len, polygons)], dtype=np.int64),
    )
    return canonical(raw.to_shapely())
