"""GeoParquet 1.1: WKB geometries with a box column that readers can filter by."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geoseg.vector.arrow import GEOMETRY, encoded, record_batch, schema_of
from geoseg.vector.geopackage import explained
from geoseg.vector.reproject import placing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.vector.features import FeatureBatch, Layer

_VERSION = "1.1.0"
_BOX = "bbox"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def write_parquet(path: Path, batches: Iterable[FeatureBatch], *, layer: Layer) -> None:
    """Write the batches as row groups of one file.

    Raises:
        LabelError: when a class id is not in the legend.
        OutputError: when the file cannot be written.
    """
    placed = placing(layer)
    schema = schema_of(layer).append(pa.field(_BOX, _box_type()))
    around = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with explained(path, what="GeoParquet"):
        writer = pq.ParquetWriter(path, schema, compression="zstd")
    try:
        for batch in batches:
            geometries = encoded(batch, placed)
            rows = record_batch(batch, geometries, layer)
            rows = rows.append_column(schema.field(_BOX), _boxes(geometries.boxes))
            low, high = geometries.boxes[:, :2].min(axis=0), geometries.boxes[:, 2:].max(axis=0)
            around = np.concatenate([np.minimum(around[:2], low), np.maximum(around[2:], high)])
            with explained(path, what="GeoParquet"):
                writer.write_batch(rows)
        geo = _geo(layer, around, multi=placed.multi)
        writer.add_key_value_metadata({**layer.metadata, "description": layer.description, "geo": geo})
    finally:
        with explained(path, what="GeoParquet"):
            writer.close()


def _box_type() -> Any:
    return pa.struct([(side, pa.float64()) for side in _SIDES])


def _boxes(boxes: NDArray[np.float64]) -> Any:
    sides = [pa.array(np.ascontiguousarray(column)) for column in boxes.T]
    return pa.StructArray.from_arrays(sides, fields=list(_box_type()))


def _geo(layer: Layer, around: NDArray[np.float64], *, multi: bool) -> str:
    """The file's metadata, as the specification wants it."""
    crs = layer.crs or (None if layer.geobox.crs is None else layer.geobox.crs.proj)
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon" if multi else "Polygon"],
        "crs": None if crs is None else crs.to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {_BOX: {side: [_BOX, side] for side in _SIDES}},
    }
    if np.isfinite(around).all():
        column["bbox"] = around.tolist()
    document = {"version": _VERSION, "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    return json.dumps(document, sort_keys=True)
