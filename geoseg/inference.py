"""One tile: pixels in, class ids and confidence out. Knows neither torch nor Dask nor files.

`Predictor` is the seam to any runtime; `segment_tile` is the only place where patches meet the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoseg.errors import ExecutionError, explain
from geoseg.legend import IGNORE_INDEX
from geoseg.stitch import (
    CONFIDENCE_NODATA,
    blend_weights,
    decide,
    percent,
    softmax,
    top_probability,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from geoseg.package import Band
    from geoseg.tiling import Patch, Tile
    from geoseg.windows import Window


class Predictor(Protocol):
    """A network: (n, bands, h, w) float32, normalised, to logits (n, classes, h, w) float32."""

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Logits of each image of the batch, of the same height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileClasses:
    """What a tile decided about its core."""

    index: NDArray[np.uint8]
    """Class index (height, width); IGNORE_INDEX where the scene has no data."""
    confidence: NDArray[np.uint8]
    """Probability of that class in percent, 0..100; CONFIDENCE_NODATA where the scene has no data."""
    patches: int
    """Patches the network was given."""


def normalise(
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    bands: Sequence[Band],
    *,
    scale: float = 1.0,
    offset: float = 0.0,
) -> NDArray[np.float32]:
    """(values * scale + offset - mean) / std per band, float32; 0, the mean, where not valid.

    Args:
        values: (bands, height, width) in the scene's type.
        valid: (height, width), True where all bands have data.
        bands: mean and standard deviation per band, in order.
        scale: factor from the scene's units to the model's.
        offset: added after scaling.
    """
    gain = np.array([scale / b.std for b in bands])[:, None, None]
    shift = np.array([(offset - b.mean) / b.std for b in bands])[:, None, None]
    out = values.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # undefined pixels may hold anything, NaN included
        out *= gain.astype(np.float32)
        out += shift.astype(np.float32)
    out[:, ~valid] = 0
    return out


def segment_tile(
    pixels: NDArray[np.float32],
    valid: NDArray[np.bool_],
    tile: Tile,
    predictor: Predictor,
    *,
    origin: Window,
    classes: int,
    blend: bool = False,
    batch_size: int = 1,
) -> TileClasses:
    """Classes of the tile's core.

    Args:
        pixels: (bands, height, width), normalised, of the window `origin`; 0 where not valid.
        valid: (height, width) of the window `origin`.
        tile: where its patches are and which pixels it owns.
        predictor: the network.
        origin: the window of the scene that `pixels` holds: the tile's reach inside the scene.
        classes: number of classes the predictor scores.
        blend: weigh all patches over a pixel instead of taking the one whose support it is in.
        batch_size: patches given to the network at once.

    Raises:
        ExecutionError: the network returned another shape than promised, or scores that are not finite.
    """
    core_valid = valid[tile.core.slices(origin=origin)]
    wanted = [p for p in tile.patches if valid[_inside(p, blend, origin)].any()] if core_valid.any() else []
    scored = _score(wanted, pixels, predictor, origin=origin, classes=classes, batch_size=batch_size)
    index, confidence = (_blended if blend else _centred)(scored, tile.core, classes)
    index[~core_valid] = IGNORE_INDEX
    confidence[~core_valid] = CONFIDENCE_NODATA
    return TileClasses(index=index, confidence=confidence, patches=len(wanted))


def _inside(patch: Patch, blend: bool, origin: Window) -> tuple[slice, slice]:  # noqa: FBT001
    """Where a patch has a say, as slices of the arrays of `origin`."""
    return (patch.window if blend else patch.support).intersect(origin).slices(origin=origin)


def _score(
    patches: Sequence[Patch],
    pixels: NDArray[np.float32],
    predictor: Predictor,
    *,
    origin: Window,
    classes: int,
    batch_size: int,
) -> Iterator[tuple[Patch, NDArray[np.float32]]]:
    """Each patch with its logits (classes, h, w). All patches of a scene have one shape."""
    for group in (patches[i : i + batch_size] for i in range(0, len(patches), batch_size)):
        batch = np.stack([_cut(pixels, patch.window, origin) for patch in group])
        scores = predictor(batch)
        expected = (len(group), classes, *group[0].window.shape)
        if scores.shape != expected or not np.isfinite(scores).all():
            found = f"shape {scores.shape}" if scores.shape != expected else "scores that are not finite"
            raise ExecutionError(
                explain(
                    "the network's answer cannot be used",
                    at=f"patch at {group[0].window}",
                    expected=f"finite scores of shape {expected}",
                    found=found,
                    change="Check that the package's weights and normalisation belong together.",
                )
            )
        yield from zip(group, scores, strict=True)


def _cut(pixels: NDArray[np.float32], window: Window, origin: Window) -> NDArray[np.float32]:
    """The window's pixels; past the scene's end, where a patch is padded to the stride, zeros."""
    inside = window.intersect(origin)
    rows, cols = inside.slices(origin=origin)
    cut = pixels[:, rows, cols]
    short = (window.height - inside.height, window.width - inside.width)
    return np.pad(cut, ((0, 0), (0, short[0]), (0, short[1]))) if any(short) else cut


def _centred(
    scored: Iterable[tuple[Patch, NDArray[np.float32]]], core: Window, _classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each pixel decided by the patch whose support it lies in."""
    index = np.full(core.shape, IGNORE_INDEX, np.uint8)
    confidence = np.full(core.shape, CONFIDENCE_NODATA, np.uint8)
    for patch, scores in scored:
        rows, cols = patch.support.slices(origin=patch.window)
        mine = scores[:, rows, cols]
        where = patch.support.slices(origin=core)
        index[where] = decide(mine)
        confidence[where] = percent(top_probability(mine))
    return index, confidence


def _blended(
    scored: Iterable[tuple[Patch, NDArray[np.float32]]], core: Window, classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each pixel decided by the weighted mean probability of all patches over it.

    Patches come row by row whatever the tile, so a pixel's sum is formed in the same order everywhere.
    """
    total = np.zeros((classes, *core.shape), np.float32)
    weight = np.zeros(core.shape, np.float32)
    for patch, scores in scored:
        both = patch.window.intersect(core)
        rows, cols = both.slices(origin=patch.window)
        w = blend_weights(patch.window.shape)[rows, cols]
        where = both.slices(origin=core)
        total[(slice(None), *where)] += softmax(scores[:, rows, cols]) * w
        weight[where] += w
    top = total.max(axis=0)
    confidence = percent(np.divide(top, weight, out=np.zeros_like(top), where=weight > 0))
    return decide(total), confidence
