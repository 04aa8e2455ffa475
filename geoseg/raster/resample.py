"""Values of larger pixels on a finer grid, the same for every window they are asked for.

GDAL's warper works in chunks and approximates coordinates, so that a pixel's value can depend on the window
it is read in. Here each pixel's weights follow from its own row and column in the scene alone, and its value
is formed by the same operations in the same order: reading a part equals that part of reading everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.windows import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.raster.placement import Placement, Span
    from geoseg.raster.scene import Resample

_CHUNK_ROWS = 64
"""Rows worked on at once, so that intermediate values stay in the cache."""
_REACH = {"nearest": (0, 1), "bilinear": (0, 2), "cubic": (-1, 3)}
"""First and last tap of each kernel, counted from the pixel whose centre lies before the position."""
_CUBIC = -0.5
"""Keys' parameter, as in GDAL."""
_EXACT_BYTES = 2
"""Integers of up to this size keep their precision in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """One axis: which pixels of the file make each pixel of the scene, and with what weight."""

    first: int
    """First pixel of the file that has a part."""
    count: int
    """Pixels of the file, from `first`, to be read."""
    index: NDArray[np.intp]
    """Shape (taps, n), counted from `first`."""
    weight: NDArray[np.float64]
    """Shape (taps, n); sums to 1 over the taps."""
    own: NDArray[np.intp]
    """Shape (n,): the pixel of the file that holds the centre, counted from `first`."""


def taps_of(span: Span, start: int, stop: int, *, kernel: Resample) -> Taps:
    """The taps of the scene's pixels start..stop-1 along one axis; the file's last pixels go on beyond it."""
    at = (np.arange(start, stop) + 0.5 - span.start) / span.step
    own = np.clip(np.floor(at).astype(np.intp), 0, span.size - 1)
    if kernel == "nearest":
        index, weight = own[None], np.ones((1, len(at)))
    else:
        before = np.floor(at - 0.5)
        first, last = _REACH[kernel]
        index = before.astype(np.intp) + np.arange(first, last)[:, None]
        weight = (_linear if kernel == "bilinear" else _cubic)(np.abs(at - 0.5 - index))
        index = np.clip(index, 0, span.size - 1)
    low = int(min(index.min(), own.min()))
    high = int(max(index.max(), own.max()))
    return Taps(first=low, count=high + 1 - low, index=index - low, weight=weight, own=own - low)


def _linear(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - apart)


def _cubic(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    near = ((_CUBIC + 2) * apart - (_CUBIC + 3)) * apart**2 + 1
    far = ((apart - 5) * apart + 8) * apart * _CUBIC - 4 * _CUBIC
    return np.where(apart <= 1, near, np.where(apart < 2, far, 0.0))  # noqa: PLR2004


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How a window of the scene follows from a window of a file."""

    rows: Taps
    cols: Taps
    smooth: tuple[Taps, Taps]
    """Bilinear taps, rows and columns: what is left of a pixel beside others without data."""

    @classmethod
    def of(cls, placed: Placement, window: Window, kernel: Resample) -> Resampling:
        """For the scene's `window`, which is not empty."""
        rows, cols = (
            taps_of(placed.rows, window.row, window.stop_row, kernel=kernel),
            taps_of(placed.cols, window.col, window.stop_col, kernel=kernel),
        )
        if kernel != "cubic":
            return cls(rows=rows, cols=cols, smooth=(rows, cols))
        smooth = (
            _counted_from(rows, taps_of(placed.rows, window.row, window.stop_row, kernel="bilinear")),
            _counted_from(cols, taps_of(placed.cols, window.col, window.stop_col, kernel="bilinear")),
        )
        return cls(rows=rows, cols=cols, smooth=smooth)

    @property
    def window(self) -> Window:
        """What of the file must be read."""
        return Window(self.rows.first, self.cols.first, self.rows.count, self.cols.count)

    def apply(self, values: NDArray[Any], valid: NDArray[np.bool_], out: NDArray[Any]) -> NDArray[np.bool_]:
        """Fills `out` (bands, height, width) from the file's `values` and returns where it is valid.

        A pixel is valid where the file's pixel that holds its centre is. Where others that it would take part
        of are not, the bilinear weights of those that are, made to sum to 1, take their place.
        """
        own = valid[self.rows.own][:, self.cols.own]
        if valid.all():
            for band, target in zip(values, out, strict=True):
                _interpolate(band, self.rows, self.cols, target)
            return own
        known = np.where(valid, values, values.dtype.type(0))
        for band, target in zip(known, out, strict=True):
            _interpolate(band, self.rows, self.cols, target)
        row, col = np.nonzero(own & ~_all_taps(valid, self.rows, self.cols))
        if row.size:
            out[:, row, col] = _of_the_valid(known, valid, row, col, self.smooth).T
        return own


def _counted_from(taps: Taps, other: Taps) -> Taps:
    """`other` with its indices counted from the first pixel of `taps`."""
    shift = other.first - taps.first
    return Taps(
        first=taps.first,
        count=taps.count,
        index=other.index + shift,
        weight=other.weight,
        own=other.own + shift,
    )


def _interpolate(band: NDArray[Any], rows: Taps, cols: Taps, out: NDArray[Any]) -> None:
    """One band, rows after columns, in chunks of rows; integers are rounded, halves up as GDAL does."""
    if len(rows.index) == 1:
        np.take(band[rows.own], cols.own, axis=1, out=out)
        return
    kind = _computed_in(band.dtype)
    wide = _weighed(band, cols, kind)
    weight = rows.weight.astype(kind)[:, :, None]
    for start in range(0, len(out), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        total = wide[rows.index[0, part]] * weight[0, part]
        for index, factor in zip(rows.index[1:], weight[1:], strict=True):
            total += wide[index[part]] * factor[part]
        out[part] = _rounded(total, out.dtype)


def _weighed(band: NDArray[Any], cols: Taps, kind: type[np.floating[Any]]) -> NDArray[Any]:
    """The band with its columns interpolated, (rows of the file, columns of the scene)."""
    weight = cols.weight.astype(kind)
    wide = np.empty((len(band), cols.index.shape[1]), kind)
    for start in range(0, len(band), _CHUNK_ROWS):
        part = band[start : start + _CHUNK_ROWS].astype(kind)
        total = np.take(part, cols.index[0], axis=1) * weight[0]
        for index, factor in zip(cols.index[1:], weight[1:], strict=True):
            total += np.take(part, index, axis=1) * factor
        wide[start : start + _CHUNK_ROWS] = total
    return wide


def _all_taps(valid: NDArray[np.bool_], rows: Taps, cols: Taps) -> NDArray[np.bool_]:
    """(height, width): True where no pixel that has a part lacks data."""
    wide = np.logical_and.reduce([valid[:, index] for index in cols.index])
    whole: NDArray[np.bool_] = np.logical_and.reduce([wide[index] for index in rows.index])
    return whole


def _of_the_valid(
    known: NDArray[Any],
    valid: NDArray[np.bool_],
    row: NDArray[np.intp],
    col: NDArray[np.intp],
    smooth: tuple[Taps, Taps],
) -> NDArray[Any]:
    """(pixels, bands): weighted means over the pixels with data around each of the pixels row, col."""
    rows, cols = smooth
    total = np.zeros((len(row), len(known)))
    weights = np.zeros((len(row), 1))
    for i, down in zip(rows.index, rows.weight, strict=True):
        for j, right in zip(cols.index, cols.weight, strict=True):
            weight = (down[row] * right[col] * valid[i[row], j[col]])[:, None]
            total += weight * known[:, i[row], j[col]].T
            weights += weight
    return _rounded(total / weights, known.dtype)


def _computed_in(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    narrow = dtype == np.float32 or (dtype.kind in "ui" and dtype.itemsize <= _EXACT_BYTES)
    return np.float32 if narrow else np.float64


def _rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    np.floor(values + values.dtype.type(0.5), out=values)
    return np.clip(values, limits.min, limits.max, out=values).astype(dtype)
