"""The polygons of a scene as one styled GeoPackage layer, written batch by batch.

GDAL makes the empty file with everything the format wants. Rows and spatial index are put in as finished
pages (`pages`, `rtree`), many times faster than through SQL; the rest, small things, through SQLite. The
same features in the same batches give the same bytes: nothing in the file depends on the clock.
"""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import OutputError, explain
from geoseg.vector.features import NO_CONFIDENCE, regroup, require_named
from geoseg.vector.rtree import PackedTree
from geoseg.vector.style import polygon_qml, polygon_sld
from geoseg.vector.summary import Totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.vector.features import FeatureBatch, Layer
    from geoseg.vector.pages import BulkTable, PageFile, Rows
    from geoseg.vector.reproject import Placing

GEOMETRY = "geom"
SUMMARY = "class_summary"
"""Name of the table of totals by class."""

_FEATURES_AT_ONCE = 20_000
"""Small batches are put together until there are this many: leaves of the index are made of each lot."""
_MOST_AT_ONCE = 20_000
"""Large ones are cut: their geometries exist twice for a moment."""

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

_CLASS_SUMMARY = f"""
CREATE TABLE {SUMMARY} (
    fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    class_id INTEGER,
    class_name TEXT,
    color TEXT,
    polygons INTEGER,
    pixels INTEGER,
    area_m2 REAL,
    share REAL,
    mean_confidence REAL,
    area_change_m2 REAL
)"""


def write_geopackage(path: Path, batches: Iterable[FeatureBatch], *, layer: Layer) -> Totals:
    """Totals of what was written to the one layer of a new GeoPackage.

    Columns: region_id, class_id, class_name, area_m2, perimeter_m, pixels, mean_confidence and
    min_confidence (percent, null where there is none), and the shares the layer asks for. Beside the layer
    lie its style (`layer_styles`) and a table of totals by class (`class_summary`). No features at all give
    a valid file with an empty layer.

    Args:
        path: what is there, a stale journal included, is replaced; ends in `.gpkg`. Syncing the finished
            file and renaming it into place is the caller's business.
        batches: finished features, in the order they are to be written; asked for one at a time.
        layer: what they have in common.

    Raises:
        LabelError: when a class id is not in the legend.
        OutputError: when the file cannot be written.
    """
    if path.suffix.lower() != ".gpkg":
        raise ValueError(f"a GeoPackage ends in .gpkg, {path.name!r} does not")
    from geoseg.vector.reproject import placing

    placed = placing(layer)
    totals = Totals()
    with explained(path):
        for sidecar in _SIDECARS:
            path.with_name(path.name + sidecar).unlink(missing_ok=True)
        _create(path, layer, multi=placed.multi)
        empty = _prepare(path, layer)
    with ExitStack() as stack:
        with explained(path):
            table = _Table.of(stack.enter_context(path.open("r+b")), empty, layer, placed)
        for batch in regroup(batches, at_least=_FEATURES_AT_ONCE, at_most=_MOST_AT_ONCE):
            totals.add(batch)
            rows = table.rows(batch)
            with explained(path):
                _append(table, rows)
        with explained(path):
            table.finish()
    with explained(path), closing(_connect(path)) as connection:
        connection.execute("BEGIN")
        _complete(connection, table, empty)
        _embed_style(connection, layer)
        _add_summary(connection, totals, layer)
        connection.execute("COMMIT")
        _check_count(connection, layer.name, totals.count)
    return totals


def _create(path: Path, layer: Layer, *, multi: bool) -> None:
    """An empty layer as GDAL makes it: reference systems, metadata, index, triggers."""
    import pyogrio

    crs = layer.crs or layer.geobox.crs
    columns = _no_columns(layer)
    with _gdal_options(OGR_CURRENT_DATE=_timestamp(layer.date)), warnings.catch_warnings():
        # A scene without a CRS is written without one: that is what it is.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        pyogrio.raw.write(
            path,
            np.empty(0, object),
            list(columns.values()),
            list(columns),
            layer=layer.name,
            driver="GPKG",
            geometry_type="MultiPolygon" if multi else "Polygon",
            crs=None if crs is None else crs.to_wkt(),
            layer_options={
                "GEOMETRY_NAME": GEOMETRY,
                "IDENTIFIER": layer.name,
                "DESCRIPTION": layer.description,
                "SPATIAL_INDEX": "YES",
            },
            layer_metadata=dict(layer.metadata) or None,
        )


def _no_columns(layer: Layer) -> dict[str, NDArray[Any]]:
    """The columns of the layer, without a value."""
    types: dict[str, Any] = {
        "region_id": np.int64,
        "class_id": np.int32 if layer.codes is None else np.int64,
        "class_name": object,
        "area_m2": np.float64,
        "perimeter_m": np.float64,
        "pixels": np.int64,
        "mean_confidence": np.float64,
        "min_confidence": np.int32,
        **dict.fromkeys(layer.share_names, np.float64),
    }
    return {name: np.empty(0, dtype) for name, dtype in types.items()}


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that syncs nothing and could not undo anything: the file is not whole before its end."""
    connection = sqlite3.connect(path, isolation_level=None)
    # GDAL's configuration may have made the file otherwise than pages can be written into it.
    for setting in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF"):
        connection.execute(f"PRAGMA {setting}")
    return connection


@dataclass(frozen=True, slots=True, kw_only=True)
class _Empty:
    """What SQLite says of the file before it is filled."""

    srs_id: int
    triggers: tuple[str, ...]
    """Those of the table of features, as SQL: put aside while it is filled."""
    roots: dict[str, int]
    """Root page of each table."""


def _prepare(path: Path, layer: Layer) -> _Empty:
    """Put triggers aside and look up where tables begin."""
    with closing(_connect(path)) as connection:
        if connection.execute("PRAGMA auto_vacuum").fetchone() != (0,):
            connection.execute("PRAGMA auto_vacuum = NONE")
            connection.execute("VACUUM")
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? ORDER BY rowid"
        triggers = connection.execute(query, (layer.name,)).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {_quoted(name)}")
        query = "SELECT srs_id FROM gpkg_geometry_columns WHERE table_name = ?"
        (srs_id,) = connection.execute(query, (layer.name,)).fetchone()
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
    return _Empty(srs_id=srs_id, triggers=tuple(sql for _, sql in triggers), roots=roots)


@dataclass(slots=True, kw_only=True)
class _Table:
    """The table of features and its index while they are filled."""

    layer: Layer
    placed: Placing
    srs_id: int
    pages: PageFile
    features: BulkTable
    tree: PackedTree
    box: NDArray[np.float64] = field(default_factory=lambda: np.array([np.inf, np.inf, -np.inf, -np.inf]))
    """Around all features: least x, least y, greatest x, greatest y."""

    @classmethod
    def of(cls, file: IO[bytes], empty: _Empty, layer: Layer, placed: Placing) -> _Table:
        from geoseg.vector.pages import BulkTable, PageFile

        pages = PageFile.of(file)
        index = _index_name(layer)
        features, rows, nodes = (
            BulkTable(pages=pages, root=empty.roots[name])
            for name in (layer.name, f"{index}_rowid", f"{index}_node")
        )
        tree = PackedTree(rows=rows, nodes=nodes)
        return cls(layer=layer, placed=placed, srs_id=empty.srs_id, pages=pages, features=features, tree=tree)

    @property
    def count(self) -> int:
        return self.features.next_id - 1

    def rows(self, batch: FeatureBatch) -> tuple[Rows, NDArray[np.float64]]:
        """Rows of the features, and their boxes."""
        from geoseg.vector.pages import BLOB, INT, NULL_INT, REAL, ROW_ID, TEXT, Rows
        from geoseg.vector.wkb import encode

        require_named(batch.class_id, self.layer.legend)
        encoded = encode(self.placed.place(batch.outlines), multi=self.placed.multi, srs_id=self.srs_id)
        shares = [] if batch.shares is None else list(batch.shares.T)
        least = batch.min_confidence.astype(np.int64)
        names = np.zeros(256, np.int64)
        names[self.layer.legend.ids] = np.arange(len(self.layer.legend))
        kinds = [ROW_ID, BLOB, INT, INT, TEXT, REAL, REAL, INT, REAL, INT, *(REAL for _ in shares)]
        rows = Rows(
            layout=np.array(kinds, np.int8),
            count=len(batch),
            ints=np.stack(
                [
                    batch.region_id,
                    self.layer.class_codes(batch.class_id),
                    batch.pixels,
                    np.where(least == NO_CONFIDENCE, NULL_INT, least),
                ]
            ),
            reals=np.stack([batch.area_m2, batch.perimeter_m, batch.mean_confidence, *shares]),
            blobs=encoded.data,
            blob_offsets=encoded.offsets,
            text_of_row=names[batch.class_id],
            texts=self.layer.legend.names,
        )
        return rows, encoded.boxes

    def finish(self) -> None:
        """Close the trees of pages."""
        for table in (self.features, self.tree.rows, self.tree.nodes):
            table.finish()
        self.pages.finish()


def _append(table: _Table, batch: tuple[Rows, NDArray[np.float64]]) -> None:
    """Store rows and their part of the index."""
    rows, boxes = batch
    table.features.add(rows)
    table.tree.add(boxes)
    table.box[:2] = np.minimum(table.box[:2], boxes[:, :2].min(axis=0))
    table.box[2:] = np.maximum(table.box[2:], boxes[:, 2:].max(axis=0))


def _index_name(layer: Layer) -> str:
    return f"rtree_{layer.name}_{GEOMETRY}"


def _complete(connection: sqlite3.Connection, table: _Table, empty: _Empty) -> None:
    """Index, extent, count and triggers, as GDAL leaves them."""
    name, count = table.layer.name, table.count
    table.tree.finish(connection, _index_name(table.layer))
    if count:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, count))
        connection.execute(
            "UPDATE gpkg_contents SET min_x = ?, min_y = ?, max_x = ?, max_y = ? WHERE table_name = ?",
            (*table.box.tolist(), name),
        )
    connection.execute("UPDATE gpkg_ogr_contents SET feature_count = ? WHERE table_name = ?", (count, name))
    for sql in empty.triggers:
        connection.execute(sql)


def _embed_style(connection: sqlite3.Connection, layer: Layer) -> None:
    """Add the layer_styles table from which QGIS takes a layer's default style."""
    connection.execute(_LAYER_STYLES)
    connection.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column,"
        " styleName, styleQML, styleSLD, useAsDefault, description, owner, ui, update_time)"
        " VALUES ('', '', ?, ?, ?, ?, ?, 1, ?, '', NULL, ?)",
        (
            layer.name,
            GEOMETRY,
            layer.name,
            polygon_qml(layer.legend, codes=layer.codes),
            polygon_sld(layer.legend, layer=layer.name, codes=layer.codes),
            f"Classes of {layer.name}",
            _timestamp(layer.date),
        ),
    )
    _register(connection, "layer_styles", "", layer.date)


def _add_summary(connection: sqlite3.Connection, totals: Totals, layer: Layer) -> None:
    """Add the table of totals by class."""
    connection.execute(_CLASS_SUMMARY)
    connection.executemany(
        f"INSERT INTO {SUMMARY} (class_id, class_name, color, polygons, pixels, area_m2, share,"  # noqa: S608
        " mean_confidence, area_change_m2) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                layer.code(row.class_id),
                row.class_name,
                row.color,
                row.polygons,
                row.pixels,
                row.area_m2,
                row.share,
                row.mean_confidence,
                row.area_change_m2,
            )
            for row in totals.rows(layer.legend)
        ],
    )
    _register(connection, SUMMARY, f"Totals of {layer.name} by class", layer.date)


def _register(connection: sqlite3.Connection, table: str, description: str, date: datetime) -> None:
    """List a table without geometry in the contents."""
    connection.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change)"
        " VALUES (?, 'attributes', ?, ?, ?)",
        (table, table, description, _timestamp(date)),
    )


def _check_count(connection: sqlite3.Connection, layer: str, count: int) -> None:
    """Raise when the finished file does not hold `count` features."""
    found = connection.execute(f"SELECT count(*) FROM {_quoted(layer)}").fetchone()  # noqa: S608
    if found != (count,):
        raise OSError(f"{found[0]} features in the file, {count} were written")


def _quoted(name: str) -> str:
    """`name` as SQL spells a name."""
    return '"' + name.replace('"', '""') + '"'


def _timestamp(date: datetime) -> str:
    """The form the format prescribes, in UTC."""
    return date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"


@contextmanager
def explained(path: Path, *, what: str = "the GeoPackage") -> Iterator[None]:
    """Failures to write inside the block, as OutputError; those of the caller's batches stay outside."""
    import pyogrio.errors

    try:
        yield
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.FeatureError,
        sqlite3.Error,
        OSError,
    ) as error:
        message = explain(
            f"{what} cannot be written",
            at=path,
            expected="a folder that can be written to, with space left",
            found=error,
            change="Choose another output folder or make room.",
        )
        raise OutputError(message) from error


@contextmanager
def _gdal_options(**options: str) -> Iterator[None]:
    """GDAL's settings inside the block, the former ones after it; they are the process's, not a thread's."""
    import pyogrio

    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)
