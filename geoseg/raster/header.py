"""What the header of a raster file says, read without touching a pixel."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoseg.errors import SceneError, UsageError, explain
from geoseg.raster.remote import is_remote, layout_state, server_state, sidecar_mask, with_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_COLORS = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
_REMOTE_AT_ONCE = 8
_VRT_BYTES = 1024
"""A VRT says what it is at its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One raster file, as far as its header tells."""

    path: str
    """Absolute, or a URL."""
    geobox: GeoBox
    """Shape, affine and CRS."""
    dtype: str
    """Numpy type name shared by all bands."""
    count: int
    """Bands in the file, alpha included."""
    data_bands: tuple[int, ...]
    """Numbers, from 1, of the bands that are not alpha."""
    names: tuple[str | None, ...]
    """What the file calls its data bands; None where it does not."""
    files: tuple[str, ...]
    """Every file the pixels depend on, sidecars and the sources of VRTs included."""
    states: tuple[tuple[str, str], ...]
    """Remote files among them, and what identifies their content as it is now."""
    masks: tuple[str, ...]
    """How the file says where there is no data, in words."""


def read_header(path: str | Path) -> Header:
    """The header of a file.

    Raises:
        SceneError: the file is missing or unreadable, has no CRS or no transform, or bands of mixed types.
    """
    return read_headers([path])[0]


def read_headers(paths: Sequence[str | Path]) -> list[Header]:
    """The headers of many files, in order; remote ones several at a time."""
    located = [_located(str(path)) for path in paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # becomes an error of ours below
        if len(located) > 1 and any(is_remote(path) for path in located):
            with ThreadPoolExecutor(_REMOTE_AT_ONCE) as pool:
                return list(pool.map(_read, located))
        return [_read(path) for path in located]


def band_names(header: Header, given: Sequence[str] | None, numbers: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the bands `numbers`: those given, else the file's own, else `band_N`."""
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


def _located(path: str) -> str:
    """Local paths made absolute: a worker's current folder is not ours, nor is the next run's."""
    if not Path(path).exists():
        return path if ":" in path else str(Path(path).absolute())
    # Without "..", so that a file has one name; unless a link leads elsewhere.
    plain = os.path.abspath(path)  # noqa: PTH100 - pathlib has no way to do that
    return plain if Path(plain).exists() and Path(plain).samefile(path) else str(Path(path).absolute())


def _read(path: str) -> Header:
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
    beside = _remote_mask(path)
    try:
        return with_dataset(path, lambda dataset: _header_of(dataset, path, beside), sidecars=bool(beside))
    except RasterioError as error:
        change = "Check that it is complete and of a known format; gdalinfo shows what GDAL sees."
        if is_remote(path):
            change = "Check the address, and that the server can be reached from here."
        raise SceneError(
            explain(
                "the raster cannot be opened",
                at=path,
                expected="a file GDAL can read",
                found=str(error),
                change=change,
            )
        ) from error


def _remote_mask(path: str) -> tuple[str, ...]:
    """The mask file beside a remote raster: nobody lists its folder, so that it must be asked for."""
    beside = sidecar_mask(path)
    return (beside,) if is_remote(path) and "?" not in path and server_state(beside) else ()


def _header_of(dataset: Any, path: str, beside: tuple[str, ...]) -> Header:
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
    # With a mask beside a remote file, GDAL would ask for eighty more sidecars, one after the other.
    opened = [path] if beside else [f.removeprefix("/vsicurl/") for f in dataset.files]
    files = (*_with_sources(opened), *beside)
    return Header(
        path=path,
        geobox=GeoBox.from_rio(dataset),
        dtype=dtypes[0],
        count=dataset.count,
        data_bands=data_bands,
        names=_own_names(dataset, data_bands),
        files=files,
        states=_states(dataset, path, files),
        masks=_masks(dataset, data_bands),
    )


def _with_sources(files: Iterable[str]) -> list[str]:
    """The files, the sources of VRTs among them down to the last, and the masks and sidecars of those.

    Of a VRT, GDAL names the sources, but neither the sources' own sources nor what lies beside them.
    """
    found: dict[str, None] = {}
    waiting = list(files)
    while waiting:
        path = waiting.pop(0)
        if path in found:
            continue
        found[path] = None
        if not Path(path).is_file():
            continue
        waiting += [p for p in (sidecar_mask(path), f"{path}.aux.xml") if Path(p).is_file()]
        if len(found) > 1 and _is_vrt(Path(path)):
            waiting += with_dataset(path, lambda d: [f.removeprefix("/vsicurl/") for f in d.files])
    return list(found)


def _is_vrt(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<VRTDataset" in file.read(_VRT_BYTES)


def _states(dataset: Any, path: str, files: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What tells the content of each remote file from any other it may have at another time."""
    found = [(file, server_state(file)) for file in dict.fromkeys([path, *files]) if is_remote(file)]
    return tuple((file, state or (layout_state(dataset) if file == path else "")) for file, state in found)


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
