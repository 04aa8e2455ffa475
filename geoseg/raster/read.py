"""Windowed reads: pixels and where they are valid, from one scene."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.enums import Resampling as RioResampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RioWindow

from geoseg.errors import SceneError, explain
from geoseg.raster.remote import is_remote, sidecar_mask, with_dataset
from geoseg.raster.resample import Resampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from geoseg.raster.placement import Placement
    from geoseg.raster.scene import Piece, Scene
    from geoseg.windows import Window

__all__ = ["Pixels", "has_data", "read_overview", "read_window", "rio_window"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Values and validity of one window of a scene."""

    values: NDArray[Any]
    """(bands, height, width) in the scene's own type; undefined where not valid."""
    valid: NDArray[np.bool_]
    """(height, width), True where every band has data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file and the bands of the scene that come from it."""

    path: str
    where: slice | list[int]
    """Places of its bands in the scene."""
    indexes: list[int]
    """Numbers of its bands in the file."""
    placed: Placement | None


def read_window(scene: Scene, window: Window) -> Pixels:
    """Pixels of `window`, which must lie inside the scene; the same as that part of reading everything.

    A pixel is valid when no band says otherwise: nodata value (NaN included), internal or external mask,
    alpha of 0, a NaN or infinity, or the scene's own declared nodata. In a mosaic, the topmost file in which
    it is valid gives all its bands.

    Raises:
        SceneError: naming file and window when reading fails.
    """
    if not scene.window.contains(window):
        raise ValueError(f"window {window} is not inside {scene.name} ({scene.window})")
    if scene.pieces is not None:
        return _read_mosaic(scene, window)
    values = np.empty((len(scene.bands), *window.shape), scene.dtype)
    valid = np.ones(window.shape, bool)
    for file in _files(scene) if window.size else ():
        # Most scenes are one file: it is decoded into its place, and no copy is made.
        own = values[file.where] if isinstance(file.where, slice) else np.empty_like(values[file.where])
        valid &= _read_file(scene, file, window, own)
        if not isinstance(file.where, slice):
            values[file.where] = own
    return Pixels(values=values, valid=valid)


def read_overview(scene: Scene, *, longest: int) -> Pixels:
    """The whole scene reduced by nearest neighbour so that its longer side has at most `longest` pixels."""
    height, width = scene.window.shape
    factor = max(1.0, max(height, width) / longest)
    shape = (max(1, round(height / factor)), max(1, round(width / factor)))
    values = np.zeros((len(scene.bands), *shape), scene.dtype)
    if scene.pieces is not None:
        valid = np.zeros(shape, bool)
        for piece in reversed(scene.pieces):
            to, window = _reduced(piece.window, scene.window.shape, shape)
            if all(s.stop > s.start for s in to):
                _lay(scene, piece, values[(slice(None), *to)], valid[to], window)
        return Pixels(values=values, valid=valid)
    valid = np.ones(shape, bool)
    for file in _files(scene):
        own = np.empty_like(values[file.where])
        how = {"window": _in_file(file.placed, scene.window), "resampling": RioResampling.nearest}
        valid &= _with_pixels(scene, file.path, file.indexes, own, scene.window, how)
        values[file.where] = own
    return Pixels(values=values, valid=valid)


def has_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """(height, width): True where no band is NaN, infinite, or of the value the caller declared as nodata."""
    valid = np.ones(values.shape[1:], bool)
    if values.dtype.kind == "f":
        for band in values:
            valid &= np.isfinite(band)
    return _differ(values, [nodata] * len(values), valid)


def _files(scene: Scene) -> Iterator[_File]:
    """Each file of a scene that is not a mosaic."""
    for path in scene.paths:
        where = [i for i, b in enumerate(scene.bands) if b.path == path]
        together = slice(where[0], where[-1] + 1)
        yield _File(
            path=path,
            where=together if len(where) == together.stop - together.start else where,
            indexes=[scene.bands[i].index for i in where],
            placed=scene.bands[where[0]].placed,
        )


def _read_file(scene: Scene, file: _File, window: Window, out: NDArray[Any]) -> NDArray[np.bool_]:
    """Fills `out` with the scene's `window` of the file's bands, and returns where they are valid."""
    placed = file.placed
    if placed is None or placed.is_aligned:
        how = {"window": rio_window(window, origin=placed.window if placed else None)}
        return _with_pixels(scene, file.path, file.indexes, out, window, how)
    resampling = Resampling.of(placed, window, scene.resampling)
    source = np.empty((len(out), *resampling.window.shape), out.dtype)
    how = {"window": rio_window(resampling.window)}
    valid = _with_pixels(scene, file.path, file.indexes, source, resampling.window, how)
    return resampling.apply(source, valid, out)


def _read_mosaic(scene: Scene, window: Window) -> Pixels:
    """From the top down, until every pixel is known or there are no more files."""
    values = np.zeros((len(scene.bands), *window.shape), scene.dtype)
    valid = np.zeros(window.shape, bool)
    for piece in reversed(scene.pieces or ()):
        shared = piece.window.intersect(window)
        if shared.size:
            to = shared.slices(origin=window)
            rio = rio_window(shared, origin=piece.window)
            _lay(scene, piece, values[(slice(None), *to)], valid[to], rio)
    return Pixels(values=values, valid=valid)


def _lay(
    scene: Scene, piece: Piece, values: NDArray[Any], valid: NDArray[np.bool_], window: RioWindow
) -> None:
    """Adds what `piece` has in `window` (its own pixels) to `values` and `valid` where these have nothing."""
    if valid.all():
        return
    untouched = not valid.any()
    own = values if untouched else np.empty(values.shape, values.dtype)
    indexes = [b.index for b in scene.bands]
    how = {"window": window, "resampling": RioResampling.nearest}
    found = _with_pixels(scene, piece.path, indexes, own, piece.window, how)
    if not untouched:
        np.copyto(values, own, where=found & ~valid)
    valid |= found


def _reduced(
    place: Window, full: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], RioWindow]:
    """The reduced pixels whose centres lie in `place`, and the part of `place` they stand for.

    Rounding may take the part a little over the edges of `place`: there it is cut.
    """
    to: list[slice] = []
    parts: list[tuple[float, float]] = []
    for first, size, all_, few in zip((place.row, place.col), place.shape, full, shape, strict=True):
        factor = all_ / few
        start, stop = (max(0, math.ceil(edge / factor - 0.5)) for edge in (first, first + size))
        to.append(slice(start, min(stop, few)))
        low, high = (min(max(n * factor - first, 0.0), float(size)) for n in (start, stop))
        parts.append((low, high - low))
    (row, height), (col, width) = parts
    return (to[0], to[1]), RioWindow(col, row, width, height)


def _in_file(placed: Placement | None, window: Window) -> RioWindow:
    """The scene's `window` in the file's pixels, unrounded."""
    if placed is None:
        return rio_window(window)
    rows, cols = placed.rows, placed.cols
    return RioWindow(
        (window.col - cols.start) / cols.step,
        (window.row - rows.start) / rows.step,
        window.width / cols.step,
        window.height / rows.step,
    )


def _with_pixels(  # noqa: PLR0917
    scene: Scene, path: str, indexes: list[int], out: NDArray[Any], at: Window, how: dict[str, Any]
) -> NDArray[np.bool_]:
    """Fills `out` with bands of the file at `path` and returns where they are valid.

    `how` says what is read, as rasterio has it; `at` is for the message when that fails.
    """

    def read(dataset: Any) -> NDArray[np.bool_]:
        dataset.read(indexes, out=out, **how)
        valid = _mask(scene, dataset, indexes, out, how)
        return valid & has_data(out, scene.nodata) if _may_lack(scene) else valid

    try:
        return with_dataset(path, read, sidecars=sidecar_mask(path) in scene.files)
    except RasterioError as error:
        change = "The file looks damaged or incomplete: fetch it again, or check it with gdalinfo."
        if is_remote(path):
            change = "Check the connection to the server and run again: what is done is kept."
        raise SceneError(
            explain(
                "reading failed",
                at=f"{path}, {at}",
                expected="readable pixels",
                found=str(error.__cause__ or error),
                change=change,
            )
        ) from error


def _may_lack(scene: Scene) -> bool:
    """True when values themselves can say that there is no data, whatever the file declares."""
    return scene.nodata is not None or np.dtype(scene.dtype).kind == "f"


def _mask(
    scene: Scene, dataset: Any, indexes: list[int], values: NDArray[Any], how: dict[str, Any]
) -> NDArray[np.bool_]:
    """(height, width): True where nodata values, mask and alpha all leave the bands `indexes` standing.

    Each is asked for by itself: where a file has several, GDAL's own mask is only one of them, and the others
    would be silently forgotten. `how` says what was read.
    """
    shape = values.shape[1:]
    nodata = dataset.nodatavals
    valid = _differ(values, [nodata[i - 1] for i in indexes], np.ones(shape, bool))
    flags = dataset.mask_flag_enums[indexes[0] - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        valid &= dataset.read_masks(indexes[0], out_shape=shape, **how) > 0
    alphas = [i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c == ColorInterp.alpha]
    if alphas and not scene.alpha_is_data:
        valid &= (dataset.read(alphas, out_shape=shape, **how) > 0).all(axis=0)
    return valid


def _differ(
    values: NDArray[Any], nodata: Sequence[float | None], valid: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """`valid`, (height, width), without the pixels where a band holds its nodata value."""
    for band, missing in zip(values, nodata, strict=True):
        if missing is not None and not np.isnan(missing):  # NaN is never valid anyway
            valid &= band != (band.dtype.type(missing) if band.dtype.kind == "f" else missing)
    return valid


def rio_window(window: Window, *, origin: Window | None = None) -> RioWindow:
    """The window as rasterio wants it, counted from the first pixel of `origin` (or the scene's)."""
    row, col = (origin.row, origin.col) if origin else (0, 0)
    return RioWindow(window.col - col, window.row - row, window.width, window.height)
