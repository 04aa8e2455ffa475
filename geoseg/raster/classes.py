"""Class rasters from any tool, read as class ids: one band of integers, or of numbers that are whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from geoseg.errors import LabelError, SceneError, UsageError, explain
from geoseg.files import replacing
from geoseg.raster.legends import nodata_of
from geoseg.raster.read import read_window, rio_window
from geoseg.raster.scene import open_scene

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.legend import CodedLegend, Legend
    from geoseg.raster.scene import Scene
    from geoseg.windows import Window

MOST_CLASSES = 254
"""Of one raster: class ids are bytes, and one of them stands for no class."""
_SHOWN = 5
_WIDEST_TABLE = 1 << 16
"""Codes that span no more are looked up, others searched for."""

Codes = Mapping[int, int]
"""What the raster holds where a map of ours holds a class id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRaster:
    """A raster and what its values mean. Small and picklable; holds no open handle."""

    scene: Scene
    """Of one band."""
    nodata: int
    """Value in what is read that is no class."""
    nodata_is_declared: bool = True
    """False: nobody said so, and a pixel that holds it is an error rather than silently left out."""
    codes: Codes | None = None
    """Pixel values by class id; None: bytes that are class ids as they stand."""
    missing: int | None = None
    """With codes: a pixel value that is no class, besides what the file itself says."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class ids of a window, (height, width); `nodata` where the raster has none.

        Raises:
            SceneError: reading failed. LabelError: there is a value that is no class.
        """
        pixels = read_window(self.scene, window)
        values, valid = pixels.values[0], pixels.valid
        if self.codes is not None:
            if self.missing is not None:
                valid = valid & (values != self.missing)
            # What is not valid may be anything.
            known = np.where(valid, values, next(iter(self.codes.values()))).astype(np.int64)
            encoded = _encode(known, self.codes, f"{self.scene.name}, {window}")
            return np.where(valid, encoded, self.nodata).astype(np.uint8)
        if not self.nodata_is_declared and (values[valid] == self.nodata).any():
            raise LabelError(
                explain(
                    f"the raster holds {self.nodata}, and nothing says what it means",
                    at=f"{self.scene.name}, {window}",
                    expected="class ids 0 to 254, or a declared nodata value",
                    found=f"pixels of {self.nodata}",
                    change=f"If it is no class: gdal_edit.py -a_nodata {self.nodata}; "
                    "else give it another id.",
                )
            )
        ids: NDArray[np.uint8] = values  # read for us alone
        ids[~valid] = self.nodata
        return ids


def as_it_stands(scene: Scene, path: Path, legend: Legend | None) -> ClassRaster:
    """A raster of bytes that are class ids; without a legend, the file says which of them is none."""
    declared = nodata_of(path, band=scene.bands[0].index) if legend is None else legend.nodata
    return ClassRaster(
        scene=scene, nodata=255 if declared is None else declared, nodata_is_declared=declared is not None
    )


def by_codes(scene: Scene, legend: CodedLegend) -> ClassRaster:
    """A raster whose values are the codes of a legend."""
    return ClassRaster(scene=scene, nodata=legend.legend.nodata, codes=legend.codes, missing=legend.nodata)


def open_class_band(path: Path, *, band: int | None = None, as_integer: bool = False) -> Scene:
    """The raster as a scene of the one band that holds class ids.

    Args:
        path: any raster.
        band: which one, from 1; None: it has one only.
        as_integer: take floats, as long as all are whole.

    Raises:
        SceneError: it has several bands or another type; says how to choose or convert.
        UsageError: there is no such band.
    """
    scene = open_scene(path)
    if band is not None:
        scene = scene.select((_name_of(scene, band),))
    if len(scene.bands) != 1:
        raise _not_classes(
            path,
            f"{len(scene.bands)} bands ({', '.join(scene.band_names[:_SHOWN])}...)",
            f"Say which one holds the classes: --band 1 to --band {len(scene.bands)}.",
        )
    kind = np.dtype(scene.dtype).kind
    if kind == "f" and not as_integer:
        raise _not_classes(
            path,
            scene.dtype,
            "If all values are whole numbers, take them with --as-integer; probabilities and measurements "
            "have to be made classes first, for example with gdal_calc.py.",
        )
    if kind not in "uif" or scene.dtype == "uint64":
        raise _not_classes(
            path, scene.dtype, "Convert it to integers first, for example with gdal_translate."
        )
    return scene


def values_in(scene: Scene, window: Window) -> tuple[int, ...]:
    """The values that occur in a window of a class band, ascending, nodata left out.

    Raises:
        SceneError: reading failed, there are too many for classes, or floats that are not whole.
    """
    pixels = read_window(scene, window)
    values: NDArray[Any] = pixels.values[0][pixels.valid]
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]  # sorting the runs of a map is much less than sorting its pixels
    found = np.unique(values[changes])
    if found.dtype.kind == "f" and (odd := found[found != np.rint(found)]).size:
        raise SceneError(
            explain(
                "the values are not whole numbers",
                at=f"{scene.name}, {window}",
                expected="class ids",
                found=f"{odd[0]:g}",
                change="These are no classes: make classes of them first, for example with gdal_calc.py.",
            )
        )
    require_few(scene, found.tolist())
    return tuple(int(value) for value in found.tolist())


def require_few(scene: Scene, values: list[float]) -> None:
    """Returns when so many different values can be classes.

    Raises:
        SceneError: there are too many.
    """
    if len(values) > MOST_CLASSES:
        some = ", ".join(f"{value:g}" for value in values[:_SHOWN])
        raise SceneError(
            explain(
                "the raster has too many different values for classes",
                at=", ".join(scene.paths),
                expected=f"at most {MOST_CLASSES} classes",
                found=f"{len(values)} values or more: {some}...",
                change="Numbered objects and measurements are no classes; if these are, group them first.",
            )
        )


def write_coded(
    path: Path,
    pieces: Iterable[tuple[Window, NDArray[np.uint8]]],
    *,
    geobox: GeoBox,
    codes: Codes,
    nodata: int,
) -> None:
    """Writes class ids as their codes, in the smallest type that holds them, to a tiled GeoTIFF.

    Args:
        path: the file; it appears whole or not at all.
        pieces: windows that partition the grid, row by row, with their class ids.
        geobox: the grid.
        codes: pixel value of each class id.
        nodata: the class id that is none.

    Raises:
        OutputError: it cannot be written.
    """
    dtype, missing = _room_for(codes)
    table = np.full(256, missing, dtype)
    table[list(codes)] = list(codes.values())
    table[nodata] = missing
    profile = {
        "driver": "GTiff",
        "dtype": dtype,
        "count": 1,
        "height": int(geobox.shape[0]),
        "width": int(geobox.shape[1]),
        "crs": rasterio.CRS.from_wkt(geobox.crs.to_wkt()),
        "transform": geobox.affine,
        "nodata": missing,
        "tiled": True,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    with replacing(path) as temporary:
        try:
            with rasterio.open(temporary, "w", **profile) as dataset:
                for window, ids in pieces:
                    dataset.write(table[ids], 1, window=rio_window(window))
        except RasterioError as error:
            raise OSError(str(error)) from error  # which `replacing` explains


def _room_for(codes: Codes) -> tuple[str, int]:
    """A type that holds all codes, and a value in it that is none of them."""
    for dtype in ("uint16", "int32", "uint32"):
        limits = np.iinfo(dtype)
        missing = int(limits.max) if limits.min == 0 else int(limits.min)
        if all(limits.min <= code <= limits.max and code != missing for code in codes.values()):
            return dtype, missing
    return "int64", int(np.iinfo(np.int64).min)


def _encode(values: NDArray[np.int64], codes: Codes, where: str) -> NDArray[np.uint8]:
    """Class ids of pixel values.

    Raises:
        LabelError: one of them is no code.
    """
    by_value = {value: class_id for class_id, value in codes.items()}
    known = np.array(sorted(by_value), np.int64)
    ids = np.array([by_value[value] for value in known.tolist()], np.uint8)
    inside = np.clip(values, known[0], known[-1])
    if known[-1] - known[0] < _WIDEST_TABLE:
        place = np.searchsorted(known, np.arange(known[0], known[-1] + 1))[inside - known[0]]
    else:
        place = np.searchsorted(known, inside)
    wrong = known[place] != values
    if wrong.any():
        raise LabelError(
            explain(
                "the raster holds values that are not in the legend",
                at=where,
                expected=f"one of {len(known)} values from {known[0]} to {known[-1]}",
                found=str(values[wrong][0]),
                change="Add it to the legend, or give the legend that belongs to this raster.",
            )
        )
    found: NDArray[np.uint8] = ids[place]
    return found


def _name_of(scene: Scene, band: int) -> str:
    names = {b.index: b.name for b in scene.bands}
    if band not in names:
        raise UsageError(
            explain(
                "there is no such band",
                at=", ".join(scene.paths),
                expected=f"one of {', '.join(map(str, sorted(names)))}",
                found=f"--band {band}",
                change="Bands are counted from 1; alpha is no band of classes.",
            )
        )
    return names[band]


def _not_classes(path: Path, found: str, change: str) -> SceneError:
    return SceneError(
        explain(
            "not a class raster",
            at=path,
            expected="one band of integer class ids",
            found=found,
            change=change,
        )
    )
