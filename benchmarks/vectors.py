"""Other ways from a class map to polygons: GDAL in C, the usual script; GEOS simplifying a coverage."""

from __future__ import annotations

import ctypes
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Work
from benchmarks.jobs import Facts, Job

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_FIELD = b"class_id"
_POLYGON, _INTEGER, _ALL_VALID = 3, 0, 1
"""Numbers of GDAL's C interface."""


def gdal_c(job: Job) -> Work:
    """`GDALPolygonize` into a GeoPackage, in one transaction, spatial index included."""
    return Work(run=partial(_polygonize, job, driver="GPKG"), check=read_back)


def gdal_c_in_memory(job: Job) -> Work:
    """`GDALPolygonize` into features in memory."""
    return Work(run=partial(_polygonize, job, driver="Memory"))


def script(job: Job) -> Work:
    """What everybody writes: rasterio's shapes, shapely's geometries, geopandas' file."""

    def work(scene: Path, out: Path) -> Facts:
        import geopandas
        import rasterio
        from rasterio.features import shapes
        from shapely.geometry import shape

        with rasterio.open(scene) as dataset:
            classes, nodata = dataset.read(1), dataset.nodata
            valid = None if nodata is None else classes != nodata
            found = shapes(classes, valid, job.connectivity, dataset.transform)
            pairs = [(shape(geometry), int(value)) for geometry, value in found]
            crs = dataset.crs
        frame = geopandas.GeoDataFrame(
            {"class_id": [value for _, value in pairs]}, geometry=[polygon for polygon, _ in pairs], crs=crs
        )
        frame.to_file(out, driver="GPKG")
        return Facts(more={"polygons": len(frame)})

    return Work(run=work, check=read_back)


def coverage_simplify(job: Job) -> Work:
    """One `shapely.coverage_simplify` over all polygons; only that call is timed.

    They are 4-connected, in pixels, with a vertex at every pixel: otherwise they are no valid coverage.
    """
    import shapely

    polygons: dict[str, NDArray[Any]] = {}

    def prepare(scene: Path) -> None:
        import numpy as np
        import rasterio
        from rasterio.features import shapes
        from shapely.geometry import shape

        with rasterio.open(scene) as dataset:
            raw = [shape(geometry) for geometry, _ in shapes(dataset.read(1))]
        # What lies between two corners is a pixel's corner but for its last bit.
        polygons["before"] = shapely.transform(shapely.segmentize(np.array(raw, object), 1.0), np.rint)

    def work(_scene: Path, _out: Path) -> Facts:
        polygons["after"] = shapely.coverage_simplify(polygons["before"], job.tolerance_px)
        return Facts(more={"polygons": len(polygons["after"])})

    return Work(run=work, prepare=prepare, check=lambda scene, _: judge(polygons["after"], scene))


def judge(polygons: NDArray[Any], scene: Path) -> dict[str, Any]:
    """Whether polygons in pixel coordinates cover their map, which has no nodata, once and once only.

    A proof that takes seconds where `shapely.coverage_is_valid` takes minutes. Every edge must be an edge of
    another polygon, run through the other way, or lie on the map's border: then, at any point of the map, the
    times that rings wind around it add up to one. A valid polygon winds once around its own points, and
    around no other: so each point is in one polygon.
    """
    import numpy as np
    import rasterio
    import shapely

    with rasterio.open(scene) as dataset:
        height, width = dataset.shape
    return {
        "vertices": int(np.sum(shapely.get_num_coordinates(polygons))),
        "invalid polygons": int((~shapely.is_valid(polygons)).sum()),
        "unmatched edges": _unmatched(polygons, height, width),
        "missing px": float(height * width - np.sum(shapely.area(polygons))),
    }


def _unmatched(polygons: NDArray[Any], height: int, width: int) -> int:
    """Edges inside the map that no other ring runs through the other way."""
    import numpy as np
    import shapely

    _, coords, (rings, members) = shapely.to_ragged_array(polygons)
    points = np.rint(2 * coords).astype(np.int64)  # midpoints of pixel sides are halves
    if (points != 2 * coords).any():
        raise ValueError("vertices are neither corners of pixels nor midpoints of their sides")
    start = np.delete(np.arange(len(points) - 1), rings[1:-1] - 1)
    turned = np.repeat(_turned(points, rings, members), np.diff(rings) - 1)
    start, stop = np.where(turned, start + 1, start), np.where(turned, start, start + 1)
    same = points[start] == points[stop]
    inside = ~(same & ((points[start] == 0) | (points[start] == [2 * width, 2 * height]))).any(axis=1)
    number = points[:, 0] * (2 * height + 1) + points[:, 1]
    forth, back = number[start[inside]], number[stop[inside]]
    most = (2 * width + 1) * (2 * height + 1)
    run, reversed_ = np.sort(forth * most + back), np.sort(back * most + forth)
    if np.array_equal(run, reversed_):
        return 0
    edges = np.unique(np.concatenate([run, reversed_]))
    times = [np.searchsorted(a, edges, "right") - np.searchsorted(a, edges) for a in (run, reversed_)]
    return int(np.abs(times[0] - times[1]).sum()) // 2


def _turned(points: NDArray[Any], rings: NDArray[Any], members: NDArray[Any]) -> NDArray[Any]:
    """Which rings do not run as they should: outer ones one way, holes the other."""
    import numpy as np

    (x, y), (next_x, next_y) = points[:-1].T, points[1:].T
    twice = np.append(0, np.cumsum(x * next_y - next_x * y))  # from one ring to the next it does not matter
    outer = np.zeros(len(rings) - 1, bool)
    outer[members[:-1]] = True
    return (twice[rings[1:] - 1] - twice[rings[:-1]] > 0) != outer


def read_back(_scene: Path, out: Path) -> dict[str, Any]:
    """The size of a GeoPackage, and how many of its polygons are in the spatial index."""
    with closing(sqlite3.connect(out)) as file:
        ((table, column),) = file.execute("SELECT table_name, column_name FROM gpkg_geometry_columns")
        ((indexed,),) = file.execute(f'SELECT count(*) FROM "rtree_{table}_{column}_rowid"')  # noqa: S608 - names in the file
    return {"file_mb": out.stat().st_size / 1e6, "indexed": indexed}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gdal:
    """GDAL's C interface, in the library that rasterio has loaded."""

    library: ctypes.CDLL

    @classmethod
    def load(cls) -> _Gdal:
        """Whichever library that is: symbols are looked up in the extension module and all it depends on."""
        from rasterio import _base

        library = ctypes.CDLL(_base.__file__)
        for name in ("GDALOpen", "GDALGetRasterBand", "GDALGetDriverByName", "GDALCreate"):
            getattr(library, name).restype = ctypes.c_void_p
        for name in ("GDALDatasetCreateLayer", "OGR_Fld_Create", "GDALGetSpatialRef", "GDALGetMaskBand"):
            getattr(library, name).restype = ctypes.c_void_p
        library.OGR_L_GetFeatureCount.restype = ctypes.c_longlong
        library.GDALAllRegister()
        return cls(library=library)

    def pointer(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """What a function returns that makes something.

        Raises:
            RuntimeError: it has made nothing.
        """
        found = getattr(self.library, name)(*arguments)
        if not found:
            raise RuntimeError(f"{name} returned nothing")
        return ctypes.c_void_p(found)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function that returns 0 when all went well.

        Raises:
            RuntimeError: it returned something else.
        """
        code = getattr(self.library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} returned {code}")


def _polygonize(job: Job, scene: Path, out: Path, *, driver: str) -> Facts:
    from rasterio import Env

    with Env():  # says where the data files of GDAL and PROJ are
        count = _count_polygonized(_Gdal.load(), job.connectivity, scene, out, driver)
    return Facts(more={"polygons": count})


def _count_polygonized(gdal: _Gdal, connectivity: int, scene: Path, out: Path, driver: str) -> int:
    raster = gdal.pointer("GDALOpen", str(scene).encode(), 0)
    band = gdal.pointer("GDALGetRasterBand", raster, 1)
    format_ = gdal.pointer("GDALGetDriverByName", driver.encode())
    vector = gdal.pointer("GDALCreate", format_, str(out).encode(), 0, 0, 0, 0, None)
    reference = gdal.pointer("GDALGetSpatialRef", raster)
    layer = gdal.pointer("GDALDatasetCreateLayer", vector, b"polygons", reference, _POLYGON, None)
    field = gdal.pointer("OGR_Fld_Create", _FIELD, _INTEGER)
    gdal.call("OGR_L_CreateField", layer, field, 1)
    everywhere = gdal.library.GDALGetMaskFlags(band) & _ALL_VALID
    valid = None if everywhere else gdal.pointer("GDALGetMaskBand", band)
    options = (ctypes.c_char_p * 2)(b"8CONNECTED=8" if connectivity == 8 else None, None)  # noqa: PLR2004 - its own word
    if driver == "GPKG":
        gdal.call("GDALDatasetStartTransaction", vector, 0)
    gdal.call("GDALPolygonize", band, valid, layer, 0, options, None, None)
    if driver == "GPKG":
        gdal.call("GDALDatasetCommitTransaction", vector)
    count = gdal.library.OGR_L_GetFeatureCount(layer, 1)
    gdal.call("GDALClose", vector)
    gdal.call("GDALClose", raster)
    return int(count)
