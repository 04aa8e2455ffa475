"""From the parts of all tiles to the files users take away. One process, one part in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.files import replacing, write_text
from geoseg.raster.cog import CogStyle, cog_writer
from geoseg.raster.legends import legend_tag
from geoseg.regions import EDGE_NAMES, Edges
from geoseg.stitch import CONFIDENCE_NODATA
from geoseg.vector.geopackage import write_geopackage
from geoseg.vector.merge import merge_tiles
from geoseg.vector.style import raster_qml
from geoseg.vector.trace import TileRegions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from odc.geo.geobox import GeoBox

    from geoseg.legend import Legend
    from geoseg.raster.parts import PartStore
    from geoseg.windows import Window

Cores = dict["Window", tuple[int, int]]
"""The core of every tile, with the tile's row and column in the grid of tiles."""

CONFIDENCE_STYLE = CogStyle(
    nodata=CONFIDENCE_NODATA, resampling="average", description="confidence, percent", scale=0.01
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Parts and what is needed to make products of them."""

    store: PartStore
    cores: Cores
    geobox: GeoBox
    legend: Legend
    tags: Mapping[str, str]
    """Dataset metadata of every product; equal tags and pixels give equal bytes."""

    def write_classes(self, path: Path) -> None:
        """The class raster as a COG, with its names and colours in and beside it."""
        style = CogStyle(
            nodata=self.legend.nodata, resampling="mode", description="class", legend=self.legend
        )
        self._write_cog(path, "classes", style, {**self.tags, **legend_tag(self.legend)})
        write_text(path.with_suffix(".qml"), raster_qml(self.legend))

    def write_confidence(self, path: Path) -> None:
        """The confidence raster, percent, as a COG."""
        self._write_cog(path, "confidence", CONFIDENCE_STYLE, self.tags)

    def write_polygons(self, path: Path, *, description: str) -> int:
        """The GeoPackage; returns how many polygons it has."""
        batches = merge_tiles(
            list(self.cores),
            load_edges=self._edges,
            load_regions=self._regions,
            scene_width=int(self.geobox.shape[1]),
        )
        with replacing(path) as temporary:
            return write_geopackage(
                temporary,
                batches,
                geobox=self.geobox,
                legend=self.legend,
                description=description,
                metadata=self.tags,
            )

    def _edges(self, core: Window) -> Edges:
        return Edges.from_arrays(self.store.read(*self.cores[core], *EDGE_NAMES))

    def _regions(self, core: Window) -> TileRegions:
        return TileRegions.from_arrays(self.store.read(*self.cores[core]))

    def _write_cog(self, path: Path, name: str, style: CogStyle, tags: Mapping[str, str]) -> None:
        with cog_writer(path, self.geobox, style, tags) as store_window:
            for core, (row, col) in self.cores.items():
                store_window(core, self.store.read(row, col, name)[name])
