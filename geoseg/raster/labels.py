"""Reference data as network targets: label rasters and polygons, seen on the pixel plane of a scene."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from geoseg.errors import LabelError, SceneError, UsageError, explain
from geoseg.legend import IGNORE_INDEX
from geoseg.raster.read import rio_window
from geoseg.raster.scene import Scene, open_scene
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.config import LabelSource
    from geoseg.legend import Legend

_MISSING = "(none)"
"""How a polygon without a class attribute is spelt in messages and in `classes`."""
_SCAN_ROWS = 1024
_SHOWN = 20
_SAME_GRID_PX = 1e-3
"""Grids whose pixels are nowhere further apart than this are one grid."""
Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterLabels:
    """A raster of class values, read on the grid of a scene."""

    source: Scene
    """The label file, one band."""
    geobox: GeoBox
    """The scene's grid, on which labels are delivered."""
    values: tuple[int, ...]
    """Source values that mean something, sorted."""
    indices: tuple[int, ...]
    """Class index of each of `values`, or IGNORE_INDEX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonLabels:
    """Polygons, burnt on the grid of a scene. Where they overlap, later ones lie on top."""

    path: str
    """Where they come from."""
    geobox: GeoBox
    """The scene's grid."""
    geometries: tuple[Any, ...]
    """Shapely polygons in the scene's CRS."""
    indices: tuple[int, ...]
    """Class index of each polygon, or IGNORE_INDEX."""
    bounds_px: NDArray[np.float64]
    """(polygons, 4): first row, first column, last row, last column of each, in the scene's pixel plane."""


Labels = RasterLabels | PolygonLabels


def open_labels(source: LabelSource, *, path: Path | str, scene: Scene, legend: Legend) -> Labels:
    """Labels of a scene: picklable, no open handle inside.

    Args:
        source: how the file is to be understood.
        path: the file itself, resolved.
        scene: what the labels belong to; they may have another grid or CRS.
        legend: the classes.

    Raises:
        LabelError: the file cannot be read, says other classes than the legend, or lies elsewhere.
    """
    if source.column is None:
        return _open_raster(source, str(path), scene, legend)
    return _open_polygons(source, source.column, str(path), scene, legend)


def read_labels(labels: Labels, window: Window) -> NDArray[np.uint8]:
    """Class indices of the scene's `window`; IGNORE_INDEX where nothing is known.

    Labels on another grid are taken from the nearest label pixel; polygons cover the pixels whose centre they
    contain.

    Raises:
        LabelError: reading fails, or there are values that are neither a class, nodata nor remapped.
    """
    if isinstance(labels, PolygonLabels):
        return _burn(labels, window)
    values, valid = _read_aligned(labels, window)
    known = np.array(labels.values)
    position = np.minimum(np.searchsorted(known, values), len(known) - 1)
    if ((known[position] != values) & valid).any():
        raise _unknown_values(labels)
    index = np.array(labels.indices, np.uint8)[position]
    index[~valid] = IGNORE_INDEX
    return index


# Rasters


def _open_raster(source: LabelSource, path: str, scene: Scene, legend: Legend) -> RasterLabels:
    try:
        file = open_scene(path)
    except SceneError as error:
        hint = " If these are polygons, say in which `column` their class stands."
        raise LabelError(f"the labels cannot be opened. {error}{hint}") from error
    file = file.select(file.band_names[:1])
    _require_overlap(path, _bounds(file.geobox), file.geobox.crs, scene)
    _require_free_nodata(source, file, legend)
    table = _value_table(source.remap, legend)
    return RasterLabels(
        source=file,
        geobox=scene.geobox,
        values=tuple(sorted(table)),
        indices=tuple(table[v] for v in sorted(table)),
    )


def _value_table(remap: Mapping[int, int | None], legend: Legend) -> dict[int, int]:
    """Class index by source value: the legend's ids, its nodata, and on top of them what `remap` says."""
    index_of = {int(id_): index for index, id_ in enumerate(legend.ids)}
    given = {value: _index_of(target, legend) for value, target in remap.items()}
    return {legend.nodata: IGNORE_INDEX, **index_of, **given}


def _require_free_nodata(source: LabelSource, file: Scene, legend: Legend) -> None:
    """Refuse a file whose nodata value is at the same time a class: nobody would see that class vanish."""
    with _opened(file.paths[0]) as dataset:
        nodata = dataset.nodatavals[file.bands[0].index - 1]
    if nodata is None or np.isnan(nodata):
        return
    table = _value_table(source.remap, legend)
    if table.get(int(nodata), IGNORE_INDEX) == IGNORE_INDEX:
        return
    name = legend.names[table[int(nodata)]]
    raise LabelError(
        explain(
            "the labels declare a class as nodata",
            at=file.paths[0],
            expected="a nodata value that is no class",
            found=f"nodata {nodata:g}, which is also class {name!r}",
            change=f"Leave those pixels out with `remap: {{{nodata:g}: null}}`, or make them labels with "
            "gdal_edit.py -unsetnodata.",
        )
    )


def _read_aligned(labels: RasterLabels, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Source values on the scene's grid, and where there are any; both (height, width)."""
    band = labels.source.bands[0].index
    rio = rio_window(window)
    with _opened(labels.source.paths[0]) as dataset, _on_grid(dataset, labels) as aligned:
        values = aligned.read(band, window=rio)
        valid = aligned.read_masks(band, window=rio) > 0
    if values.dtype.kind == "f":
        valid &= np.isfinite(values)
        values[~valid] = 0
    return values, valid


@contextmanager
def _on_grid(dataset: Any, labels: RasterLabels) -> Iterator[Any]:
    """The dataset itself where it has the scene's grid, else a view of it that has."""
    if _same_grid(labels.source.geobox, labels.geobox):
        yield dataset
        return
    height, width = labels.geobox.shape
    with WarpedVRT(
        dataset,
        crs=labels.geobox.crs.to_wkt(),
        transform=labels.geobox.affine,
        height=height,
        width=width,
        resampling=Resampling.nearest,
        add_alpha=ColorInterp.alpha not in dataset.colorinterp,  # outside the file there is no label
    ) as view:
        yield view


def _same_grid(a: GeoBox, b: GeoBox) -> bool:
    if a.shape != b.shape or a.crs != b.crs:
        return False
    to_b = ~b.affine
    apart = [
        abs(u - v)
        for corner in _corners(a)
        for u, v in zip(_applied(to_b, _applied(a.affine, corner)), corner, strict=True)
    ]
    return max(apart) < _SAME_GRID_PX


def _unknown_values(labels: RasterLabels) -> LabelError:
    """An error that lists every value of the scene that nobody explained, not only the first one met."""
    unknown: set[float] = set()
    height, width = labels.geobox.shape
    for row in range(0, height, _SCAN_ROWS):
        strip = Window(row, 0, min(_SCAN_ROWS, height - row), width)
        values, valid = _read_aligned(labels, strip)
        unknown.update(np.unique(values[valid]).tolist())
    unknown -= set(labels.values)
    listed = _listed(f"{v:g}" for v in sorted(unknown))
    known = ", ".join(str(v) for v in labels.values)
    return LabelError(
        explain(
            "the labels hold values that are neither a class nor nodata",
            at=labels.source.paths[0],
            expected=f"{known} (the legend's ids, its nodata and remapped values)",
            found=listed,
            change="Say what they are with `remap: {VALUE: class id}`, or leave them out with `VALUE: null`.",
        )
    )


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with rasterio.open(path) as dataset:
            yield dataset
    except RasterioError as error:
        raise LabelError(
            explain(
                "reading labels failed",
                at=path,
                expected="readable pixels that can be placed on the scene's grid",
                found=str(error.__cause__ or error),
                change="Check the file with gdalinfo; fetch it again if it is damaged.",
            )
        ) from error


# Polygons


def _open_polygons(
    source: LabelSource, column: str, path: str, scene: Scene, legend: Legend
) -> PolygonLabels:
    frame = _read_frame(source, column, path)
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    kinds = set(frame.geom_type) - {"Polygon", "MultiPolygon"}
    for what, found in (("polygons", ", ".join(sorted(kinds))), ("a CRS", "" if frame.crs else "none")):
        if found:
            raise _not_usable(path, f"features with {what}", found)
    indices = _class_indices(frame[column], source, path, legend)
    left, bottom, right, top = (float(v) for v in frame.total_bounds)
    bounds = (left, bottom, right, top) if len(frame) else None
    _require_overlap(path, bounds, frame.crs, scene)
    geometries = tuple(frame.geometry.to_crs(scene.geobox.crs.to_wkt()))
    return PolygonLabels(
        path=path,
        geobox=scene.geobox,
        geometries=geometries,
        indices=indices,
        bounds_px=np.array([_pixel_bounds(g.bounds, scene.geobox) for g in geometries]),
    )


def _read_frame(source: LabelSource, column: str, path: str) -> Any:
    import geopandas
    import pyogrio

    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        if source.layer is None and len(layers) > 1:
            raise _not_usable(path, "one layer, or `layer` to say which", ", ".join(layers))
        if source.layer is not None and source.layer not in layers:
            raise _not_usable(path, f"layer {source.layer!r}", ", ".join(layers))
        frame = geopandas.read_file(path, layer=source.layer or layers[0], engine="pyogrio")
    except pyogrio.errors.DataSourceError as error:
        raise _not_usable(path, "a vector file", str(error)) from error
    attributes = [str(c) for c in frame.columns if c != "geometry"]
    if column not in attributes or not hasattr(frame, "geom_type"):
        raise _not_usable(path, f"polygons with an attribute {column!r}", ", ".join(attributes))
    return frame


def _not_usable(path: str, expected: str, found: str) -> LabelError:
    return LabelError(
        explain(
            "the polygons cannot be used as labels",
            at=path,
            expected=expected,
            found=found or "none",
            change="Correct the entry under `labels`, or the file; ogrinfo shows what is in it.",
        )
    )


def _class_indices(column: Any, source: LabelSource, path: str, legend: Legend) -> tuple[int, ...]:
    """Class index of each polygon, by what its attribute says."""
    by_text = {str(id_): i for i, id_ in enumerate(legend.ids.tolist())}
    by_text |= {name: i for i, name in enumerate(legend.names)}
    table = by_text | {value: _index_of(target, legend) for value, target in source.classes.items()}
    texts = [_attribute_text(v) for v in column]
    unknown = sorted(set(texts) - set(table))
    if unknown:
        classes = ", ".join(f"{c.id} {c.name}" for c in legend.classes)
        raise LabelError(
            explain(
                f"attribute {column.name!r} holds values that are not in the legend",
                at=path,
                expected=f"names or ids of the legend ({classes}) or keys of `classes`",
                found=_listed(unknown),
                change="Say what they are with `classes: {VALUE: class name or id}`; null leaves them out.",
            )
        )
    return tuple(table[t] for t in texts)


def _attribute_text(value: Any) -> str:
    """The attribute as text: 3.0, which is how an integer with gaps arrives, is "3"."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return _MISSING
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _burn(labels: PolygonLabels, window: Window) -> NDArray[np.uint8]:
    first_row, first_col, last_row, last_col = labels.bounds_px.T
    touched = np.flatnonzero(
        (first_row < window.stop_row)
        & (last_row > window.row)
        & (first_col < window.stop_col)
        & (last_col > window.col)
    )
    index = np.full(window.shape, IGNORE_INDEX, np.uint8)
    if touched.size and window.size:
        t = labels.geobox.affine
        left, top = _applied(t, (window.col, window.row))
        transform = Affine(t.a, t.b, left, t.d, t.e, top)
        shapes = [(labels.geometries[i], labels.indices[i]) for i in touched]
        rasterize(shapes, out=index, transform=transform)
    return index


# Classes and places


def _index_of(target: str | int | None, legend: Legend) -> int:
    """Class index of an id or a name; IGNORE_INDEX of None."""
    if target is None:
        return IGNORE_INDEX
    for index, entry in enumerate(legend.classes):
        if target in (entry.id, entry.name):
            return index
    raise UsageError(
        explain(
            "labels are mapped to a class that is not in the legend",
            at="`remap` or `classes`",
            expected=", ".join(f"{c.id} {c.name}" for c in legend.classes),
            found=repr(target),
            change="Correct the mapping, or map to null to leave those labels out.",
        )
    )


def _bounds(geobox: GeoBox) -> Bounds:
    xs, ys = zip(*(_applied(geobox.affine, corner) for corner in _corners(geobox)), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _corners(geobox: GeoBox) -> list[tuple[int, int]]:
    """Column and row of the four corners."""
    height, width = geobox.shape
    return [(0, 0), (width, 0), (0, height), (width, height)]


def _applied(affine: Affine, xy: tuple[float, float]) -> tuple[float, float]:
    """The point moved by the affine, in arithmetic that affine 2 and 3 agree on."""
    x, y = xy
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _pixel_bounds(bounds: Bounds, geobox: GeoBox) -> Bounds:
    """First and last row and column, unrounded, of a box given in the CRS of `geobox`."""
    left, bottom, right, top = bounds
    to_px = ~geobox.affine
    corners = ((x, y) for x in (left, right) for y in (bottom, top))
    cols, rows = zip(*(_applied(to_px, corner) for corner in corners), strict=True)
    return min(rows), min(cols), max(rows), max(cols)


def _require_overlap(path: str, bounds: Bounds | None, crs: Any, scene: Scene) -> None:
    """Returns when labels of the given bounds and CRS share a pixel with the scene."""
    height, width = scene.geobox.shape
    if bounds is not None:
        try:
            ours = transform_bounds(crs.to_wkt(), scene.geobox.crs.to_wkt(), *bounds)
            first_row, first_col, last_row, last_col = _pixel_bounds(ours, scene.geobox)
            if first_row < height and first_col < width and last_row > 0 and last_col > 0:
                return
        except RasterioError:
            pass  # outside the domain of the scene's CRS: elsewhere, told below
    raise LabelError(
        explain(
            "the labels lie outside the scene",
            at=path,
            expected=f"the extent of {scene.name}, {_extent(_bounds(scene.geobox), scene.geobox.crs)}",
            found=_extent(bounds, crs) if bounds else "no polygons",
            change="Check that both belong together and that the CRS of each is right.",
        )
    )


def _extent(bounds: Bounds, crs: Any) -> str:
    numbers = ", ".join(f"{v:.7g}" for v in bounds)
    name = f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else CRS.from_wkt(crs.to_wkt()).name
    return f"({numbers}) in {name}"


def _listed(values: Iterable[str]) -> str:
    given = list(values)
    return ", ".join(given[:_SHOWN]) + (f" and {len(given) - _SHOWN} more" if len(given) > _SHOWN else "")
