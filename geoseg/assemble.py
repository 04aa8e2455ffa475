"""From the parts of all tiles to the files users take away. One process, one part per product in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from geoseg.files import replacing, write_text
from geoseg.raster.cog import CogStyle, cog_writer
from geoseg.raster.legends import legend_tag
from geoseg.regions import EDGE_NAMES, Edges
from geoseg.stitch import CONFIDENCE_NODATA, PROBABILITY_SCALE
from geoseg.vector.geopackage import write_geopackage
from geoseg.vector.merge import merge_tiles
from geoseg.vector.style import raster_qml
from geoseg.vector.trace import TileRegions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from odc.geo.geobox import GeoBox

    from geoseg.legend import Legend
    from geoseg.raster.parts import PartStore
    from geoseg.windows import Window

Cores = dict["Window", tuple[int, int]]
"""The core of every tile, with the tile's row and column in the grid of tiles."""

ProductKind = Literal["classes", "confidence", "probabilities", "polygons"]
"""What can be made of the parts of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Parts and what is needed to make products of them.

    Its methods may run at the same time, each for another product: they share nothing but the parts, which
    they only read.
    """

    store: PartStore
    cores: Cores
    """In the product's own pixels, row by row."""
    geobox: GeoBox
    legend: Legend
    tags: Mapping[str, str]
    """Dataset metadata of every product; equal tags and pixels give equal bytes."""
    confidence: str = "confidence"
    """What the confidence raster holds, in percent: its band's description."""
    threads: int = 1
    """Blocks of one raster that are compressed at once."""

    def write_all(
        self,
        paths: Mapping[ProductKind, Path],
        *,
        description: str,
        on_written: Callable[[ProductKind], None] | None = None,
    ) -> int | None:
        """Writes several products at the same time; returns how many polygons there are, if they are wanted.

        Args:
            paths: what to write and where.
            description: of the GeoPackage.
            on_written: called, in the caller's thread, whenever one is there.

        Raises:
            OutputError: one of them cannot be written. Those that are under way are finished first.
            ExecutionError: a part is missing or damaged.
        """
        write: dict[ProductKind, Callable[[Path], int | None]] = {
            # What takes longest begins first.
            "polygons": partial(self.write_polygons, description=description),
            "probabilities": self.write_probabilities,
            "confidence": self.write_confidence,
            "classes": self.write_classes,
        }
        with ThreadPoolExecutor(len(write)) as pool:
            running = {pool.submit(write[kind], paths[kind]): kind for kind in write if kind in paths}
            for done in as_completed(running):
                done.result()
                if on_written:
                    on_written(running[done])
        return next((task.result() for task, kind in running.items() if kind == "polygons"), None)

    def write_classes(self, path: Path) -> None:
        """The class raster as a COG, with its names and colours in and beside it."""
        style = CogStyle(nodata=self.legend.nodata, resampling="mode", bands=("class",), legend=self.legend)
        self._write_cog(path, "classes", style, {**self.tags, **legend_tag(self.legend)})
        write_text(path.with_suffix(".qml"), raster_qml(self.legend))

    def write_confidence(self, path: Path) -> None:
        """The confidence raster, percent, as a COG."""
        style = CogStyle(
            nodata=CONFIDENCE_NODATA,
            resampling="average",
            bands=(f"{self.confidence}, percent",),
            scale=0.01,
        )
        self._write_cog(path, "confidence", style, self.tags)

    def write_probabilities(self, path: Path) -> None:
        """The probability of every class as a COG of one band per class, in the legend's order."""
        style = CogStyle(
            nodata=CONFIDENCE_NODATA,
            resampling="average",
            bands=self.legend.names,
            scale=1 / PROBABILITY_SCALE,
        )
        # Band by band, for memory: the open blocks of one band, and one plane of one part.
        with cog_writer(path, self.geobox, style, self.tags, threads=self.threads) as store_window:
            for band in range(len(self.legend)):
                for core, (row, col) in self.cores.items():
                    store_window(core, self.store.read_plane(row, col, "probabilities", band), band)

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
        with cog_writer(path, self.geobox, style, tags, threads=self.threads) as store_window:
            for core, (row, col) in self.cores.items():
                store_window(core, self.store.read(row, col, name)[name])
