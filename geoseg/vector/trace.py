"""Outlines of one tile: its regions traced along pixel corners, with their sums and edges."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geoseg.regions import (
    Components,
    Connectivity,
    Edges,
    RegionTable,
    class_mix,
    find_components,
    measure_regions,
    seam_sides,
)
from geoseg.vector.outlines import Outlines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from geoseg.vector.rings import Rings
    from geoseg.vector.simplify import Generalisation
    from geoseg.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRegions:
    """The regions of one tile: region i has label i + 1 in `edges`."""

    table: RegionTable
    """Class, sums and first pixel of each region."""
    outlines: Outlines
    """Of each region. Along seams every lattice point is a vertex, and none there is fixed."""
    edges: Edges
    """Labels and classes along the four sides of the core."""
    touching: NDArray[np.bool_]
    """Shape (regions,): True where a pixel lies beside a seam, so that other tiles have a say in the outline;
    the others are finished."""
    obstacles: NDArray[np.int32]
    """Shape (n, 2), column and row: vertices as they were, for lines that are generalised after merging."""

    def __len__(self) -> int:
        return len(self.table)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for an .npz without pickle; `from_arrays` restores an equal value."""
        parts = (self.table, self.outlines)
        arrays = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
        arrays |= {"touching": self.touching, "obstacles": self.obstacles}
        known = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
        return known | self.edges.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TileRegions:
        """The regions in `arrays`."""
        table = {f.name: arrays[f.name] for f in fields(RegionTable) if f.name in arrays}
        outlines = {f.name: arrays[f.name] for f in fields(Outlines) if f.name != "scale"}
        return cls(
            table=RegionTable(**table),
            outlines=Outlines(**outlines, scale=int(arrays["scale"])),
            edges=Edges.from_arrays(arrays),
            touching=arrays["touching"],
            obstacles=arrays["obstacles"],
        )


def trace_tile(
    classes: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
    scene: Window,
    nodata: int,
    connectivity: Connectivity = 4,
    generalise: Generalisation | None = None,
    original: NDArray[np.uint8] | None = None,
    original_ids: NDArray[np.uint8] | None = None,
) -> TileRegions:
    """The regions of a tile with outlines, sums and edges.

    Args:
        classes: class ids, of the core's shape.
        confidence: percent 0..100 or 255 for none, of the core's shape; None when there is none at all.
        pixel_area: m2 of each pixel, broadcastable to the core's shape.
        core: where the tile is in the scene.
        scene: all pixels of the product; where the core ends and the scene does not, there is a seam.
        nodata: the value in `classes` that is no class.
        connectivity: 4, or 8 if pixels that touch at corners are connected too.
        generalise: how lines are simplified; None leaves them on the pixels' sides.
        original: class ids before small regions were dissolved, to count what regions are mixed of.
        original_ids: which classes to count there; None: all 256.
    """
    from geoseg.vector.rings import assemble

    found = find_components(classes, core=core, scene=scene, nodata=nodata, connectivity=connectivity)
    mix = None
    if original is not None:
        ids = np.arange(256, dtype=np.uint8) if original_ids is None else original_ids
        mix = class_mix(found, original, ids, core=core)
    table = measure_regions(found, classes, confidence=confidence, pixel_area=pixel_area, core=core, mix=mix)
    edges = found.edges(classes)
    touching = _touching(edges, core, scene, len(table))
    keep_outline = generalise is not None and generalise.keep_outline
    traced = _trace(found, core, keep_outline=keep_outline)
    del found  # its labels are the largest array there is, and the next step takes as much
    outlines = assemble(traced.rings, polygon=traced.polygon, region=traced.region, starts_differ=True)
    obstacles = np.empty((0, 2), np.int32)
    if generalise is not None:
        from geoseg.vector.simplify import generalise_tile

        outlines, obstacles = generalise_tile(outlines, core=core, scene=scene, how=generalise)
    return TileRegions(table=table, outlines=outlines, edges=edges, touching=touching, obstacles=obstacles)


def outline(found: Components, core: Window, *, keep_outline: bool = False) -> Outlines:
    """One outline per region, in the order of labels, of pieces that are polygons.

    A vertex is fixed where three regions meet and on the scene's border and, if asked for, where the region
    lies beside nodata.
    """
    from geoseg.vector.rings import assemble

    traced = _trace(found, core, keep_outline=keep_outline)
    return assemble(traced.rings, polygon=traced.polygon, region=traced.region, starts_differ=True)


class _Traced(NamedTuple):
    """Rings with the polygon of each, and the region of each polygon."""

    rings: Rings
    polygon: NDArray[np.int64]
    region: NDArray[np.int64]


def _trace(found: Components, core: Window, *, keep_outline: bool) -> _Traced:
    from geoseg.vector.walk import trace_rings

    rings, piece = trace_rings(found.framed, origin=(core.row, core.col), keep_outline=keep_outline)
    return _Traced(rings, piece - 1, found.region[1:].astype(np.int64) - 1)


def _touching(edges: Edges, core: Window, scene: Window, regions: int) -> NDArray[np.bool_]:
    """Which regions have a pixel beside a seam."""
    touching = np.zeros(regions + 1, np.bool_)
    sides = (edges.top, edges.bottom, edges.left, edges.right)
    for strip, seam in zip(sides, seam_sides(core, scene), strict=True):
        if seam:
            touching[strip[0]] = True
    return touching[1:]
