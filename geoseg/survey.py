"""Where a scene has data, from a coarse look, and places spread over it for a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rasterio.errors import RasterioError

from geoseg.inference import normalise
from geoseg.matching import Mapping
from geoseg.raster.read import read_overview, read_window
from geoseg.raster.remote import with_dataset
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from geoseg.package import Card
    from geoseg.raster.scene import Scene
    from geoseg.tiling import Axis, TilePlan

P = TypeVar("P", bound="Hashable")

SAMPLE_PX = 1 << 20
"""Pixels of a sample, about: a thousandth of a percent of them are ten."""
_LEAST_COUNT = 4
_LEAST_PATCH_PX = 256

_LONGEST_PX = 512
"""Longer side of the coarse look."""
_SMALL_PX = 1 << 26
"""A scene of at most this many pixels is skimmed whole even where there is nothing reduced to read."""
_PROBES = 12
"""Else this many windows down and across are read,"""
_PROBE_PX = 64
"""of this side."""
_GOOD = 0.5
"""A place with at least this share of data is as good as any."""
_MOST_CELLS = 4096
"""Of those with data, this many are enough to choose from."""
_TRIES = 24
"""Places looked at for each one wanted."""
_SPARE = 3
"""Places looked for, for each patch of a sample: some may hold less data than the survey thought."""
_STEPS = (0.7548776662466927, 0.5698402909980532)
"""1 / p and 1 / p**2 with p**3 = p + 1: multiples of these, modulo 1, fill a square evenly, however many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A scene cut into a grid of cells, and how much of each holds data."""

    share: NDArray[np.float32]
    """(rows, columns): valid pixels over all pixels of a cell, as far as was looked."""
    window: Window
    """The whole scene."""

    def within(self, window: Window) -> float:
        """Valid pixels over all pixels of the cells that `window` touches, estimated."""
        return float(self.share[self._cells(window)].mean())

    def any_data(self, window: Window) -> bool:
        """True where there is data in a cell that `window` touches."""
        return bool(self.share[self._cells(window)].any())

    def _cells(self, window: Window) -> tuple[slice, slice]:
        rows, cols = (
            slice(start * cells // size, max(start * cells // size + 1, -(-stop * cells // size)))
            for cells, size, start, stop in (
                (self.share.shape[0], self.window.height, window.row, window.stop_row),
                (self.share.shape[1], self.window.width, window.col, window.stop_col),
            )
        )
        return rows, cols


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Patches of a scene as a network gets them."""

    pixels: NDArray[np.float32]
    """(n, bands, height, width), normalised; 0 where there is no data."""
    valid: NDArray[np.bool_]
    """(n, height, width), True where all bands have data."""


def survey(scene: Scene) -> Survey:
    """Where the scene has data, in seconds whatever its size.

    Raises:
        SceneError: naming file and window when reading fails.
    """
    if scene.window.size <= _SMALL_PX or _has_overviews(scene):
        valid = read_overview(scene, longest=_LONGEST_PX).valid
        return Survey(share=valid.astype(np.float32), window=scene.window)
    share = np.array(
        [
            [read_window(scene, _probe(scene, i, j)).valid.mean() for j in range(_PROBES)]
            for i in range(_PROBES)
        ],
        np.float32,
    )
    return Survey(share=share, window=scene.window)


def _has_overviews(scene: Scene) -> bool:
    """True where files can be read reduced, without all of them being read; those of a mosaic are alike."""
    paths = scene.paths if scene.pieces is None else scene.paths[:1]
    try:
        return all(with_dataset(path, lambda dataset: bool(dataset.overviews(1))) for path in paths)
    except RasterioError:
        return False  # whoever reads pixels will say what is wrong


def _probe(scene: Scene, row: int, col: int) -> Window:
    """A window in the middle of a cell."""
    height, width = scene.window.shape
    top, left = ((2 * i + 1) * size // (2 * _PROBES) for i, size in ((row, height), (col, width)))
    half = _PROBE_PX // 2
    return Window(top - half, left - half, _PROBE_PX, _PROBE_PX).intersect(scene.window)


def spread(
    found: Survey,
    count: int,
    *,
    wanted: Window,
    place: Callable[[float, float], P],
    extent: Callable[[P], Window],
) -> list[P]:
    """Up to `count` distinct places, evenly spread over where there is data; the same ones every time.

    Args:
        found: where there is data.
        count: places wanted.
        wanted: the part of the scene they are wanted from.
        place: the place nearest to a point, given as row and column of a pixel.
        extent: the pixels of a place; places that hold little data come last.
    """
    points = _points_with_data(found, wanted)
    origin, size = np.array([wanted.row, wanted.col]), np.array(wanted.shape)
    tried: dict[P, float] = {}
    for k in range(_TRIES * count):
        target = origin + size * ((0.5 + k * np.array(_STEPS)) % 1)
        row, col = points[((points - target) ** 2).sum(axis=1).argmin()].tolist()
        candidate = place(row, col)
        if candidate not in tried:
            tried[candidate] = found.within(extent(candidate))
        if sum(share >= _GOOD for share in tried.values()) >= count:
            break
    return sorted(tried, key=lambda p: -min(tried[p], _GOOD))[:count]  # stable: of equals, in order


def _points_with_data(found: Survey, wanted: Window) -> NDArray[np.float64]:
    """Rows and columns of pixels amid data, all over `wanted`; its middle where nothing better is known."""
    cells = np.argwhere(found.share > 0)
    points = (cells + 0.5) * found.window.shape / found.share.shape
    first = np.array([wanted.row, wanted.col])
    points = points[((points >= first) & (points < first + wanted.shape)).all(axis=1)]
    if not len(points):
        return np.array([first + np.array(wanted.shape) / 2])
    return points[:: -(-len(points) // _MOST_CELLS)]


def sample_count(cores: int) -> int:
    """Patches a sample should have: enough places, and as much for each core to do as for the others."""
    return cores * -(-_LEAST_COUNT // cores)


def sample_shape(plan: TilePlan, count: int) -> tuple[int, int]:
    """(height, width) of the patches of a sample: the plan's, or smaller where those would take long."""
    rows, cols = plan.lattice.rows, plan.lattice.cols
    side = max(_LEAST_PATCH_PX, math.isqrt(SAMPLE_PX // count))
    side = max(side // rows.stride_px, 1) * rows.stride_px
    return min(rows.length, side), min(cols.length, side)


def sample_patches(
    scene: Scene, card: Card, plan: TilePlan, count: int, *, mapping: Mapping | None = None
) -> Sample:
    """Up to `count` patches of the scene, normalised as the network wants them.

    They lie spread over where the scene has data, on the network's stride, and are the same every time. Each
    has a pixel with data at least, and half of its pixels where there are places enough that do.

    Raises:
        SceneError: the scene cannot be read.
    """
    scene = scene.select(card.band_names)
    shape, axes = sample_shape(plan, count), (plan.lattice.rows, plan.lattice.cols)

    def place(*middle: float) -> Window:
        row, col = (_start(m, axis, n) for m, axis, n in zip(middle, axes, shape, strict=True))
        return Window(row, col, *shape)

    windows = spread(
        survey(scene),
        _SPARE * count,
        wanted=plan.window,
        place=place,
        extent=lambda window: window.intersect(scene.window),
    )
    read: list[tuple[float, NDArray[np.float32], NDArray[np.bool_]]] = []
    for window in windows:
        read.append(_read_patch(scene, window, card, mapping or Mapping()))
        if sum(share >= _GOOD for share, _, _ in read) >= count:
            break
    # The survey has seen few of the pixels: now all of them are known. Of equals, in order.
    best = sorted((patch for patch in read if patch[0]), key=lambda patch: -min(patch[0], _GOOD))[:count]
    return Sample(
        pixels=np.array([pixels for _, pixels, _ in best], np.float32).reshape(-1, len(card.bands), *shape),
        valid=np.array([valid for _, _, valid in best], np.bool_).reshape(-1, *shape),
    )


def _read_patch(
    scene: Scene, window: Window, card: Card, mapping: Mapping
) -> tuple[float, NDArray[np.float32], NDArray[np.bool_]]:
    """How much of the patch within the scene is data, its normalised pixels, and which of them are valid."""
    inside = window.intersect(scene.window)
    found = read_window(scene, inside)
    scale = 1.0 if mapping.scale is None else mapping.scale
    pixels, valid = np.zeros((len(card.bands), *window.shape), np.float32), np.zeros(window.shape, np.bool_)
    where = inside.slices(origin=window)
    valid[where] = found.valid
    pixels[(slice(None), *where)] = normalise(
        found.values, found.valid, card.bands, scale=scale, offset=mapping.offset
    )
    return float(found.valid.mean()), pixels, valid


def _start(middle: float, axis: Axis, length: int) -> int:
    """First pixel, on the stride, of a patch of this length about `middle`."""
    start = max(round(middle) - length // 2, 0)
    return min(start // axis.stride_px * axis.stride_px, axis.padded - length)
