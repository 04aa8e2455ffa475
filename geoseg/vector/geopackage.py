"""The polygons of a scene as one styled GeoPackage layer, written batch by batch.

The same regions in the same batches give the same bytes: nothing in the file depends on the clock.
"""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
import pyogrio.errors
import shapely

from geoseg.errors import LabelError, OutputError, explain
from geoseg.vector.merge import RegionBatch
from geoseg.vector.polygons import no_polygons
from geoseg.vector.style import polygon_qml, polygon_sld

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.legend import Legend

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The date in files whose makers gave none."""

GEOMETRY = "geom"

_FEATURES_AT_ONCE = 20_000
"""Small batches are put together until there are this many: opening the file again has its price."""

_SIDECARS = ("", "-journal", "-wal", "-shm")

# The columns QGIS looks for, in its own order.
_LAYER_STYLES = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256),
    f_table_schema TEXT(256),
    f_table_name TEXT(256),
    f_geometry_column TEXT(256),
    styleName TEXT(30),
    styleQML TEXT,
    styleSLD TEXT,
    useAsDefault BOOLEAN,
    description TEXT,
    owner TEXT(30),
    ui TEXT(30),
    update_time DATETIME DEFAULT CURRENT_TIMESTAMP
)"""


def write_geopackage(
    path: Path,
    batches: Iterable[RegionBatch],
    *,
    geobox: GeoBox,
    legend: Legend,
    layer: str = "landuse",
    description: str = "",
    metadata: Mapping[str, str] | None = None,
    date: datetime = EPOCH,
) -> int:
    """Number of polygons written to the one layer of a new GeoPackage, its style embedded.

    Columns: class_id, class_name, area_m2, pixels, mean_confidence (percent, null where there is none),
    region_id. Polygons are in the scene's CRS. No polygons at all give a valid file with an empty layer.

    Args:
        path: what is there, a stale journal included, is replaced; ends in `.gpkg`. Syncing the finished
            file and renaming it into place is the caller's business.
        batches: finished regions, in the order they are to be written; asked for one at a time.
        geobox: the scene's grid.
        legend: names and colours of every class id that occurs.
        layer: name of the layer and its table.
        description: what the layer is, for people.
        metadata: keys and values stored with the layer (GDAL 3.12 spills those of the dataset into an
            `.aux.xml` as soon as somebody reads the file).
        date: written wherever the format wants one.

    Raises:
        LabelError: when a class id is not in the legend.
        OutputError: when the file cannot be written.
    """
    if path.suffix.lower() != ".gpkg":
        raise ValueError(f"a GeoPackage ends in .gpkg, {path.name!r} does not")
    with _explained(path):
        for sidecar in _SIDECARS:
            path.with_name(path.name + sidecar).unlink(missing_ok=True)
    # Nothing is worth syncing before the file is whole.
    with _gdal_options(OGR_CURRENT_DATE=_timestamp(date), OGR_SQLITE_SYNCHRONOUS="OFF"):
        count = _write_layer(
            path, batches, geobox=geobox, legend=legend, layer=layer, about=(description, metadata)
        )
    with _explained(path):
        _embed_style(path, legend=legend, layer=layer, date=date)
        _check_count(path, layer, count)
    return count


def _write_layer(
    path: Path,
    batches: Iterable[RegionBatch],
    *,
    geobox: GeoBox,
    legend: Legend,
    layer: str,
    about: tuple[str, Mapping[str, str] | None],
) -> int:
    """Number of polygons written; the first append creates the file, its metadata and its spatial index."""
    description, metadata = about
    creation: dict[str, Any] = {
        "layer_options": {
            "GEOMETRY_NAME": GEOMETRY,
            "IDENTIFIER": layer,
            "DESCRIPTION": description,
            "SPATIAL_INDEX": "YES",
        },
        "layer_metadata": dict(metadata) if metadata else None,
        "crs": None if geobox.crs is None else geobox.crs.to_wkt(),
    }
    count = 0
    for geometry, columns in _gathered(batches, geobox, legend):
        _append(path, geometry, columns, layer=layer, append=count > 0, creation=creation)
        count += len(geometry)
    if not count:
        geometry, columns = _features(_no_regions(), geobox, legend)
        _append(path, geometry, columns, layer=layer, append=False, creation=creation)
    return count


def _append(
    path: Path,
    geometry: NDArray[Any],
    columns: dict[str, NDArray[Any]],
    *,
    layer: str,
    append: bool,
    creation: dict[str, Any],
) -> None:
    with _explained(path), warnings.catch_warnings():
        # A scene without a CRS is written without one: that is what it is.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        pyogrio.raw.write(
            path,
            geometry,
            list(columns.values()),
            list(columns),
            layer=layer,
            driver="GPKG",
            geometry_type="Polygon",
            append=append,
            **({"crs": creation["crs"]} if append else creation),
        )


def _gathered(
    batches: Iterable[RegionBatch], geobox: GeoBox, legend: Legend
) -> Iterator[tuple[NDArray[Any], dict[str, NDArray[Any]]]]:
    """Features of consecutive batches, put together while they are few; never an empty lot."""
    waiting: list[tuple[NDArray[Any], dict[str, NDArray[Any]]]] = []
    for batch in batches:
        if len(batch):
            waiting.append(_features(batch, geobox, legend))
        if sum(len(g) for g, _ in waiting) >= _FEATURES_AT_ONCE:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(
    lots: list[tuple[NDArray[Any], dict[str, NDArray[Any]]]],
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    names = list(lots[0][1])
    columns = {name: np.concatenate([columns[name] for _, columns in lots]) for name in names}
    return np.concatenate([geometry for geometry, _ in lots]), columns


def _features(
    batch: RegionBatch, geobox: GeoBox, legend: Legend
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """WKB polygons in the scene's CRS, outer rings counter-clockwise, and the columns of the layer."""
    geometry = batch.polygons.to_shapely(geobox.affine)
    if geobox.affine.determinant > 0:  # canonical rings run clockwise; a flipped axis turns them round
        geometry = shapely.orient_polygons(geometry)
    columns = {
        "class_id": batch.class_id.astype(np.int32),
        "class_name": _names(batch.class_id, legend),
        "area_m2": batch.area_m2,
        "pixels": batch.pixels,
        "mean_confidence": batch.mean_confidence,
        "region_id": batch.region_id,
    }
    return np.asarray(shapely.to_wkb(geometry), object), columns


def _names(class_id: NDArray[np.uint8], legend: Legend) -> NDArray[Any]:
    unknown = legend.unknown(class_id)
    if unknown or (class_id == legend.nodata).any():
        raise LabelError(
            explain(
                "polygons of a class without a name",
                at="class_id",
                expected=f"ids of the legend: {legend.ids.tolist()}",
                found=unknown or f"nodata, {legend.nodata}",
                change="Give a legend that names every class of the raster.",
            )
        )
    names = np.empty(256, object)
    names[legend.ids] = legend.names
    return names[class_id]


def _embed_style(path: Path, *, legend: Legend, layer: str, date: datetime) -> None:
    """Add the layer_styles table from which QGIS takes a layer's default style."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_LAYER_STYLES)
        connection.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column,"
            " styleName, styleQML, styleSLD, useAsDefault, description, owner, ui, update_time)"
            " VALUES ('', '', ?, ?, ?, ?, ?, 1, ?, '', NULL, ?)",
            (
                layer,
                GEOMETRY,
                layer,
                polygon_qml(legend),
                polygon_sld(legend, layer=layer),
                f"Classes of {layer}",
                _timestamp(date),
            ),
        )
        connection.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change)"
            " VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?)",
            (_timestamp(date),),
        )


def _check_count(path: Path, layer: str, count: int) -> None:
    """Raise when the finished file does not hold `count` features."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = ?"
        found = connection.execute(query, (layer,)).fetchone()
    if found != (count,):
        raise OSError(f"{found} features in the file, {count} were written")


def _no_regions() -> RegionBatch:
    integers, reals = np.empty(0, np.int64), np.empty(0, np.float64)
    return RegionBatch(
        region_id=integers,
        class_id=np.empty(0, np.uint8),
        pixels=integers,
        area_m2=reals,
        mean_confidence=reals,
        polygons=no_polygons(),
    )


def _timestamp(date: datetime) -> str:
    """The form the format prescribes, in UTC."""
    return date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Failures to write inside the block, as OutputError; those of the caller's batches stay outside."""
    try:
        yield
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        sqlite3.Error,
        OSError,
    ) as error:
        message = explain(
            "the GeoPackage cannot be written",
            at=path,
            expected="a folder that can be written to, with space left",
            found=error,
            change="Choose another output folder or make room.",
        )
        raise OutputError(message) from error


@contextmanager
def _gdal_options(**options: str) -> Iterator[None]:
    """GDAL's settings inside the block, the former ones after it; they are the process's, not a thread's."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)
