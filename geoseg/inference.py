"""One tile: pixels in, class ids and confidence out. Knows neither torch nor Dask nor files.

`Predictor` is the seam to any runtime; `segment_tile` is the only place where patches meet the network.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from geoseg.errors import ExecutionError, SceneError, explain
from geoseg.legend import IGNORE_INDEX
from geoseg.package import AffineStep, ClipStep, LogStep
from geoseg.stitch import (
    CONFIDENCE_NODATA,
    PROBABILITY_SCALE,
    Confidence,
    add_softmax,
    as_planes,
    blend_weights,
    certainty,
    decide,
    percent,
    scaled,
    softmax,
    tempered,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from geoseg.package import Band, Step
    from geoseg.tiling import Patch, Tile
    from geoseg.windows import Window

Views = Literal["one", "flips", "all"]
"""How a patch is shown to the network: as it is; also mirrored both ways; in all eight orientations."""
VIEWS: tuple[Views, ...] = get_args(Views)
_TURNS: dict[Views, tuple[tuple[int, bool], ...]] = {
    "one": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "all": tuple((quarter, mirrored) for mirrored in (False, True) for quarter in range(4)),
}
"""Quarter turns, and whether the patch is mirrored left to right before."""
VOTES = {views: len(turns) for views, turns in _TURNS.items()}
"""How often a patch is shown to each network."""


class Predictor(Protocol):
    """A network: (n, bands, h, w) float32, normalised, to logits (n, classes, h, w) float32."""

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Logits of each image of the batch, of the same height and width."""


@runtime_checkable
class LendingPredictor(Protocol):
    """A network whose answers may stay where they are until they are decided."""

    def lend(self, batch: NDArray[np.float32], /) -> AbstractContextManager[NDArray[np.float32]]:
        """Logits as a predictor's, to be read while the block runs; in any order in memory."""


@runtime_checkable
class DecidingPredictor(Protocol):
    """A network on a device that can decide there, so that only the decision has to travel."""

    def decide(
        self, batch: NDArray[np.float32], confidence: Confidence | None, temperature: float | None = None, /
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Class index and confidence percent, both (n, h, w), as `geoseg.stitch.decide` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A network and how it wants its input; several of them vote."""

    predictor: Predictor
    bands: tuple[Band, ...]
    """Normalisation of each channel, in the network's order."""
    where: tuple[int, ...]
    """Which of the scene's bands each channel is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of a tile, and how patches are put together."""

    classes: int
    """Number of classes the networks score."""
    blend: bool = False
    """Weigh all patches over a pixel instead of taking the one whose support it is in."""
    confidence: Confidence | None = "probability"
    """None: none is computed."""
    probabilities: bool = False
    """Also the probability of every class."""
    views: Views = "one"
    """Test-time augmentation: the mean of the probabilities of several views decides."""
    batch_size: int = 1
    """Patches given to a network at once."""
    scale: float = 1.0
    """Factor from the scene's units to the model's."""
    offset: float = 0.0
    """Added after scaling."""
    temperature: float | None = None
    """Logits are divided by it before they become probabilities; classes stay as they are. None: 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileClasses:
    """What a tile decided about its core."""

    index: NDArray[np.uint8]
    """Class index (height, width); IGNORE_INDEX where the scene has no data."""
    confidence: NDArray[np.uint8] | None
    """How sure that is in percent, 0..100; CONFIDENCE_NODATA where the scene has no data."""
    probabilities: NDArray[np.uint8] | None
    """(classes, height, width), PROBABILITY_SCALE for 1; CONFIDENCE_NODATA where the scene has no data."""
    patches: int
    """Patches the network was given."""


def normalise(
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    bands: Sequence[Band],
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Values * scale + offset, each band's steps, then (x - mean) / std, float32; 0 where not valid.

    Args:
        values: (bands, height, width) in the scene's type.
        valid: (height, width), True where all bands have data.
        bands: steps, mean and standard deviation per band, in order.
        scale: factor from the scene's units to the model's.
        offset: added after scaling.
        out: where the result goes, of the shape of `values`; None: a new array.
    """
    if out is None:
        out = np.empty(values.shape, np.float32)
    # Undefined pixels may hold anything, NaN included.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for raw, x, band in zip(values, out, bands, strict=True):
            source, gain, shift = raw, scale, offset
            for step in band.steps:
                if isinstance(step, AffineStep):  # gains and shifts in a row are one
                    gain, shift = gain * step.gain, shift * step.gain + step.offset
                    continue
                _affine(source, gain, shift, out=x)
                _apply(step, x)
                source, gain, shift = x, 1.0, 0.0
            _affine(source, gain / band.std, (shift - band.mean) / band.std, out=x)
            if band.steps and not np.isfinite(x[valid]).all():
                raise _no_number(band, raw[valid & ~np.isfinite(x)][0], scale, offset)
    if not valid.all():
        np.copyto(out, np.float32(0), where=~valid)
    return out


def _no_number(band: Band, value: Any, scale: float, offset: float) -> SceneError:
    chain = " -> ".join(step.step for step in band.steps)
    return SceneError(
        explain(
            "a pixel with data cannot be normalised",
            at=f"band {band.name}, value {value}",
            expected=f"a value for which {chain} of (value * {scale:g} + {offset:g}) is a number",
            found=f"{float(value) * scale + offset:g}, for which it is none",
            change="Declare it as nodata (--nodata), or check --scale and --offset.",
        )
    )


def _affine(source: NDArray[Any], gain: float, shift: float, *, out: NDArray[np.float32]) -> None:
    np.multiply(source, np.float32(gain), out=out, dtype=np.float32, casting="same_kind")
    if shift != 0.0:
        out += np.float32(shift)


def _apply(step: Step, x: NDArray[np.float32]) -> None:
    if isinstance(step, LogStep):
        np.log(x, out=x)
    elif isinstance(step, ClipStep):
        np.clip(x, np.float32(step.min), np.float32(step.max), out=x)
    else:  # a sigmoid: 1 / (1 + exp(-x))
        np.negative(x, out=x)
        np.exp(x, out=x)
        x += np.float32(1)
        np.reciprocal(x, out=x)


def segment_tile(
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    tile: Tile,
    members: Sequence[Member],
    request: Request,
    *,
    origin: Window,
    mask: NDArray[np.bool_] | None = None,
) -> TileClasses:
    """Classes of the tile's core.

    Args:
        values: (bands, height, width) in the scene's type, of the window `origin`.
        valid: (height, width) of the window `origin`, True where there is data.
        tile: where its patches are and which pixels it owns.
        members: the networks: one, or several whose mean probability decides.
        request: what is wanted.
        origin: the window of the scene that `values` holds: the tile's reach inside the scene.
        mask: (height, width) of the core, True where an answer is wanted; None: everywhere. The network sees
            what lies outside it all the same.

    Raises:
        ExecutionError: a network returned another shape than promised, or scores that are not finite.
    """
    answered = valid[tile.core.slices(origin=origin)]
    if mask is not None:
        answered = answered & mask
    core, step = tile.core, request.batch_size
    patches = [p for p in tile.patches if answered[_say(p, core, request).slices(origin=core)].any()]
    seen = _Seen(values=values, valid=valid, origin=origin, request=request)
    canvas = _Canvas(core, request)
    for group in (patches[i : i + step] for i in range(0, len(patches), step)):
        _label(group, seen, members, canvas)
    return canvas.finish(answered, patches=len(patches))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The pixels a tile reads."""

    values: NDArray[Any]
    valid: NDArray[np.bool_]
    origin: Window
    request: Request

    def batch(self, group: Sequence[Patch], member: Member) -> NDArray[np.float32]:
        """What the network is given: (n, bands, h, w), for all patches of a scene have one shape.

        Past the scene's end, where a patch is padded to the stride, there are zeros.
        """
        batch = np.zeros((len(group), len(member.bands), *group[0].window.shape), np.float32)
        everything = member.where == tuple(range(len(self.values)))
        for out, patch in zip(batch, group, strict=True):
            inside = patch.window.intersect(self.origin)
            rows, cols = inside.slices(origin=self.origin)
            cut = self.values[:, rows, cols]
            normalise(
                cut if everything else cut[list(member.where)],
                self.valid[rows, cols],
                member.bands,
                scale=self.request.scale,
                offset=self.request.offset,
                out=out[:, : inside.height, : inside.width],
            )
        return batch


def _say(patch: Patch, core: Window, request: Request) -> Window:
    """The part of the core in which a patch has a say."""
    return (patch.window if request.blend else patch.support).intersect(core)


def _label(group: Sequence[Patch], seen: _Seen, members: Sequence[Member], canvas: _Canvas) -> None:
    """Put what the networks say about a group of patches on the canvas."""
    request = canvas.request
    turns = _TURNS[request.views]
    first = members[0].predictor
    alone = len(members) == 1 and len(turns) == 1
    if alone and not request.blend:
        batch = seen.batch(group, members[0])
        if isinstance(first, DecidingPredictor) and not request.probabilities:
            canvas.put_decided(group, *first.decide(batch, request.confidence, request.temperature))
        else:
            with _answer(first, batch) as logits:
                canvas.put_logits(group, _checked(logits, group, request))
        return
    votes = len(members) * len(turns)
    mean = None
    for member in members:
        batch = seen.batch(group, member)
        for turn in turns:
            with _answer(member.predictor, _turned(batch, turn)) as answer:
                logits = _checked(_turned_back(answer, turn), group, request)
                if mean is None:
                    mean = np.zeros(logits.shape, np.float32)
                for image, scores in enumerate(logits):
                    add_softmax(scores, to=mean[image])
    if mean is not None:
        canvas.put_probabilities(group, mean if votes == 1 else mean / np.float32(votes))


def _answer(predictor: Predictor, batch: NDArray[np.float32]) -> AbstractContextManager[NDArray[np.float32]]:
    """Logits, to be read while the block runs."""
    return predictor.lend(batch) if isinstance(predictor, LendingPredictor) else nullcontext(predictor(batch))


def _turned(batch: NDArray[np.float32], turn: tuple[int, bool]) -> NDArray[np.float32]:
    quarters, mirrored = turn
    seen = batch[..., ::-1] if mirrored else batch
    return np.ascontiguousarray(np.rot90(seen, quarters, axes=(2, 3)))


def _turned_back(scores: NDArray[np.float32], turn: tuple[int, bool]) -> NDArray[np.float32]:
    quarters, mirrored = turn
    upright = np.rot90(scores, -quarters, axes=(2, 3))
    return upright[..., ::-1] if mirrored else upright


def _checked(scores: NDArray[np.float32], group: Sequence[Patch], request: Request) -> NDArray[np.float32]:
    expected = (len(group), request.classes, *group[0].window.shape)
    if scores.shape != expected:
        raise _useless(group, expected, f"shape {scores.shape}")
    return scores


def _useless(group: Sequence[Patch], expected: object, found: str) -> ExecutionError:
    return ExecutionError(
        explain(
            "the network's answer cannot be used",
            at=f"patch at {group[0].window}",
            expected=f"finite scores of shape {expected}",
            found=found,
            change="Check that the package's weights and normalisation belong together.",
        )
    )


class _Canvas:
    """The core of a tile while patches are put on it."""

    def __init__(self, core: Window, request: Request) -> None:
        self.core = core
        self.request = request
        shape, classes = core.shape, request.classes
        self._index = np.full(shape, IGNORE_INDEX, np.uint8)
        self._confidence = np.full(shape, CONFIDENCE_NODATA, np.uint8) if request.confidence else None
        # Only a blend needs the scores of the whole core at once.
        self._total = np.zeros((classes, *shape), np.float32) if request.blend else None
        self._weight = np.zeros(shape, np.float32) if request.blend else None
        self._probabilities = (
            np.full((classes, *shape), CONFIDENCE_NODATA, np.uint8) if request.probabilities else None
        )

    def put_decided(
        self, group: Sequence[Patch], index: NDArray[np.uint8], confidence: NDArray[np.uint8] | None
    ) -> None:
        """What a device has decided, each (n, h, w)."""
        for i, (patch, there, here) in enumerate(self._places(group)):
            if index[i].shape != patch.window.shape:
                raise _useless(group, patch.window.shape, f"decisions of shape {index[i].shape}")
            self._index[here] = index[i][there]
            if self._confidence is not None and confidence is not None:
                self._confidence[here] = confidence[i][there]

    def put_logits(self, group: Sequence[Patch], logits: NDArray[np.float32]) -> None:
        """Logits (n, classes, h, w), of which each patch decides its support."""
        for scores, (_, there, here) in zip(logits, self._places(group), strict=True):
            decision = decide(
                scores[(slice(None), *there)],
                confidence=self.request.confidence,
                temperature=self.request.temperature,
            )
            if not decision.finite:
                raise _useless(group, logits.shape, "scores that are not finite")
            self._index[here] = decision.index
            if self._confidence is not None and decision.confidence is not None:
                self._confidence[here] = decision.confidence
            if self._probabilities is not None:
                mine = self._tempered(softmax(as_planes(scores[(slice(None), *there)])))
                self._probabilities[(slice(None), *here)] = scaled(mine, PROBABILITY_SCALE)

    def put_probabilities(self, group: Sequence[Patch], mean: NDArray[np.float32]) -> None:
        """Probabilities (n, classes, h, w).

        Patches come row by row whatever the tile, so a pixel's sum is formed in the same order everywhere.
        """
        for probability, (patch, there, here) in zip(mean, self._places(group), strict=True):
            mine = probability[(slice(None), *there)]
            if not np.isfinite(mine).all():
                raise _useless(group, mean.shape, "scores that are not finite")
            if self._total is None or self._weight is None:
                self._settle(here, mine)
            else:
                weight = blend_weights(patch.window.shape)[there]
                self._total[(slice(None), *here)] += mine * weight
                self._weight[here] += weight

    def finish(self, answered: NDArray[np.bool_], *, patches: int) -> TileClasses:
        """The tile's classes; nothing where no answer is due."""
        if self._weight is not None and self._total is not None:
            self._total /= np.maximum(self._weight, np.finfo(np.float32).tiny)
        if self._total is not None:
            self._settle((slice(None), slice(None)), self._total)
        self._index[~answered] = IGNORE_INDEX
        if self._confidence is not None:
            self._confidence[~answered] = CONFIDENCE_NODATA
        if self._probabilities is not None:
            np.copyto(self._probabilities, np.uint8(CONFIDENCE_NODATA), where=~answered)
        return TileClasses(
            index=self._index,
            confidence=self._confidence,
            probabilities=self._probabilities,
            patches=patches,
        )

    def _settle(self, here: tuple[slice, slice], probability: NDArray[np.float32]) -> None:
        self._index[here] = decide(probability).index
        if self._confidence is None and self._probabilities is None:
            return
        probability = self._tempered(probability)
        if self._confidence is not None and self.request.confidence is not None:
            self._confidence[here] = percent(certainty(probability, self.request.confidence))
        if self._probabilities is not None:
            for plane, share in zip(self._probabilities, probability, strict=True):
                plane[here] = scaled(share, PROBABILITY_SCALE)

    def _tempered(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of a mean of answers, too: were each of them tempered, it would choose other classes."""
        temperature = self.request.temperature
        return probability if temperature is None else tempered(probability, temperature)

    def _places(
        self, group: Sequence[Patch]
    ) -> Iterator[tuple[Patch, tuple[slice, slice], tuple[slice, slice]]]:
        """Each patch, where in it lies what it has a say in, and where on the canvas."""
        for patch in group:
            say = _say(patch, self.core, self.request)
            yield patch, say.slices(origin=patch.window), say.slices(origin=self.core)
