"""A synthetic multispectral scene with known truth, for the demo and for tests.

It looks like a landscape in late summer at 10 m: rivers, lakes, forest on high ground, fields along roads,
villages at crossings. Classes are easily confused by their spectra alone (meadow and green crop, roofs and
roads, ploughed fields and bare ground), so a good map needs the surroundings of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

from geoseg.demo.landscape import plan
from geoseg.demo.noise import Rows, fractal, nodes, refine
from geoseg.demo.painter import Painted, cover, paint_rows
from geoseg.demo.spectra import BANDS, CLASS_OF, LEGEND, SURFACES, WATER
from geoseg.errors import UsageError, explain
from geoseg.files import replacing
from geoseg.legend import Legend  # noqa: TC001 - a field of a dataclass
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SCALE = 10_000
"""Reflectance 1 is stored as this."""
IMAGE_NODATA = 0
"""Pixel value of the image outside the swath."""

_MIN_SIZE, _MAX_SIZE = 256, 8192
_ROWS = 256
_CRS = "EPSG:32632"
_ORIGIN = (600_000.0, 5_400_000.0)
_GSD_M = 10.0
# Blur of the optics in pixels: the short-wave infrared bands of Sentinel-2 have 20 m detectors.
_BLUR_PX = (0.55, 0.55, 0.55, 0.55, 0.95, 0.95)
# Sensor noise, and path radiance left by atmospheric correction: most in blue, none in the infrared.
_NOISE = (0.0022, 0.0022, 0.0024, 0.0035, 0.0030, 0.0030)
_HAZE = (0.010, 0.006, 0.003, 0.001, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoScene:
    """Where the files of a demo scene are, and which parts of it to train on and to judge by."""

    image: Path
    """GeoTIFF, six uint16 bands named as in `spectra.BANDS`, reflectance times SCALE, nodata 0."""
    truth: Path
    """GeoTIFF, one uint8 band of class ids, nodata as in the legend."""
    legend: Legend
    """Its classes."""
    train: Window
    """The western part, for training."""
    held_out: Window
    """The eastern part, never trained on; a strip of size / 16 pixels lies between the two."""


def write_scene(folder: Path, *, size: int = 4096, seed: int = 0) -> DemoScene:
    """The scene of `size` x `size` pixels written to `folder` as `scene.tif` and `truth.tif`.

    The same size and seed give the same pixels. Needs about 36 bytes of memory per pixel.

    Raises:
        UsageError: when `size` is outside 256..8192.
    """
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise UsageError(
            explain(
                "the demo scene cannot be made",
                at=folder,
                expected=f"a size from {_MIN_SIZE} to {_MAX_SIZE} pixels",
                found=size,
                change="Give a size in this range.",
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    truth, image = render(size, seed)
    scene = DemoScene(
        image=folder / "scene.tif",
        truth=folder / "truth.tif",
        legend=LEGEND,
        train=Window(0, 0, size, size * 9 // 16 // 32 * 32),
        held_out=Window(0, size * 10 // 16 // 32 * 32, size, size - size * 10 // 16 // 32 * 32),
    )
    _write(scene.image, image, names=BANDS, nodata=IMAGE_NODATA)
    _write(scene.truth, truth[None], names=("class",), nodata=LEGEND.nodata)
    return scene


def render(size: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Truth (size, size) and image (6, size, size) of the scene, with its nodata corner."""
    rng = np.random.default_rng([seed, size])
    land = plan(size, rng)
    ground = cover(land, rng)
    truth = np.empty((size, size), np.uint8)
    image = np.empty((len(BANDS), size, size), np.uint16)
    for rows in _strips(size):
        painted = paint_rows(ground, rows)
        here = slice(rows.start, rows.stop)
        truth[here] = CLASS_OF[painted.code]
        grain = np.random.default_rng([seed, size, 1, rows.start])
        image[:, here] = _reflect(painted, refine(land.light, rows), grain)
    haze = fractal(rng, nodes(size), [nodes(size) / 2, nodes(size) / 5])
    for band in range(len(BANDS)):
        _observe(image[band], band, haze, np.random.default_rng([seed, size, 2, band]))
    _clip_swath(truth, image)
    return truth, image


def _strips(size: int) -> Iterator[Rows]:
    """The scene's rows, a few at a time."""
    for start in range(0, size, _ROWS):
        yield Rows(start=start, stop=min(size, start + _ROWS), size=size)


def _column(name: str) -> NDArray[np.float32]:
    """One attribute of every surface, by surface code."""
    return np.array([getattr(surface, name) for surface in SURFACES.values()], np.float32)


def _reflect(painted: Painted, light: NDArray[np.float32], grain: np.random.Generator) -> NDArray[np.uint16]:
    """Reflectance times SCALE (bands, rows, columns) of a painted run of rows, before the sensor sees it."""
    code = painted.code
    speck = grain.standard_normal(code.shape, dtype=np.float32)
    share = _column("share")[code] + _column("patch_spread")[code] * painted.patch
    share += _column("pixel_spread")[code] * painted.fine
    np.clip(share, 0, 1, out=share)
    bright = 1 + _column("texture")[code] * speck + np.float32(0.025) * painted.furrow
    bright *= np.where(CLASS_OF[code] == WATER, np.float32(1), light)
    np.clip(bright, 0.3, 2, out=bright)
    first, second = _column("a") * SCALE, _column("b") * SCALE
    bands = np.empty((len(BANDS), *code.shape), np.uint16)
    for band in range(len(BANDS)):
        base, change = first[:, band], second[:, band] - first[:, band]
        bands[band] = (base[code] + change[code] * share) * bright
    return bands


def _observe(
    band: NDArray[np.uint16], index: int, haze: NDArray[np.float32], noise: np.random.Generator
) -> None:
    """Blur, veil and disturb one band in place, as the atmosphere and the sensor do; values stay above 0."""
    seen = gaussian_filter(band.astype(np.float32), _BLUR_PX[index], truncate=3)
    size = band.shape[0]
    slope = np.linspace(0.5, 1.2, size, dtype=np.float32)[None, :]  # thicker towards the east
    for rows in _strips(size):
        here = slice(rows.start, rows.stop)
        veil = np.clip(slope + np.float32(0.25) * refine(haze, rows), 0, 2)
        veil *= np.float32(_HAZE[index] * SCALE)
        error = noise.standard_normal(rows.shape, dtype=np.float32) * np.float32(_NOISE[index] * SCALE)
        band[here] = np.clip(seen[here] + veil + error, 1, SCALE * 1.6)


def _clip_swath(truth: NDArray[np.uint8], image: NDArray[np.uint16]) -> None:
    """Set the south-eastern corner, beyond the slanted edge of the swath, to nodata."""
    size = truth.shape[0]
    row = np.arange(size, dtype=np.float32)[:, None]
    outside = np.arange(size, dtype=np.float32)[None, :] > size * 1.09 - row * 0.21
    truth[outside] = LEGEND.nodata
    image[:, outside] = IMAGE_NODATA


def _write(path: Path, pixels: NDArray[np.uint8 | np.uint16], *, names: tuple[str, ...], nodata: int) -> None:
    """`pixels` (bands, rows, columns) as a tiled, deflated GeoTIFF, under its name only when complete."""
    bands, height, width = pixels.shape
    profile = {
        "driver": "GTiff",
        "dtype": pixels.dtype.name,
        "count": bands,
        "height": height,
        "width": width,
        "crs": _CRS,
        "transform": Affine(_GSD_M, 0, _ORIGIN[0], 0, -_GSD_M, _ORIGIN[1]),
        "nodata": nodata,
        "tiled": True,
        "blockxsize": _ROWS,
        "blockysize": _ROWS,
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 2,
        "interleave": "pixel",
    }
    with replacing(path) as temporary, rasterio.open(temporary, "w", **profile) as out:
        out.write(pixels)
        out.descriptions = names
