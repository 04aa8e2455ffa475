"""How far around a pixel a network looks, measured on the finished network.

A part of an image is cut out, its origin and size on multiples of the stride, and what the network says about
it is held against what it says about the whole image. The nearer a pixel is to where the cut went, the more
its probabilities change; beyond the context radius they do not:

    +---------------------+        change
    | whole  .            |   0.9  |*
    |        . cut        |        | *                the radius is the smallest distance from which on
    | . . . .+------------|        |  **              every change stays within the tolerance
    |        |<- distance |   0.01 |....*****......
    |        |            |        |         *****
    +---------------------+        +----------------- distance

One cut tells of all distances at once. Two opposite corners are cut away first, then windows cut on all four
sides with just that radius, the smallest patch with such a margin, have to confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import ExecutionError, explain
from geoseg.package import Context
from geoseg.stitch import softmax
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

TOLERANCE = 0.01
"""Of a probability: only pixels whose two best classes are this close can change their label."""
SAMPLES = 3
"""More samples than this are not looked at."""
SAMPLE_PX = 768
"""A good side for samples: larger images are mirrored to fill up when the radius is beyond 256 px."""
_NOISE = 1e-5
"""A change of a probability that is but rounding: another size may be computed in another order."""
_SMALL_PX = 64
"""Up to here only the radius of no change at all counts: exactness costs next to nothing."""
_TELLING_PX = 256
"""A change that has not faded at this distance is not going to: large encoders fade more slowly before."""
_PIXELS = 1_200_000
"""Pixels of samples in one round, unless a single one has more."""
_GROWTH = 1.25
"""From a radius that windows did not confirm to the next."""
_CORE_PX = 16


def measure_context(
    predict: Predict,
    samples: Sequence[NDArray[np.float32]],
    *,
    stride_px: int,
    tolerance: float = TOLERANCE,
    most_px: int = 512,
) -> Context:
    """The context radius of a network: a multiple of the stride, or None where none is found.

    Where nothing changes from a distance of at most 64 px on, that distance is the radius, so that networks
    with a small receptive field have their exact radius; otherwise changes up to `tolerance` are let pass.

    Args:
        predict: normalised images (n, bands, h, w) to logits (n, classes, h, w), for any size.
        samples: normalised images (bands, height, width) such as the network will see, about SAMPLE_PX wide;
            smaller ones are mirrored to fill up.
        stride_px: the network's phase repeats after so many pixels.
        tolerance: the largest change of a probability that does not matter.
        most_px: no larger radius is searched for.

    Raises:
        ExecutionError: the network answers with what is no number.
    """
    if len(samples) == 0:
        raise ValueError("the context cannot be measured without samples")
    searched, change = 0, 0.0
    for reach in _reaches(most_px, stride_px):
        trials = _trials(predict, samples, 3 * reach)
        falloff = np.max([t.cut(predict, w) for t in trials for w in _corners(reach)], axis=0)
        limit = _NOISE if reach <= _SMALL_PX < most_px else tolerance
        found = _confirmed(predict, trials, falloff, limit=limit, most=reach, stride_px=stride_px)
        if found is not None:
            radius, change = found
            return Context(radius_px=radius, tolerance=tolerance, change=change, searched_px=2 * reach)
        searched, change = reach, float(falloff[reach])
        if reach >= _TELLING_PX and _is_flat(falloff, tolerance):
            break
    return Context(radius_px=None, tolerance=tolerance, change=change, searched_px=searched)


def texture(bands: int, side: int, seed: int, *, count: int = SAMPLES) -> NDArray[np.float32]:
    """Samples (count, bands, side, side) for want of imagery: noise with detail at every scale.

    Amplitudes fall with the frequency, as they do in photographs; bands are alike to a half, as those of
    photographs are. Each band has mean 0 and variance 1.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    falling = 1 / np.maximum(frequency, 1 / side)
    falling[0, 0] = 0
    noise = rng.standard_normal((count, bands + 1, side, side))
    noise = np.fft.irfft2(np.fft.rfft2(noise) * falling, s=(side, side))
    mixed = noise[:, 1:] + noise[:, :1]
    mixed -= mixed.mean(axis=(2, 3), keepdims=True)
    spread = mixed.std(axis=(2, 3), keepdims=True)
    return (mixed / np.where(spread > 0, spread, 1)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """An image and what the network says about all of it."""

    image: NDArray[np.float32]
    """(bands, side, side)."""
    probabilities: NDArray[np.float32]
    """(classes, side, side)."""

    @property
    def window(self) -> Window:
        return Window(0, 0, *self.image.shape[1:])

    def cut(self, predict: Predict, window: Window) -> NDArray[np.float32]:
        """[d]: the largest change of a probability at d pixels or more from where `window` was cut out.

        Sides that lie on the image's own border are not cut.
        """
        where = (slice(None), *window.slices())
        change = np.abs(_probabilities(predict, self.image[where]) - self.probabilities[where]).max(axis=0)
        farthest = max(window.shape)
        distance = np.minimum.outer(*(_distances(window, self.window, axis, farthest) for axis in (0, 1)))
        by_distance = np.zeros(farthest + 1, np.float32)
        np.maximum.at(by_distance, distance.ravel(), change.ravel())
        return np.maximum.accumulate(by_distance[::-1])[::-1]


def _distances(window: Window, whole: Window, axis: int, farthest: int) -> NDArray[np.intp]:
    """Pixels that lie between each row (axis 0) or column of the window and the nearest side that was cut."""
    start = (window.row, window.col)[axis]
    length, size = window.shape[axis], whole.shape[axis]
    place = np.arange(length)
    before = place if start > 0 else np.full(length, farthest)
    after = place[::-1] if start + length < size else np.full(length, farthest)
    nearest: NDArray[np.intp] = np.minimum(before, after)
    return nearest


def _probabilities(predict: Predict, image: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = predict(np.ascontiguousarray(image[None]))[0]
    if not np.isfinite(logits).all():
        raise ExecutionError(
            explain(
                "the context of the network cannot be measured",
                at=f"an image of {image.shape[1]} x {image.shape[2]} px",
                expected="finite scores",
                found="scores that are not finite",
                change="Check the weights and the normalisation of the bands.",
            )
        )
    return softmax(logits)


def _reaches(most_px: int, stride_px: int) -> Iterator[int]:
    """Radii up to which to search, each twice the one before: a small network is done in no time."""
    last = _up(max(most_px, 1), stride_px)
    reach = _up(min(_SMALL_PX, last), stride_px)
    while reach < last:
        yield reach
        reach *= 2
    yield last


def _trials(predict: Predict, samples: Sequence[NDArray[np.float32]], side: int) -> tuple[_Trial, ...]:
    count = min(SAMPLES, max(1, _PIXELS // side**2))
    images = [_filled(sample, side) for sample in samples[:count]]
    return tuple(_Trial(image=i, probabilities=_probabilities(predict, i)) for i in images)


def _filled(sample: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The middle of the sample, or the sample mirrored to fill up, (bands, side, side)."""
    excess = [max(0, size - side) for size in sample.shape[1:]]
    rows, cols = (slice(e // 2, e // 2 + side) for e in excess)
    middle = sample[:, rows, cols]
    short = [side - size for size in middle.shape[1:]]
    if not any(short):
        return middle
    # Mirror images are alike in all their means: what looks at nothing else would not tell them apart.
    drift = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    mirrored = np.pad(middle, ((0, 0), *((0, s) for s in short)), mode="symmetric")
    return mirrored + drift[:, None] + drift


def _corners(reach: int) -> tuple[Window, Window]:
    """An image of three reaches without its upper and left third, and without its lower and right one."""
    return Window(reach, reach, 2 * reach, 2 * reach), Window(0, 0, 2 * reach, 2 * reach)


def _confirmed(
    predict: Predict,
    trials: Sequence[_Trial],
    falloff: NDArray[np.float32],
    *,
    limit: float,
    most: int,
    stride_px: int,
) -> tuple[int, float] | None:
    """The smallest radius at which no cut changes more than `limit`, and the largest change there."""
    radius = next((r for r in range(0, most + 1, stride_px) if falloff[r] <= limit), None)
    while radius is not None and radius <= most:
        windows = [(t, w) for t in trials for w in _windows(t.window, radius, stride_px)]
        change = max([float(falloff[radius]), *(float(t.cut(predict, w)[radius]) for t, w in windows)])
        if change <= limit:
            return radius, change
        radius = _up(max(int(radius * _GROWTH), radius + 1), stride_px)
    return None


def _windows(whole: Window, radius: int, stride_px: int) -> list[Window]:
    """Two windows with room for little more than the radius on each side of their middle, apart."""
    core = _up(max(_CORE_PX, radius // 8), stride_px)
    side = min(2 * radius + core, whole.height)
    free = (whole.height - side) // stride_px
    near, far = (free // 4) * stride_px, (free - free // 4) * stride_px
    return [Window(near, far, side, side), Window(far, near, side, side)]


def _is_flat(falloff: NDArray[np.float32], tolerance: float) -> bool:
    """True where the change does not fade with distance: the network looks at everything."""
    half = len(falloff) // 2
    far = float(falloff[half + half * 3 // 4])
    return far > max(tolerance, float(falloff[half]) / 3)


def _up(px: int, stride_px: int) -> int:
    return -(-px // stride_px) * stride_px
