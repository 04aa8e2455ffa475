"""Batches of features as Arrow record batches, for the writers that take these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from geoseg.vector.features import NO_CONFIDENCE, class_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from geoseg.vector.features import FeatureBatch, Layer
    from geoseg.vector.reproject import Placing
    from geoseg.vector.wkb import Encoded

GEOMETRY = "geometry"


def schema_of(layer: Layer) -> pa.Schema:
    """Columns of the layer; geometries are WKB."""
    return pa.schema(
        {
            "region_id": pa.int64(),
            "class_id": pa.int32() if layer.codes is None else pa.int64(),
            "class_name": pa.string(),
            "area_m2": pa.float64(),
            "perimeter_m": pa.float64(),
            "pixels": pa.int64(),
            "mean_confidence": pa.float64(),
            "min_confidence": pa.int32(),
            **dict.fromkeys(layer.share_names, pa.float64()),
            GEOMETRY: pa.binary(),
        }
    )


def record_batches(
    batches: Iterable[FeatureBatch], layer: Layer, placed: Placing
) -> Iterator[pa.RecordBatch]:
    """The features of each batch, of `schema_of(layer)`."""
    for batch in batches:
        yield record_batch(batch, encoded(batch, placed), layer)


def encoded(batch: FeatureBatch, placed: Placing) -> Encoded:
    """The batch's geometries as they are to be written."""
    from geoseg.vector.wkb import encode

    return encode(placed.place(batch.outlines), multi=placed.multi)


def record_batch(batch: FeatureBatch, geometries: Encoded, layer: Layer) -> pa.RecordBatch:
    """Columns and geometries of a batch."""
    shares = () if batch.shares is None else tuple(_reals(c) for c in batch.shares.T)
    schema = schema_of(layer)
    columns = [
        pa.array(batch.region_id),
        pa.array(layer.class_codes(batch.class_id)).cast(schema.field("class_id").type),
        pa.array(class_names(batch.class_id, layer.legend), pa.string()),
        _reals(batch.area_m2),
        _reals(batch.perimeter_m),
        pa.array(batch.pixels),
        _reals(batch.mean_confidence),
        pa.array(batch.min_confidence.astype(np.int32), mask=batch.min_confidence == NO_CONFIDENCE),
        *shares,
        _blobs(geometries),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _reals(values: NDArray[np.float64]) -> Any:
    """The values, null where they are NaN."""
    return pa.array(np.ascontiguousarray(values), mask=np.isnan(values))


def _blobs(geometries: Encoded) -> Any:
    """The geometries without a copy; offsets fit 32 bits, as batches are of a handy size."""
    if geometries.offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{geometries.offsets[-1]} bytes of geometries in one batch: 2**31 is the limit")
    offsets = pa.py_buffer(geometries.offsets.astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(geometries), [None, offsets, pa.py_buffer(geometries.data)])
