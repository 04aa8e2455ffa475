"""Polygons in the formats people ask for, any number of them in one pass over the batches.

GeoPackage, GeoParquet and FlatGeobuf are in the layer's CRS. GeoJSON (RFC 7946) and PMTiles are in WGS 84 and
cut at the date line, whatever the layer asks for: their rules. Features come and go in batches: none of
the writers holds them all in memory.
"""

from __future__ import annotations

import math
import queue
import shutil
import tempfile
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyproj import CRS

from geoseg.errors import UsageError, explain
from geoseg.vector.features import regroup
from geoseg.vector.geopackage import explained, write_geopackage
from geoseg.vector.pmtiles import empty_pyramid
from geoseg.vector.summary import Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from geoseg.vector.features import FeatureBatch, Layer

_FEATURES_AT_ONCE = 20_000
_MOST_AT_ONCE = 20_000

_PATIENCE_S = 0.1
"""How often a batch that a writer has no room for is offered again."""

_WEB_UNIT_M = 40_075_017 / 4096
"""What a coordinate of a vector tile means at zoom 0 on the equator."""
_DEEPEST_ZOOM = 16
_FEWEST_ZOOMS = 5
_TILE_BYTES, _TILE_FEATURES = 2_000_000, 500_000
"""What a tile may hold before GDAL leaves features out of it: four times its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a format is written through Arrow."""

    suffix: str
    driver: str
    web: bool = False
    """Whether its rules want longitudes and latitudes of WGS 84."""


_THROUGH_GDAL = {
    "fgb": Format(suffix=".fgb", driver="FlatGeobuf"),
    "geojson": Format(suffix=".geojson", driver="GeoJSON", web=True),
    "pmtiles": Format(suffix=".pmtiles", driver="PMTiles", web=True),
}

FORMATS = ("gpkg", "parquet", *_THROUGH_GDAL)
"""Names of the formats; each is also the ending of its files."""


def write_features(paths: Mapping[str, Path], batches: Iterable[FeatureBatch], *, layer: Layer) -> Totals:
    """Totals of what was written, the same to every file.

    Args:
        paths: where to write, by name of the format; what is there is replaced. Renaming finished files into
            place is the caller's business.
        batches: finished features, in the order they are to be written; asked for one at a time.
        layer: what they have in common.

    Raises:
        UsageError: an unknown format, or one that the scene's CRS does not allow.
        LabelError: when a class id is not in the legend.
        OutputError: when a file cannot be written.
    """
    unknown = sorted(set(paths) - set(FORMATS))
    if unknown or not paths:
        raise UsageError(
            explain(
                "unknown format of polygons",
                at=", ".join(unknown) or "none",
                expected=f"one or more of {', '.join(FORMATS)}",
                found=", ".join(unknown) or "none",
                change="Choose among these.",
            )
        )
    totals = Totals()
    writers = [_writer(name, path, layer) for name, path in paths.items()]
    counted = _counted(batches, totals)
    if len(writers) == 1:
        writers[0](counted)
    else:
        _fan_out(counted, writers)
    return totals


def _counted(batches: Iterable[FeatureBatch], totals: Totals) -> Iterator[FeatureBatch]:
    for batch in batches:
        totals.add(batch)
        yield batch


def _writer(name: str, path: Path, layer: Layer) -> Callable[[Iterable[FeatureBatch]], object]:
    """What writes all batches it is given to `path`; complains at once about what cannot work."""
    if name == "gpkg":
        return lambda batches: write_geopackage(path, batches, layer=layer)
    if name == "parquet":
        from geoseg.vector.parquet import write_parquet

        return lambda batches: write_parquet(path, _regrouped(batches), layer=layer)
    kind = _THROUGH_GDAL[name]
    if kind.web:
        if layer.geobox.crs is None:
            raise UsageError(
                explain(
                    f"{kind.driver} cannot be written",
                    at=path,
                    expected="a scene with a CRS: the format is in longitudes and latitudes",
                    found="none",
                    change="Assign the scene its CRS (gdal_edit.py -a_srs), or choose another format.",
                )
            )
        layer = replace(layer, crs=CRS.from_epsg(4326))
    if name == "pmtiles":
        return lambda batches: _write_tiles(path, _regrouped(batches), layer=layer, kind=kind)
    return lambda batches: _write_through_gdal(path, _regrouped(batches), layer=layer, kind=kind)


def _regrouped(batches: Iterable[FeatureBatch]) -> Iterator[FeatureBatch]:
    return regroup(batches, at_least=_FEATURES_AT_ONCE, at_most=_MOST_AT_ONCE)


def _write_tiles(path: Path, batches: Iterator[FeatureBatch], *, layer: Layer, kind: Format) -> None:
    """Write a pyramid of tiles; of no features one without tiles, which GDAL cannot make."""
    first = next(batches, None)
    if first is not None:
        _write_through_gdal(path, chain([first], batches), layer=layer, kind=kind)
        return
    with explained(path, what=kind.driver):
        path.write_bytes(empty_pyramid(layer.name, layer.description))


def _write_through_gdal(path: Path, batches: Iterable[FeatureBatch], *, layer: Layer, kind: Format) -> None:
    """Write a file with one of GDAL's drivers, which take the batches as a stream of Arrow.

    What drivers leave beside a file while they write it lies in a folder of its own.
    """
    import pyarrow as pa
    import pyogrio
    import pyogrio.errors

    from geoseg.vector.arrow import GEOMETRY, record_batches, schema_of
    from geoseg.vector.reproject import placing

    placed = placing(layer)
    crs = layer.crs or layer.geobox.crs
    failures: list[Exception] = []
    stream = pa.RecordBatchReader.from_batches(
        schema_of(layer), _kept(record_batches(batches, layer, placed), failures)
    )
    with explained(path, what=kind.driver):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=".work", dir=path.parent))
    try:
        with explained(path, what=kind.driver), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
            warnings.filterwarnings("ignore", message="At least one tile exceeded", category=RuntimeWarning)
            pyogrio.write_arrow(
                stream,
                folder / f"{layer.name}{kind.suffix}",
                layer=layer.name,
                driver=kind.driver,
                geometry_name=GEOMETRY,
                geometry_type="MultiPolygon" if placed.multi else "Polygon",
                crs=None if crs is None else crs.to_wkt(),
                **_options(layer, kind),
            )
            (folder / f"{layer.name}{kind.suffix}").replace(path)
    except Exception:
        if failures:  # a batch could not be made: what the driver says of it is no help
            raise failures[0] from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept(batches: Iterator[pa.RecordBatch], failures: list[Exception]) -> Iterator[pa.RecordBatch]:
    """The batches; an error on the way is noted, for it does not survive the stream as it is."""
    try:
        yield from batches
    except Exception as error:
        failures.append(error)
        raise


def _options(layer: Layer, kind: Format) -> dict[str, Any]:
    """What the driver is told."""
    if kind.driver == "GeoJSON":
        return {"layer_options": {"RFC7946": "YES", "DESCRIPTION": layer.description}}
    if kind.driver == "PMTiles":
        zooms = _zooms(layer)
        return {
            "dataset_options": {
                "NAME": layer.name,
                "DESCRIPTION": layer.description,
                "TYPE": "overlay",
                "MINZOOM": str(zooms[0]),
                "MAXZOOM": str(zooms[1]),
                "MAX_SIZE": str(_TILE_BYTES),
                "MAX_FEATURES": str(_TILE_FEATURES),
            }
        }
    return {"layer_options": {"SPATIAL_INDEX": "YES", "DESCRIPTION": layer.description}}


def _zooms(layer: Layer) -> tuple[int, int]:
    """From where the scene is about a tile wide to where a tile's coordinates are a quarter of a pixel.

    Further out each zoom costs as much as any other, and shows a speck.
    """
    from geoseg.vector.lengths import Ruler

    pixel_m = min(Ruler.of(layer.geobox).pixel_size_m)
    deepest = math.ceil(math.log2(_WEB_UNIT_M / (pixel_m / 4)))
    widest = math.floor(math.log2(_WEB_UNIT_M * 4096 / (pixel_m * max(layer.geobox.shape))))
    deepest = max(0, min(_DEEPEST_ZOOM, deepest))
    return max(0, min(widest, deepest - _FEWEST_ZOOMS)), deepest


@dataclass(frozen=True, slots=True)
class _Failed:
    """Sent to writers in place of a batch when there will be no more."""

    error: BaseException


def _fan_out(
    batches: Iterable[FeatureBatch], writers: Sequence[Callable[[Iterable[FeatureBatch]], object]]
) -> None:
    """Give every batch to every writer, each in a thread and at most one batch behind.

    Raises:
        Exception: the first error, of the batches or of a writer; all writers have ended by then.
    """
    lines: list[queue.Queue[Any]] = [queue.Queue(maxsize=1) for _ in writers]
    with ThreadPoolExecutor(len(writers)) as pool:
        running = [pool.submit(w, _taken(line)) for w, line in zip(writers, lines, strict=True)]
        try:
            for batch in batches:
                _give(batch, lines, running)
                if any(r.done() for r in running):
                    break
        except BaseException as error:
            _give(_Failed(error), lines, running)
            raise
        failed = [e for r in running if r.done() and (e := r.exception())]
        _give(_Failed(failed[0]) if failed else None, lines, running)
    failed = failed or [e for r in running if (e := r.exception())]
    if failed:
        raise failed[0]


def _taken(line: queue.Queue[Any]) -> Iterator[FeatureBatch]:
    while (item := line.get()) is not None:
        if isinstance(item, _Failed):
            raise item.error
        yield item


def _give(item: object, lines: Sequence[queue.Queue[Any]], running: Sequence[Future[object]]) -> None:
    """Put an item into every line whose writer is still there to take it."""
    for line, task in zip(lines, running, strict=True):
        while not task.done():
            try:
                line.put(item, timeout=_PATIENCE_S)
                break
            except queue.Full:
                continue
