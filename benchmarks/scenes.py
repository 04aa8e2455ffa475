"""Synthetic scenes of any size: fields with rows and relief, seeded, written in strips.

The pattern of fields repeats every 1024 px (a partition of a torus, so that nothing shows where it does);
relief and noise do not. Without noise a scene compresses to almost nothing, so that one of a billion pixels
fits on any disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BANDS = ("blue", "green", "red", "nir")
_PERIOD = 1024
_FIELDS = 26
"""Fields along one side of the period: 40 px each."""
_STRIP = 512
_BEND_PX = 5.0
_NOISE = 25.0
_TOP = 10_000


def make_scene(path: Path, *, size: int, seed: int = 0, noise: bool = True) -> Path:
    """A GeoTIFF of `size` x `size` px, 4 bands of uint16; left alone when it is there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    fields = _fields(seed)
    with rasterio.open(partial, "w", **_profile(size, noise=noise)) as dataset:
        for index, name in enumerate(BANDS, start=1):
            dataset.set_band_description(index, name)
        for row in range(0, size, _STRIP):
            rows = min(_STRIP, size - row)
            strip = fields.strip(row, rows, size) if noise else fields.flat_strip(row, rows, size)
            dataset.write(strip, window=Window(0, row, size, rows))
    partial.replace(path)
    return path


def _profile(size: int, *, noise: bool) -> dict[str, object]:
    compression = {"compress": "deflate", "predictor": 2} if noise else {"compress": "zstd", "zstd_level": 1}
    return {
        "driver": "GTiff",
        "count": len(BANDS),
        "dtype": "uint16",
        "height": size,
        "width": size,
        "crs": "EPSG:32631",
        "transform": from_origin(500_000, 5_200_000, 10, 10),
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "bigtiff": "if_safer",
        "num_threads": os.cpu_count() or 1,
        **compression,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """One period of the pattern, and what grows where."""

    seed: int
    ids: NDArray[np.int32]
    """(_PERIOD, _PERIOD), the field of each pixel."""
    base: NDArray[np.float32]
    """(bands, fields), reflectance."""
    pitch: NDArray[np.float32]
    """(bands, fields), pixels between rows of plants over 2 pi."""
    depth: NDArray[np.float32]
    """(bands, fields), how much rows stand out."""

    def strip(self, row: int, rows: int, width: int) -> NDArray[np.uint16]:
        """(bands, rows, width) from scene row `row` on, with rows of plants, relief and noise."""
        y = np.arange(row, row + rows, dtype=np.float32)[:, None]
        x = np.arange(width, dtype=np.float32)[None, :]
        ids = self._ids(row, rows, width)
        out = np.empty((len(BANDS), rows, width), np.uint16)
        for band in range(len(BANDS)):
            rng = np.random.default_rng((self.seed, band, row))
            values = self.base[band][ids]
            values += self.depth[band][ids] * np.sin((x + 0.6 * y) / self.pitch[band][ids])
            values += 120 * np.sin(x / (170 + 30 * band)) * np.cos(y / (230 - 20 * band) + x / 900)
            values += _NOISE * rng.standard_normal(values.shape, dtype=np.float32)
            out[band] = np.clip(values, 1, _TOP)
        return out

    def flat_strip(self, row: int, rows: int, width: int) -> NDArray[np.uint16]:
        """The same fields, each of one value."""
        ids = self._ids(row, rows, width)
        return np.stack(
            [np.clip(self.base[band], 1, _TOP).astype(np.uint16)[ids] for band in range(len(BANDS))]
        )

    def _ids(self, row: int, rows: int, width: int) -> NDArray[np.int32]:
        period = self.ids[np.arange(row, row + rows) % _PERIOD]
        return np.tile(period, (1, -(-width // _PERIOD)))[:, :width]


@lru_cache(maxsize=1)
def _fields(seed: int) -> _Fields:
    rng = np.random.default_rng(seed)
    count = _FIELDS**2
    shape = (len(BANDS), count)
    level = np.array([[900.0], [1400.0], [1900.0], [2400.0]])
    return _Fields(
        seed=seed,
        ids=_partition(rng),
        base=rng.normal(level, 320, shape).astype(np.float32),
        pitch=rng.uniform(3, 9, shape).astype(np.float32),
        depth=rng.uniform(0, 90, shape).astype(np.float32),
    )


def _partition(rng: np.random.Generator) -> NDArray[np.int32]:
    """The nearest of jittered grid points on a torus, with bent borders."""
    grid = np.stack(np.mgrid[:_FIELDS, :_FIELDS], axis=-1).reshape(-1, 2)
    points = (grid + rng.random(grid.shape)) * (_PERIOD / _FIELDS)
    tree = cKDTree(points % _PERIOD, boxsize=_PERIOD)
    bend = np.stack([_smooth(rng), _smooth(rng)], axis=-1) * _BEND_PX
    plane = np.stack(np.mgrid[:_PERIOD, :_PERIOD], axis=-1) + bend
    nearest: NDArray[np.int64] = tree.query(plane.reshape(-1, 2) % _PERIOD, workers=-1)[1]
    return nearest.reshape(_PERIOD, _PERIOD).astype(np.int32)


def _smooth(rng: np.random.Generator) -> NDArray[np.float64]:
    """A field on the torus, of mean 0 and spread 1, smooth over about 16 px."""
    waves = np.fft.rfft2(rng.standard_normal((_PERIOD, _PERIOD)))
    rows, cols = np.fft.fftfreq(_PERIOD)[:, None], np.fft.rfftfreq(_PERIOD)[None, :]
    field = np.fft.irfft2(waves * np.exp(-((16 * rows) ** 2 + (16 * cols) ** 2) * 8), s=(_PERIOD, _PERIOD))
    return (field - field.mean()) / field.std()
