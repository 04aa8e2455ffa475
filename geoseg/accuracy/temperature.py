"""The temperature of a package: measured on a scene the network has not learnt from, kept in its card."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.accuracy.calibration import (
    HIGHEST,
    LOWEST,
    fit_temperature,
    log_loss,
    reliability_of_logits,
)
from geoseg.errors import LabelError, PackageError, explain
from geoseg.facts import facts_of
from geoseg.files import write_text
from geoseg.inference import normalise
from geoseg.legend import IGNORE_INDEX
from geoseg.matching import Mapping, require_match
from geoseg.package import CARD_NAME, read_card
from geoseg.planning import plan_tiles
from geoseg.prediction import demands_of
from geoseg.raster.read import read_window
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.accuracy.layers import Layer
    from geoseg.inference import Predictor
    from geoseg.package import Card
    from geoseg.raster.scene import Scene
    from geoseg.tiling import Patch, TilePlan
    from geoseg.windows import Window

_log = logging.getLogger(__name__)
SAMPLED_PX = 200_000
"""About so many labelled pixels are looked at, evenly spread: one number is measured."""
_TILE_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledScene:
    """What the temperature is measured on. The network must not have learnt from it."""

    scene: Scene
    labels: Layer
    """Class indices of the package's legend, on the scene's grid."""
    window: Window
    """The part that is looked at."""


class Temperature(Value):
    """What was measured."""

    temperature: float
    pixels: int
    log_loss_before: float
    log_loss_after: float
    calibration_error_before: float
    calibration_error_after: float


def measure_temperature(
    card: Card,
    predictor: Predictor,
    places: Sequence[LabelledScene],
    *,
    mapping: Mapping | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Temperature:
    """The temperature that makes the network's probabilities most likely on labelled scenes.

    Args:
        card: of the package.
        predictor: its network.
        places: scenes with labels; what the network has learnt from would make it look too sure of itself.
        mapping: what is declared about the scenes' values.
        on_progress: called with patches run, and patches there are, at most.

    Raises:
        MismatchError: a scene is not what the package was made for.
        LabelError: there is no labelled pixel.
    """
    logits, targets = _sample(card, predictor, places, mapping or Mapping(), on_progress)
    if not len(targets):
        raise LabelError(
            explain(
                "there is nothing to measure a temperature on",
                at=", ".join(place.scene.name for place in places),
                expected="labelled pixels with data",
                found="none",
                change="Check the window and the labels.",
            )
        )
    found = fit_temperature(logits, targets)
    if found in {LOWEST, HIGHEST}:
        _log.warning("the temperature is at its limit, %g: take more labels, or other ones", found)
    before, after = (reliability_of_logits(logits, targets, t) for t in (1.0, found))
    return Temperature(
        temperature=found,
        pixels=len(targets),
        log_loss_before=log_loss(logits, targets),
        log_loss_after=log_loss(logits, targets, found),
        calibration_error_before=0.0 if before is None else before.expected_error,
        calibration_error_after=0.0 if after is None else after.expected_error,
    )


def store_temperature(package: Path, found: Temperature) -> Card:
    """Writes what was measured into the card of a package that is a folder; returns the new card.

    Raises:
        PackageError: it is no package, or one file.
    """
    card = read_card(package)
    if not package.is_dir():
        raise PackageError(
            explain(
                "the temperature cannot be stored",
                at=package,
                expected="a package that is a folder",
                found="an exported file",
                change="Calibrate the package first, then export it again.",
            )
        )
    provenance = card.provenance | {"calibration": found.model_dump(mode="json")}
    changed = card.model_copy(update={"temperature": found.temperature, "provenance": provenance})
    write_text(package / CARD_NAME, changed.to_json())
    return changed


def _sample(
    card: Card,
    predictor: Predictor,
    places: Sequence[LabelledScene],
    mapping: Mapping,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits (pixels, classes) and targets of every n-th labelled pixel."""
    plans = [_plan(card, place, mapping) for place in places]
    total = sum(_labelled(place, plan) for place, plan in zip(places, plans, strict=True))
    every = max(1, total // SAMPLED_PX)
    of_all, run, seen = sum(plan.patches for plan in plans), 0, 0
    logits = [np.empty((0, len(card.legend)), np.float32)]
    targets = [np.empty(0, np.uint8)]
    for place, plan in zip(places, plans, strict=True):
        network = _Network(card=card, predictor=predictor, mapping=mapping, place=place)
        for tile in plan:
            for patch in tile.patches:
                run += 1
                if on_progress:
                    on_progress(min(run, of_all), of_all)
                scores, true = network.on_support(patch, tile.core)
                picked = np.arange(-seen % every, len(true), every)
                seen += len(true)
                logits.append(scores[picked])
                targets.append(true[picked])
    return np.concatenate(logits), np.concatenate(targets)


def _plan(card: Card, place: LabelledScene, mapping: Mapping) -> TilePlan:
    require_match(card, facts_of(place.scene), mapping)
    shape, demands = place.scene.window.shape, demands_of([card])
    return plan_tiles(shape, demands, tile_px=_TILE_PX, blend=False, extent=place.window)


def _labelled(place: LabelledScene, plan: TilePlan) -> int:
    return sum(int((place.labels(tile.core) != IGNORE_INDEX).sum()) for tile in plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """A network on a scene with labels."""

    card: Card
    predictor: Predictor
    mapping: Mapping
    place: LabelledScene

    def on_support(self, patch: Patch, core: Window) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Logits and targets of the labelled pixels with data that the patch decides in the core."""
        card, scene = self.card, self.place.scene
        say = patch.support.intersect(core)
        target = self.place.labels(say) if say.size else np.empty(0, np.uint8)
        if not (target != IGNORE_INDEX).any():
            return np.empty((0, len(card.legend)), np.float32), np.empty(0, np.uint8)
        inside = patch.window.intersect(scene.window)
        pixels = read_window(scene.select(card.band_names), inside)
        batch = np.zeros((1, len(card.bands), *patch.window.shape), np.float32)
        normalise(
            pixels.values,
            pixels.valid,
            card.bands,
            scale=1.0 if self.mapping.scale is None else self.mapping.scale,
            offset=self.mapping.offset,
            out=batch[0][:, : inside.height, : inside.width],
        )
        scores = self.predictor(batch)[0][(slice(None), *say.slices(origin=patch.window))]
        known = (target != IGNORE_INDEX) & pixels.valid[say.slices(origin=inside)]
        return scores[:, known].T.astype(np.float32), target[known]
