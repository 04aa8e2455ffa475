"""Training windows drawn straight from large scenes.

A draw is a pure function of (seed, epoch, index): it does not matter which thread makes it, or when. Every
window holds at least one labelled pixel, because it is drawn around one:

    survey   one pass over the scenes: pixels per class, mean and std per band, a sample of labelled pixels
    draw     a class (by its share, or all alike) -> one of its pixels -> a window placed around it at random
    read     pixels, validity and target of the window; from memory where all scenes fit, else from the files

This module knows neither torch nor normalisation: pixels come in the scene's own type.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import LabelError, SceneError, UsageError, explain
from geoseg.legend import IGNORE_INDEX
from geoseg.raster.labels import Labels, open_labels, read_labels
from geoseg.raster.read import read_window
from geoseg.raster.remote import is_remote
from geoseg.raster.scene import Scene, open_scene, open_stack
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from geoseg.config import SceneLabels, TrainConfig
    from geoseg.legend import Legend

HELD_BYTES = 2**30
"""Scenes are kept decoded in memory when all of them together take less."""
BLOCK_PX = 512
SAMPLED_BLOCKS = 1024
"""Normalisation is measured on at most about this many blocks, evenly spread: 268 million pixels."""
PIXELS_PER_CLASS = 16384
"""Labelled pixels remembered per class; windows are placed around them at random, so they vary much more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A scene with labels, and the part of it that is used."""

    scene: Scene
    """The bands the network wants, in its order."""
    labels: Labels
    """On the scene's grid."""
    window: Window
    """The only pixels that are ever read."""

    @property
    def decoded_bytes(self) -> int:
        """Memory for pixels, validity and targets."""
        return self.window.size * (len(self.scene.bands) * np.dtype(self.scene.dtype).itemsize + 2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crop:
    """Pixels of a window together with what they are."""

    values: NDArray[Any]
    """(bands, height, width) in the scene's own type; undefined where not valid."""
    valid: NDArray[np.bool_]
    """(height, width), True where every band has data."""
    target: NDArray[np.uint8]
    """(height, width) class indices; IGNORE_INDEX where unknown or not valid."""

    def cut(self, window: Window, *, origin: Window) -> Crop:
        """The part `window` of this crop, which itself lies at `origin`. No copy."""
        rows, cols = window.slices(origin=origin)
        return Crop(
            values=self.values[:, rows, cols], valid=self.valid[rows, cols], target=self.target[rows, cols]
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What one pass over the training areas found."""

    class_px: NDArray[np.int64]
    """Valid labelled pixels by class index."""
    pixels: tuple[NDArray[np.int64], ...]
    """By class index: (n, 3) area, row and column of labelled pixels, a uniform sample of bounded size."""
    mean: NDArray[np.float64]
    """By band, over valid pixels, labelled or not."""
    std: NDArray[np.float64]
    """By band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Which window, and how it is varied."""

    area: int
    """Index of the area."""
    window: Window
    """Square of the patch size; reaches past the area only where that is smaller than a patch."""
    turns: int
    """Quarter turns, 0 to 3."""
    flip: bool
    """Mirrored left to right, before turning."""
    gain: NDArray[np.float32]
    """By band, times the normalised pixels."""
    offset: NDArray[np.float32]
    """By band, added after that."""


def open_areas(entries: Sequence[SceneLabels], *, config: TrainConfig, data_root: Path) -> tuple[Area, ...]:
    """The scenes and labels of configuration entries, headers read, nothing else.

    Raises:
        GeosegError: a file is missing or does not fit; scenes differ in data type.
    """
    areas = tuple(_open_area(e, config.bands, config.legend, data_root) for e in entries)
    require_one_type(areas)
    return areas


def require_one_type(areas: Sequence[Area]) -> None:
    """Returns when all scenes have one data type, so that one normalisation fits them all.

    Raises:
        SceneError: naming two scenes that differ.
    """
    for area in areas[1:]:
        if area.scene.dtype != areas[0].scene.dtype:
            raise SceneError(
                explain(
                    "scenes differ in data type",
                    at=area.scene.name,
                    expected=f"{areas[0].scene.dtype}, as {areas[0].scene.name}",
                    found=area.scene.dtype,
                    change="Bring all scenes to the same type and units first.",
                )
            )


def require_apart(training: Sequence[Area], validation: Sequence[Area]) -> None:
    """Returns when no validation pixel is also a training pixel.

    Raises:
        UsageError: naming the scene and both windows.
    """
    for held_out in validation:
        for area in training:
            same_file = set(area.scene.paths) & set(held_out.scene.paths)
            if same_file and area.window.intersect(held_out.window).size:
                raise UsageError(
                    explain(
                        "validation overlaps training",
                        at=held_out.scene.name,
                        expected="other scenes, or windows that share no pixel",
                        found=f"validation on {held_out.window}, training on {area.window}",
                        change="Give both a `window` in the configuration.",
                    )
                )


def resolve(path: str, data_root: Path) -> str:
    """The path as GDAL opens it: relative ones are below `data_root`, URLs stay as they are."""
    return path if is_remote(path) or path.startswith("/vsi") else str(data_root / path)


def _open_area(entry: SceneLabels, bands: Sequence[str], legend: Legend, data_root: Path) -> Area:
    if entry.files is not None:
        files = {band: resolve(path, data_root) for band, path in entry.files.items()}
        name = entry.name or Path(next(iter(files.values()))).stem
        scene = open_stack(files, name=name, nodata=entry.nodata)
    else:
        scene = open_scene(resolve(str(entry.image), data_root), bands=entry.bands, nodata=entry.nodata)
    window = Window(*entry.window) if entry.window else scene.window
    if not scene.window.contains(window):
        raise UsageError(
            explain(
                "the window is not inside the scene",
                at=scene.name,
                expected=f"a part of {scene.window}",
                found=str(window),
                change="Correct `window: [row, column, height, width]`, or leave it out to use everything.",
            )
        )
    path = resolve(entry.labels.path, data_root)
    labels = open_labels(entry.labels, path=path, scene=scene, legend=legend)
    return Area(scene=scene.select(bands), labels=labels, window=window)


def read_crop(area: Area, window: Window) -> Crop:
    """Pixels and targets of a window inside the area."""
    pixels = read_window(area.scene, window)
    target = read_labels(area.labels, window)
    target[~pixels.valid] = IGNORE_INDEX
    return Crop(values=pixels.values, valid=pixels.valid, target=target)


def hold(areas: Sequence[Area], *, limit_bytes: int = HELD_BYTES) -> tuple[Crop, ...] | None:
    """All areas decoded in memory, to be shared by threads; None when they would take more than the limit."""
    if sum(a.decoded_bytes for a in areas) > limit_bytes:
        return None
    return tuple(read_crop(a, a.window) for a in areas)


def survey(
    areas: Sequence[Area], held: Sequence[Crop] | None, *, classes: int, seed: int, block_px: int = BLOCK_PX
) -> Survey:
    """One pass over the areas, block by block, in bounded memory.

    The sample of pixels does not depend on the size of the blocks: a pixel's place in the queue is a hash of
    the seed and its own position.

    Raises:
        LabelError: no valid pixel of any area is labelled.
        SceneError: a band has one value only, so that it cannot be normalised.
    """
    pieces = [(i, block) for i, area in enumerate(areas) for block in blocks(area.window, block_px)]
    measured = -(-len(pieces) // SAMPLED_BLOCKS)
    moments = _Moments.none(len(areas[0].scene.bands))
    queues = [_Queue.empty() for _ in range(classes)]
    for number, (i, block) in enumerate(pieces):
        crop = _survey_crop(areas[i], held[i] if held else None, block, measure=number % measured == 0)
        if crop is None:
            continue
        if number % measured == 0:
            moments = moments.plus(crop.values[:, crop.valid])
        for index in np.flatnonzero(np.bincount(crop.target.ravel(), minlength=256)[:classes]):
            queues[index] = queues[index].plus(_positions(crop.target == index, i, block), seed)
    _require_labels(areas, queues)
    return Survey(
        class_px=np.array([q.seen for q in queues], np.int64),
        pixels=tuple(q.positions for q in queues),
        mean=moments.mean,
        std=_require_spread(areas, moments),
    )


def draw(
    found: Survey,
    areas: Sequence[Area],
    *,
    patch_px: int,
    seed: int,
    epoch: int,
    index: int,
    balanced: float,
    augment: bool,
    jitter: float,
) -> Draw:
    """The window number `index` of an epoch: the same for the same arguments, on every machine and thread.

    Args:
        found: the survey of `areas`.
        areas: where to draw from.
        patch_px: side of the window.
        seed: of the whole run.
        epoch: from 0.
        index: of the window within the epoch, from 0.
        balanced: share of windows whose class is taken from all present classes alike; the others follow the
            classes' shares of the labels.
        augment: vary the window at all.
        jitter: largest gain and offset.
    """
    rng = np.random.default_rng([seed, epoch, index])
    share = found.class_px / found.class_px.sum()
    alike = (found.class_px > 0) / np.count_nonzero(found.class_px)
    chosen = found.pixels[rng.choice(len(share), p=balanced * alike + (1 - balanced) * share)]
    area, row, col = (int(v) for v in chosen[rng.integers(len(chosen))])
    inside = areas[area].window
    window = Window(
        _place(rng, row, inside.row, inside.stop_row, patch_px),
        _place(rng, col, inside.col, inside.stop_col, patch_px),
        patch_px,
        patch_px,
    )
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    bands, size = len(areas[area].scene.bands), jitter if augment else 0.0
    gain = 1 + size * rng.uniform(-1, 1, bands)
    offset = size * rng.uniform(-1, 1, bands)
    return Draw(
        area=area,
        window=window,
        turns=turns if augment else 0,
        flip=flip and augment,
        gain=gain.astype(np.float32),
        offset=offset.astype(np.float32),
    )


def read_padded(area: Area, held: Crop | None, window: Window) -> Crop:
    """The window's pixels; what lies outside the area is not valid and has no target."""
    inside = window.intersect(area.window)
    crop = held.cut(inside, origin=area.window) if held else read_crop(area, inside)
    if inside == window:
        return crop
    before = (inside.row - window.row, inside.col - window.col)
    pad = [(b, n - b - m) for b, n, m in zip(before, window.shape, inside.shape, strict=True)]
    return Crop(
        values=np.pad(crop.values, [(0, 0), *pad]),
        valid=np.pad(crop.valid, pad),
        target=np.pad(crop.target, pad, constant_values=IGNORE_INDEX),
    )


def vary(pixels: NDArray[np.float32], crop: Crop, how: Draw) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Normalised pixels and target of a crop, jittered, flipped and turned; pixels stay 0 where not valid."""
    jittered = (pixels * how.gain[:, None, None] + how.offset[:, None, None]) * crop.valid
    return _turned(jittered, how), _turned(crop.target, how)


def blocks(window: Window, side: int) -> Iterator[Window]:
    """Squares side by side that cover the window, row by row; those at its end are cut."""
    for row in range(window.row, window.stop_row, side):
        for col in range(window.col, window.stop_col, side):
            yield Window(row, col, side, side).intersect(window)


def _turned(array: NDArray[Any], how: Draw) -> NDArray[Any]:
    flipped = array[..., ::-1] if how.flip else array
    return np.ascontiguousarray(np.rot90(flipped, how.turns, axes=(-2, -1)))


def _place(rng: np.random.Generator, pixel: int, start: int, stop: int, patch_px: int) -> int:
    """A random origin such that the patch contains the pixel, inside [start, stop) wherever it fits."""
    low, high = pixel - patch_px + 1, pixel
    if stop - start >= patch_px:
        low, high = max(low, start), min(high, stop - patch_px)
    else:
        low, high = stop - patch_px, start  # the whole axis is in the patch, which shifts around it
    return int(rng.integers(low, high + 1))


def _survey_crop(area: Area, held: Crop | None, block: Window, *, measure: bool) -> Crop | None:
    """The block; None where there is nothing to learn from it, so that its pixels need not be read."""
    if held:
        return held.cut(block, origin=area.window)
    if not measure and (read_labels(area.labels, block) == IGNORE_INDEX).all():
        return None
    return read_crop(area, block)


def _positions(where: NDArray[np.bool_], area: int, block: Window) -> NDArray[np.int64]:
    """(n, 3) area, row and column of the pixels that are True."""
    rows, cols = np.nonzero(where)
    return np.stack([np.full(len(rows), area), rows + block.row, cols + block.col], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Queue:
    """The pixels of one class whose hashes are smallest: a uniform sample, in whatever order they come."""

    seen: int
    positions: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    @classmethod
    def empty(cls) -> _Queue:
        return cls(seen=0, positions=np.empty((0, 3), np.int64), hashes=np.empty(0, np.uint64))

    def plus(self, positions: NDArray[np.int64], seed: int) -> _Queue:
        new = _hash(positions, seed)
        is_full = len(self.hashes) == PIXELS_PER_CLASS
        better = new < self.hashes[-1] if is_full else np.ones(len(new), bool)
        hashes = np.concatenate([self.hashes, new[better]])
        everything = np.concatenate([self.positions, positions[better]])
        kept = np.argsort(hashes, kind="stable")[:PIXELS_PER_CLASS]
        return _Queue(seen=self.seen + len(positions), positions=everything[kept], hashes=hashes[kept])


def _hash(positions: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A well-mixed number per position (the finaliser of SplitMix64 after each of its three parts)."""
    mixed = np.full(len(positions), seed % 2**64, np.uint64)
    for part in positions.T.astype(np.uint64):
        mixed = (mixed + part + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Moments:
    """Count, mean and summed squared deviation by band; adds up without cancellation (Chan et al. 1979)."""

    count: int
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def none(cls, bands: int) -> _Moments:
        return cls(count=0, mean=np.zeros(bands), deviation=np.zeros(bands))

    def plus(self, values: NDArray[Any]) -> _Moments:
        """With the pixels (bands, n) added."""
        n = values.shape[1]
        if n == 0:
            return self
        exact = values.astype(np.float64)
        mean, total = exact.mean(axis=1), self.count + n
        apart = mean - self.mean
        return _Moments(
            count=total,
            mean=self.mean + apart * (n / total),
            deviation=self.deviation
            + ((exact - mean[:, None]) ** 2).sum(axis=1)
            + apart**2 * (self.count * n / total),
        )


def _require_labels(areas: Sequence[Area], queues: Sequence[_Queue]) -> None:
    if not any(q.seen for q in queues):
        raise LabelError(
            explain(
                "there is nothing to learn from",
                at=", ".join(a.scene.name for a in areas),
                expected="labelled pixels where the scenes have data",
                found="none within the windows used",
                change="Check `window`, nodata and the labels' own nodata or remapping.",
            )
        )


def _require_spread(areas: Sequence[Area], moments: _Moments) -> NDArray[np.float64]:
    """Standard deviation by band, over zero."""
    std = np.sqrt(moments.deviation / max(1, moments.count))
    flat = [b.name for b, s in zip(areas[0].scene.bands, std, strict=True) if not s > 0]
    if flat:
        raise SceneError(
            explain(
                "a band says nothing",
                at=", ".join(a.scene.name for a in areas),
                expected="values that differ from pixel to pixel in every band",
                found=f"one value only in {', '.join(flat)}",
                change="Leave it out of `bands`, or check the scenes.",
            )
        )
    return std
