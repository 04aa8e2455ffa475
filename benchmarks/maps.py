"""Synthetic class maps of any size: fields with rough borders, clean or with speckle, written in strips.

The shapes of the fields repeat every 1024 px, what grows on them does not: neighbours of one class are one
region, so that regions differ from period to period. `noisy` is like what a network says of each pixel,
`clean` like the same map after a majority filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy import ndimage
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = 8
"""Ids 0 to 7; there is no nodata."""
KINDS = ("clean", "noisy")

_PERIOD = 1024
_FIELDS = 26
"""Fields along one side of the period: 40 px each."""
_MARGIN = 3
"""Fields beyond the map's border that may reach into it."""
_STRIP = 512
_BEND_PX, _BEND_CELL = 4.0, 16
_ROUGH_PX, _ROUGH_CELL = 4.2, 4
_SPECKLE, _SPECKLE_CELL = 0.035, 64
_CLUMP = 0.6
"""Chance that a pixel of a clump is hit."""


def make_map(path: Path, *, kind: str, size: int, seed: int = 0) -> Path:
    """A GeoTIFF of `size` x `size` px, one band of uint8; left alone when it is there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    crops = _crops(seed, -(-size // _PERIOD))
    with rasterio.open(partial, "w", **_profile(size)) as dataset:
        for row in range(0, size, _STRIP):
            rows = min(_STRIP, size - row)
            strip = _fields(seed).classes(crops, row, rows, size)
            if kind == "noisy":
                _speckle(strip, row, np.random.default_rng((seed, row)))
            dataset.write(strip, 1, window=Window(0, row, size, rows))
    partial.replace(path)
    return path


def _profile(size: int) -> dict[str, object]:
    return {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "height": size,
        "width": size,
        "crs": "EPSG:32631",
        "transform": from_origin(500_000, 5_200_000, 10, 10),
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "predictor": 2,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """One period of the shapes: in which field each pixel lies."""

    rows: NDArray[np.int32]
    """(_PERIOD, _PERIOD), the field's row; -1 or _FIELDS where it belongs to the period beside."""
    cols: NDArray[np.int32]
    """The same, its column."""

    def classes(self, crops: NDArray[np.uint8], row: int, rows: int, width: int) -> NDArray[np.uint8]:
        """(rows, width) from the map's row `row` on."""
        out = np.empty((rows, width), np.uint8)
        line = np.arange(row, row + rows)
        at_row = self.rows[line % _PERIOD] + (line // _PERIOD * _FIELDS + _MARGIN)[:, None]
        at_col = self.cols[line % _PERIOD] + _MARGIN
        for period, col in enumerate(range(0, width, _PERIOD)):
            part = slice(0, min(_PERIOD, width - col))
            out[:, col : col + _PERIOD] = crops[at_row[:, part], at_col[:, part] + period * _FIELDS]
        return out


@lru_cache(maxsize=1)
def _fields(seed: int) -> _Fields:
    """The nearest of jittered grid points on a torus, with bent and rough borders."""
    rng = np.random.default_rng(seed)
    grid = np.indices((_FIELDS, _FIELDS)).reshape(2, -1).T
    points = (grid + rng.random(grid.shape)) * (_PERIOD / _FIELDS)
    bend, rough = (
        np.stack([_smooth(rng, cell) - 0.5 for _ in "yx"], axis=-1) * 2 * most_px
        for most_px, cell in ((_BEND_PX, _BEND_CELL), (_ROUGH_PX, _ROUGH_CELL))
    )
    # Each pixel takes the field of another one nearby: whole pixels, so that borders touch at corners too.
    plane = np.floor(np.moveaxis(np.indices((_PERIOD, _PERIOD)), 0, -1) + rough)
    plane += bend[tuple(plane.astype(np.int64).T % _PERIOD)].swapaxes(0, 1)
    tree = cKDTree(points % _PERIOD, boxsize=_PERIOD)
    nearest = tree.query(plane.reshape(-1, 2) % _PERIOD)[1]
    beside = np.rint((plane.reshape(-1, 2) - points[nearest]) / _PERIOD).astype(np.int64) * _FIELDS
    rows, cols = (grid[nearest] + beside).astype(np.int32).T.reshape(2, _PERIOD, _PERIOD)
    return _Fields(rows=rows, cols=cols)


def _crops(seed: int, periods: int) -> NDArray[np.uint8]:
    """The class of every field of a map: the k-th class is k times rarer than the first."""
    side = periods * _FIELDS + 2 * _MARGIN
    shares = 1 / np.arange(1, CLASSES + 1)
    drawn = np.random.default_rng((seed, periods)).choice(CLASSES, (side, side), p=shares / shares.sum())
    return drawn.astype(np.uint8)


def _speckle(classes: NDArray[np.uint8], row: int, rng: np.random.Generator) -> None:
    """Gives pixels and small clumps of them any class, in place; more here, less there."""
    rows, width = classes.shape
    period = (0.2 + _speckled()) ** 3 * _SPECKLE
    chance = np.tile(period[np.arange(row, row + rows) % _PERIOD], (1, -(-width // _PERIOD)))[:, :width]
    seeds = rng.random(classes.shape, dtype=np.float32) < chance
    hit = ndimage.binary_dilation(seeds) & (rng.random(classes.shape, dtype=np.float32) < _CLUMP)
    classes[hit] = rng.integers(0, CLASSES, int(hit.sum()), dtype=np.uint8)


@lru_cache(maxsize=1)
def _speckled() -> NDArray[np.float32]:
    return _smooth(np.random.default_rng(1), _SPECKLE_CELL).astype(np.float32)


def _smooth(rng: np.random.Generator, cell: int) -> NDArray[np.float64]:
    """Values 0 to 1 over one period of the torus: drawn every `cell` pixels, linear between."""
    drawn = rng.random((_PERIOD // cell,) * 2)
    at = np.arange(_PERIOD) / cell
    field: NDArray[np.float64] = ndimage.map_coordinates(
        drawn, np.meshgrid(at, at, indexing="ij"), order=1, mode="grid-wrap"
    )
    return field
