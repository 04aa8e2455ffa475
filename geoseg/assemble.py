"""From the parts of all tiles to the files users take away. One process, one part per product in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from geoseg.files import replacing, write_text
from geoseg.raster.classes import write_coded
from geoseg.raster.cog import CogStyle, cog_writer
from geoseg.raster.legends import legend_tag
from geoseg.regions import EDGE_NAMES, Edges
from geoseg.stitch import CONFIDENCE_NODATA, PROBABILITY_SCALE
from geoseg.vector.attributes import features_of
from geoseg.vector.features import Layer
from geoseg.vector.formats import write_features
from geoseg.vector.merge import merge_tiles
from geoseg.vector.options import parse_crs
from geoseg.vector.style import raster_qml
from geoseg.vector.trace import TileRegions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from odc.geo.geobox import GeoBox

    from geoseg.legend import Legend
    from geoseg.raster.classes import Codes
    from geoseg.raster.parts import PartStore
    from geoseg.vector.options import Format, Tracing
    from geoseg.vector.summary import Totals
    from geoseg.windows import Window

Cores = dict["Window", tuple[int, int]]
"""The core of every tile, with the tile's row and column in the grid of tiles."""

RasterKind = Literal["classes", "cleaned", "confidence", "probabilities"]
"""Rasters that can be made of the parts of a job."""
ProductKind = Literal[RasterKind, "polygons"]
"""And the polygons, in any number of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Parts and what is needed to make products of them.

    Its methods may run at the same time, each for another product: they share nothing but the parts, which
    they only read.
    """

    store: PartStore
    outlined: PartStore
    """Of the parts polygons are made of: the same, or those after the minimum mapping unit."""
    cores: Cores
    """In the product's own pixels, row by row."""
    geobox: GeoBox
    legend: Legend
    tags: Mapping[str, str]
    """Dataset metadata of every product; equal tags and pixels give equal bytes."""
    codes: Codes | None = None
    """What people see for each class id; None: the ids themselves."""
    tracing: Tracing | None = None
    """How tiles were traced; None: they were not, and there are no polygons."""
    crs: str | None = None
    """CRS of the polygons; None: the grid's."""
    confidence: str = "confidence"
    """What the confidence raster holds, in percent: its band's description."""
    threads: int = 1
    """Blocks of one raster that are compressed at once."""

    def write_all(
        self,
        rasters: Mapping[RasterKind, Path],
        polygons: Mapping[Format, Path],
        *,
        description: str,
        on_written: Callable[[ProductKind], None] | None = None,
    ) -> Totals | None:
        """Writes several products at the same time; returns what polygons come to, if they are wanted.

        Args:
            rasters: what to write and where.
            polygons: files of the polygons.
            description: of the polygons.
            on_written: called, in the caller's thread, whenever one is there.

        Raises:
            OutputError: one of them cannot be written. Those that are under way are finished first.
            ExecutionError: a part is missing or damaged.
        """
        write: dict[RasterKind, Callable[[Path], None]] = {
            # What takes longest begins first.
            "probabilities": self.write_probabilities,
            "confidence": self.write_confidence,
            "classes": self.write_classes,
            "cleaned": self.write_cleaned,
        }
        running: dict[Future[Totals | None], ProductKind] = {}
        with ThreadPoolExecutor(len(write) + 1) as pool:
            if polygons:
                outlines = partial(self.write_polygons, polygons, description=description)
                running[pool.submit(outlines)] = "polygons"
            running |= {pool.submit(write[kind], rasters[kind]): kind for kind in write if kind in rasters}
            for done in as_completed(running):
                done.result()
                if on_written:
                    on_written(running[done])
        return next((task.result() for task, kind in running.items() if kind == "polygons"), None)

    def write_classes(self, path: Path) -> None:
        """The class raster as a COG, with its names and colours in and beside it."""
        self._write_classes(path, self.store)

    def write_cleaned(self, path: Path) -> None:
        """The class raster after the minimum mapping unit, which the polygons match."""
        if self.codes is None:
            self._write_classes(path, self.outlined)
            return
        pieces = ((core, self.outlined.read(*at, "classes")["classes"]) for core, at in self.cores.items())
        write_coded(path, pieces, geobox=self.geobox, codes=self.codes, nodata=self.legend.nodata)

    def write_confidence(self, path: Path) -> None:
        """The confidence raster, percent, as a COG."""
        style = CogStyle(
            nodata=CONFIDENCE_NODATA,
            resampling="average",
            bands=(f"{self.confidence}, percent",),
            scale=0.01,
        )
        self._write_cog(path, "confidence", style, self.tags, self.store)

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

    def write_polygons(self, paths: Mapping[Format, Path], *, description: str) -> Totals:
        """The polygons, in all files at once; returns what they come to by class."""
        how = self.tracing
        if how is None:
            raise ValueError("the tiles of this job were not traced")
        batches = merge_tiles(
            list(self.cores),
            load_edges=self._edges,
            load_regions=self._regions,
            scene_width=int(self.geobox.shape[1]),
            connectivity=how.connectivity,
            generalise=how.generalise,
        )
        layer = Layer(
            geobox=self.geobox,
            legend=self.legend,
            codes=self.codes,
            description=description,
            metadata=self.tags,
            crs=None if self.crs is None else parse_crs(self.crs),
            multi=how.connectivity == 8,  # noqa: PLR2004
            share_ids=how.mixed or (),
        )
        features = features_of(batches, self.geobox, generalised=how.generalise is not None)
        with ExitStack() as files:
            temporary: dict[str, Path] = {
                kind: files.enter_context(replacing(path)) for kind, path in paths.items()
            }
            return write_features(temporary, features, layer=layer)

    def _edges(self, core: Window) -> Edges:
        return Edges.from_arrays(self.outlined.read(*self.cores[core], *EDGE_NAMES))

    def _regions(self, core: Window) -> TileRegions:
        return TileRegions.from_arrays(self.outlined.read(*self.cores[core]))

    def _write_classes(self, path: Path, store: PartStore) -> None:
        style = CogStyle(nodata=self.legend.nodata, resampling="mode", bands=("class",), legend=self.legend)
        self._write_cog(path, "classes", style, {**self.tags, **legend_tag(self.legend)}, store)
        write_text(path.with_suffix(".qml"), raster_qml(self.legend))

    def _write_cog(
        self, path: Path, name: str, style: CogStyle, tags: Mapping[str, str], store: PartStore
    ) -> None:
        with cog_writer(path, self.geobox, style, tags, threads=self.threads) as store_window:
            for core, (row, col) in self.cores.items():
                store_window(core, store.read(row, col, name)[name])
