"""Scenes: where pixels are and what to expect of them, read from file headers only."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoseg.errors import SceneError, UsageError, explain
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLORS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSource:
    """One band of a scene: a name and the place its pixels are read from."""

    name: str
    """Name used to match the scene with a model package."""
    path: str
    """File path or anything else GDAL opens."""
    index: int
    """Band number in the file, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picklable description of a scene. Holds no open handle."""

    name: str
    """Stem of output file names."""
    bands: tuple[BandSource, ...]
    """All bands that carry data (alpha is part of the mask), at least one."""
    geobox: GeoBox
    """Shape, affine and CRS shared by all bands."""
    dtype: str
    """Numpy type name shared by all bands."""
    nodata: float | None = None
    """Declared by the caller in addition to what the files declare; None: trust the files."""
    files: tuple[str, ...] = ()
    """Every file the pixels depend on: the bands' own, the sources of a VRT, masks and other sidecars."""
    masks: tuple[str, ...] = ()
    """How the files say where there is no data, in words; empty: they do not."""
    alpha_is_data: bool = False
    """True: the caller has named the band that the file calls alpha; it is data like the others."""

    @property
    def window(self) -> Window:
        """The whole pixel plane."""
        height, width = self.geobox.shape
        return Window(0, 0, int(height), int(width))

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in file order."""
        return tuple(b.name for b in self.bands)

    @property
    def paths(self) -> tuple[str, ...]:
        """The distinct files, in order of first use."""
        return tuple(dict.fromkeys(b.path for b in self.bands))

    def select(self, names: Sequence[str]) -> Scene:
        """The same scene with the bands `names`, in that order.

        Raises:
            SceneError: naming the bands that are missing and those there are.
        """
        by_name = {b.name: b for b in self.bands}
        missing = [n for n in names if n not in by_name]
        if missing:
            raise SceneError(
                explain(
                    "bands are missing",
                    at=self.name,
                    expected=f"bands {', '.join(names)}",
                    found=f"bands {', '.join(self.band_names)}",
                    change="Name its bands in order ('_' skips one): --bands, or `bands:` of the scene.",
                )
            )
        return replace(self, bands=tuple(by_name[n] for n in names))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the description and of each file's size and modification time."""
        state = {
            "bands": [(b.name, b.path, b.index) for b in self.bands],
            "shape": self.window.shape,
            "transform": list(self.geobox.affine)[:6],
            "crs": self.geobox.crs.to_wkt() if self.geobox.crs else None,
            "dtype": self.dtype,
            "nodata": repr(self.nodata),
            "alpha_is_data": self.alpha_is_data,
            "files": [_file_state(p) for p in sorted({*self.paths, *self.files})],
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def open_scene(path: str | Path, *, bands: Sequence[str] | None = None, nodata: float | None = None) -> Scene:
    """The scene in one file (GeoTIFF, COG, VRT, any GDAL raster).

    Args:
        path: the file.
        bands: names for the file's bands in order, "_" to leave one out; a band that the file calls alpha
            may be named too, and is data then. None takes band descriptions,
            else red/green/blue colour interpretation, else `band_N`.
        nodata: a value that marks pixels without data where the file itself does not say so.

    Raises:
        SceneError: the file is missing or unreadable, or has no CRS or no transform.
    """
    header = _read_header(str(path))
    # GDAL calls the fourth of four 8-bit bands alpha; in red, green, blue, near infrared it is data.
    alpha_is_data = bands is not None and len(bands) == header.count > len(header.data_bands)
    numbers = tuple(range(1, header.count + 1)) if alpha_is_data else header.data_bands
    names = _names(header, bands, numbers)
    sources = tuple(
        BandSource(name=name, path=header.path, index=index)
        for index, name in zip(numbers, names, strict=True)
        if name != "_"
    )
    return Scene(
        name=Path(header.path).stem,
        bands=sources,
        geobox=header.geobox,
        dtype=header.dtype,
        nodata=nodata,
        files=header.files,
        masks=tuple(m for m in header.masks if not (alpha_is_data and m == "alpha")),
        alpha_is_data=alpha_is_data,
    )


def open_stack(files: Mapping[str, str | Path], *, name: str, nodata: float | None = None) -> Scene:
    """The scene whose bands lie in separate files: `files` maps band name to path, first band of each.

    Raises:
        SceneError: a file cannot be opened, or its grid or data type is not that of the first.
    """
    if not files:
        raise UsageError("a scene of band files needs at least one file")
    headers = {band: _read_header(str(path)) for band, path in files.items()}
    first = next(iter(headers.values()))
    for header in headers.values():
        for what, a, b in (
            ("grid", _grid(first.geobox), _grid(header.geobox)),
            ("data type", first.dtype, header.dtype),
        ):
            if a != b:
                raise SceneError(
                    explain(
                        f"band files differ in their {what}",
                        at=header.path,
                        expected=f"{a}, as in {first.path}",
                        found=b,
                        change="Bring all bands to one grid and type first (for example with gdalwarp).",
                    )
                )
    sources = tuple(
        BandSource(name=band, path=header.path, index=header.data_bands[0])
        for band, header in headers.items()
    )
    return Scene(
        name=name,
        bands=sources,
        geobox=first.geobox,
        dtype=first.dtype,
        nodata=nodata,
        files=tuple(dict.fromkeys(f for header in headers.values() for f in header.files)),
        masks=tuple(dict.fromkeys(m for header in headers.values() for m in header.masks)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    path: str
    geobox: GeoBox
    dtype: str
    count: int
    data_bands: tuple[int, ...]
    names: tuple[str | None, ...]
    files: tuple[str, ...]
    masks: tuple[str, ...]


def _read_header(path: str) -> _Header:
    path = _located(path)
    if ":" not in path and not path.startswith("/vsi") and not Path(path).exists():
        raise SceneError(
            explain(
                "no such file",
                at=path,
                expected="a raster file",
                found="nothing there",
                change="Check the path.",
            )
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # becomes an error of ours below
            with rasterio.open(path) as dataset:
                return _header_of(dataset, path)
    except RasterioError as error:
        raise SceneError(
            explain(
                "the raster cannot be opened",
                at=path,
                expected="a file GDAL can read",
                found=str(error),
                change="Check that it is complete and of a known format; gdalinfo shows what GDAL sees.",
            )
        ) from error


def _located(path: str) -> str:
    """Local paths made absolute: a worker's current folder is not ours, nor is the next run's."""
    local = Path(path)
    return str(local.absolute()) if local.exists() or ":" not in path else path


def _header_of(dataset: Any, path: str) -> _Header:
    _require_georeference(dataset, path)
    data_bands = tuple(
        i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c != ColorInterp.alpha
    )
    dtypes = sorted({dataset.dtypes[i - 1] for i in data_bands})
    if len(dtypes) != 1 or not _is_real(dtypes[0]):
        raise SceneError(
            explain(
                "the raster's data type cannot be used",
                at=path,
                expected="one real integer or floating-point type for all bands",
                found=", ".join(dtypes) or "no band with data",
                change="Convert it with gdal_translate -ot.",
            )
        )
    return _Header(
        path=path,
        geobox=GeoBox.from_rio(dataset),
        dtype=dtypes[0],
        count=dataset.count,
        data_bands=data_bands,
        names=_own_names(dataset, data_bands),
        files=tuple(dataset.files),
        masks=_masks(dataset, data_bands),
    )


def _masks(dataset: Any, data_bands: tuple[int, ...]) -> tuple[str, ...]:
    values = {dataset.nodatavals[i - 1] for i in data_bands}
    flags = dataset.mask_flag_enums[data_bands[0] - 1]
    return (
        *(f"nodata {v:g}" for v in sorted(values - {None}, key=str)),
        *(["mask"] if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags else []),
        *(["alpha"] if ColorInterp.alpha in dataset.colorinterp else []),
    )


def _require_georeference(dataset: Any, path: str) -> None:
    has_points = bool(dataset.gcps[0]) or dataset.rpcs is not None
    for what, missing in (("CRS", dataset.crs is None), ("transform", dataset.transform.is_identity)):
        if missing:
            raise SceneError(
                explain(
                    f"the raster has no {what}",
                    at=path,
                    expected=f"a raster with a {what}, so that the map has a place on Earth",
                    found="ground control points or RPCs only" if has_points else "none in the file",
                    change="Warp it with gdalwarp."
                    if has_points
                    else "Assign it with gdal_edit.py -a_srs EPSG:... -a_ullr ...",
                )
            )
    if dataset.transform.is_degenerate:
        raise SceneError(
            explain(
                "the raster's transform cannot be inverted",
                at=path,
                expected="pixels of non-zero size",
                found=str(tuple(dataset.transform)[:6]),
                change="Assign the right one with gdal_edit.py -a_ullr ...",
            )
        )


def _is_real(dtype: str) -> bool:
    return "complex" not in dtype and np.dtype(dtype).kind in "uif"


def _own_names(dataset: Any, data_bands: tuple[int, ...]) -> tuple[str | None, ...]:
    """Descriptions where all bands have distinct ones, else red/green/blue, else None."""
    described = [dataset.descriptions[i - 1] for i in data_bands]
    if all(described) and len(set(described)) == len(described):
        return tuple(described)
    colored = [_COLORS.get(dataset.colorinterp[i - 1]) for i in data_bands]
    return tuple(c if c and colored.count(c) == 1 else None for c in colored)


def _names(header: _Header, given: Sequence[str] | None, numbers: tuple[int, ...]) -> tuple[str, ...]:
    if given is None:
        return tuple(n or f"band_{i}" for i, n in zip(header.data_bands, header.names, strict=True))
    kept = [n for n in given if n != "_"]
    if len(given) != len(numbers) or len(set(kept)) != len(kept) or not kept:
        raise UsageError(
            explain(
                "band names do not fit the file",
                at=header.path,
                expected=f"{len(numbers)} distinct names, '_' for a band to leave out",
                found=", ".join(given) or "none",
                change="Give one name per band of the file, in the file's order.",
            )
        )
    return tuple(given)


def _grid(geobox: GeoBox) -> str:
    height, width = geobox.shape
    numbers = ", ".join(f"{v:.9g}" for v in list(geobox.affine)[:6])
    crs = geobox.crs
    return f"{height} x {width} px, transform ({numbers}), {f'EPSG:{crs.epsg}' if crs.epsg else crs}"


def _file_state(path: str) -> tuple[str, int, int] | tuple[str, str]:
    try:
        stat = Path(path).stat()
    except OSError:
        return path, "remote"
    return path, stat.st_size, stat.st_mtime_ns
