"""Maps and reference data as class indices on one grid, the same however the grid is cut into windows.

GDAL's warper and its burning of polygons may answer differently for a pixel on an edge when asked for another
window. So everything is read in chunks of a lattice that is fixed to the grid, and windows are put together
from those.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyogrio
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from rasterio.warp import transform_bounds

from geoseg.config import LabelSource
from geoseg.errors import LabelError, SceneError, explain
from geoseg.legend import IGNORE_INDEX, Legend, LegendClass
from geoseg.raster.labels import open_labels, read_labels
from geoseg.raster.read import read_window
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.raster.scene import Scene

CHUNK_PX = 512
_KEPT = 128
"""Chunks kept decoded: 32 MiB of bytes."""
CLASS_COLUMN = "class_id"
"""Where the polygons geoseg writes say their class."""
_SUMMARY = "class_summary"
_VECTOR = frozenset({".gpkg", ".fgb", ".geojson", ".json", ".shp", ".gml", ".kml", ".sqlite"})


class Layer(Protocol):
    """Class indices on a grid."""

    def __call__(self, window: Window, /) -> NDArray[np.uint8]:
        """Of a window inside the grid, (height, width); IGNORE_INDEX where there is none."""


class Chunked:
    """A layer whose answers do not depend on how it is asked: it is read in chunks, and remembers some."""

    def __init__(self, read: Callable[[Window], NDArray[np.uint8]], plane: Window) -> None:
        """`read` is asked for chunks inside `plane`, the whole grid."""
        self._read = read
        self._plane = plane
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()

    def __call__(self, window: Window, /) -> NDArray[np.uint8]:
        """The values of a window inside the grid."""
        out = np.empty(window.shape, np.uint8)
        for chunk in chunks(window, self._plane):
            shared = chunk.intersect(window)
            out[shared.slices(origin=window)] = self._chunk(chunk)[shared.slices(origin=chunk)]
        return out

    def _chunk(self, chunk: Window) -> NDArray[np.uint8]:
        key = chunk.row, chunk.col
        if key not in self._kept:
            self._kept[key] = self._read(chunk)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def chunks(window: Window, plane: Window) -> Iterator[Window]:
    """The chunks of the lattice of `plane` that a window touches, row by row; those at its end are cut."""
    for row in range(window.row // CHUNK_PX * CHUNK_PX, window.stop_row, CHUNK_PX):
        for col in range(window.col // CHUNK_PX * CHUNK_PX, window.stop_col, CHUNK_PX):
            yield Window(row, col, CHUNK_PX, CHUNK_PX).intersect(plane)


def blocks(window: Window, side: int) -> Iterator[Window]:
    """Squares side by side that cover the window, row by row; those at its end are cut."""
    for row in range(window.row, window.stop_row, side):
        for col in range(window.col, window.stop_col, side):
            yield Window(row, col, side, side).intersect(window)


def is_vector(path: Path) -> bool:
    """True when a file's name says that it holds polygons."""
    return path.suffix.lower() in _VECTOR


def open_reference(source: LabelSource, *, path: Path, scene: Scene, legend: Legend) -> Layer:
    """Reference data, raster or polygons, on the grid of `scene`.

    Raises:
        LabelError: the file cannot be read, says other classes than the legend, or lies elsewhere.
    """
    labels = open_labels(source, path=path, scene=scene, legend=legend)
    return Chunked(partial(read_labels, labels), scene.window)


def open_map(path: Path, *, scene: Scene, legend: Legend) -> Layer:
    """A class raster, or polygons as geoseg writes them, on the grid of `scene`.

    Raises:
        LabelError: the file cannot be read, says other classes than the legend, or lies elsewhere.
    """
    if is_vector(path):
        return Chunked(ClassPolygons.open(path, geobox=scene.geobox, legend=legend).read, scene.window)
    return open_reference(LabelSource(path=str(path)), path=path, scene=scene, legend=legend)


def open_confidence(confidence: Scene, *, grid: Scene) -> Layer:
    """Whole percent, IGNORE_INDEX where there is none.

    Raises:
        LabelError: the raster has another grid than the map, or says that it holds no probabilities.
    """
    what = confidence.band_names[0]
    if what.endswith(", percent") and not what.startswith("probability"):
        raise LabelError(
            explain(
                "this confidence cannot be compared with how often the map is right",
                at=", ".join(confidence.paths),
                expected="the probability of the class",
                found=what.removesuffix(", percent"),
                change="Predict with --confidence probability, or evaluate without it.",
            )
        )
    one, other = confidence.geobox, grid.geobox
    if one.shape != other.shape or one.crs != other.crs or one.affine != other.affine:
        raise LabelError(
            explain(
                "the confidence raster does not belong to the map",
                at=", ".join(confidence.paths),
                expected=f"the grid of {grid.name}, {tuple(other.shape)} px",
                found=f"another one, {tuple(one.shape)} px",
                change="Give the confidence raster that was written together with the map.",
            )
        )

    def read(window: Window) -> NDArray[np.uint8]:
        pixels = read_window(confidence, window)
        return np.where(pixels.valid, pixels.values[0], IGNORE_INDEX).astype(np.uint8)

    return Chunked(read, confidence.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPolygons:
    """Polygons with a class id, read where they are needed: a map of millions of them is never in memory."""

    path: str
    layer: str
    crs: CRS
    geobox: GeoBox
    """The grid they are burnt on."""
    legend: Legend

    @classmethod
    def open(cls, path: Path, *, geobox: GeoBox, legend: Legend) -> ClassPolygons:
        """The one layer of polygons in a file.

        Raises:
            LabelError: there is none, or several, or no class column or CRS.
        """
        try:
            layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind and "Polygon" in kind]
            if len(layers) != 1:
                raise _unusable(path, "one layer of polygons", ", ".join(layers) or "none")
            info = pyogrio.read_info(path, layer=layers[0])
        except pyogrio.errors.DataSourceError as error:
            raise _unusable(path, "a vector file", str(error)) from error
        if CLASS_COLUMN not in info["fields"]:
            raise _unusable(path, f"an attribute {CLASS_COLUMN}", ", ".join(info["fields"]))
        if not info["crs"]:
            raise _unusable(path, "a CRS", "none")
        crs = CRS.from_user_input(info["crs"])
        return cls(path=str(path), layer=layers[0], crs=crs, geobox=geobox, legend=legend)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class indices of a window: of the polygon that holds the pixel's centre.

        Raises:
            LabelError: there is a class id that is not in the legend.
        """
        index = np.full(window.shape, IGNORE_INDEX, np.uint8)
        affine = self.geobox.affine
        xs, ys = _corners(affine, window)
        own = CRS.from_wkt(self.geobox.crs.to_wkt())
        box = min(xs), min(ys), max(xs), max(ys)
        if self.crs != own:
            box = transform_bounds(own.to_wkt(), self.crs.to_wkt(), *box)
        _, _, wkb, (ids,) = pyogrio.raw.read(self.path, layer=self.layer, columns=[CLASS_COLUMN], bbox=box)
        if not len(wkb):
            return index
        shapes = shapely.from_wkb(wkb)
        if self.crs != own:
            move = Transformer.from_crs(self.crs, own, always_xy=True)
            shapes = shapely.transform(shapes, lambda xy: np.stack(move.transform(*xy.T), axis=1))
        to_px = ~affine
        pixels = shapely.transform(shapes, lambda xy: _applied(to_px, xy) - (window.col, window.row))
        classes = self._indices(ids)
        # Of long outlines only the share that is near: what is burnt takes time by the vertex.
        near = shapely.clip_by_rect(pixels, -1, -1, window.width + 1, window.height + 1)
        parts, owner = shapely.get_parts(near, return_index=True)
        areal = shapely.get_dimensions(parts) == 2  # noqa: PLR2004 - cuts may leave lines and points
        if areal.any():
            burnt = zip(parts[areal], classes[owner[areal]].tolist(), strict=True)
            rasterize(burnt, out=index, transform=Affine.identity())
        return index

    def _indices(self, ids: NDArray[Any]) -> NDArray[np.uint8]:
        unknown = sorted(set(ids.tolist()) - set(self.legend.ids.tolist()))
        if unknown:
            raise _unusable(
                self.path,
                f"class ids of the legend: {', '.join(map(str, self.legend.ids.tolist()))}",
                ", ".join(map(str, unknown[:20])),
            )
        return self.legend.encode(ids.astype(np.uint8))


def polygon_legend(path: Path) -> Legend | None:
    """The classes that geoseg has written beside its polygons in a GeoPackage; None: there are none.

    Raises:
        SceneError: there is no such file.
    """
    if not path.is_file():
        raise SceneError(f"no such file: {path}")
    if path.suffix.lower() != ".gpkg":
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                f"SELECT class_id, class_name, color FROM {_SUMMARY} WHERE class_id IS NOT NULL ORDER BY fid"  # noqa: S608 - a constant
            ).fetchall()
    except sqlite3.DatabaseError:
        return None
    if not rows:
        return None
    return Legend(classes=tuple(LegendClass(id=i, name=name, color=color) for i, name, color in rows))


def _unusable(path: Path | str, expected: str, found: str) -> LabelError:
    return LabelError(
        explain(
            "the polygons cannot be evaluated",
            at=path,
            expected=expected,
            found=found or "none",
            change="Give a file that `geoseg predict` or `geoseg vectorize` wrote; for others make one layer "
            f"with the class id in {CLASS_COLUMN}.",
        )
    )


def _corners(affine: Affine, window: Window) -> tuple[list[float], list[float]]:
    corners = [(c, r) for c in (window.col, window.stop_col) for r in (window.row, window.stop_row)]
    xs, ys = _applied(affine, np.array(corners, np.float64)).T
    return xs.tolist(), ys.tolist()


def _applied(affine: Affine, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points (n, 2) moved by the affine."""
    x, y = xy.T
    return np.stack([affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f], axis=1)
