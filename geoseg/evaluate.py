"""Scores of a class raster against reference data it has not seen, streamed window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, ValidationError

from geoseg.config import LabelSource
from geoseg.data import blocks
from geoseg.errors import LabelError, UsageError, explain
from geoseg.files import write_text
from geoseg.legend import IGNORE_INDEX, Legend
from geoseg.metrics import Scores, confusion
from geoseg.raster.labels import open_labels, read_labels
from geoseg.raster.scene import open_scene
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from geoseg.windows import Window

_BLOCK_PX = 2048


class Evaluation(Value):
    """How well a map agrees with a reference; `to_json` is what `geoseg evaluate` writes."""

    format: Literal["geoseg-evaluation"] = "geoseg-evaluation"
    version: Literal[1] = 1
    predicted: str = Field(description="The class raster")
    reference: str = Field(description="The reference data")
    window: tuple[int, int, int, int] = Field(description="[row, column, height, width], scored")
    legend: Legend
    pixels: int = Field(description="Pixels of the window")
    ignored_px: int = Field(
        description="Of these, where the reference says nothing: not counted anywhere else"
    )
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Pixels by reference class (rows) and predicted class (columns), in the legend's order. "
        "The last column holds reference pixels without a prediction"
    )
    scores: Scores = Field(description="Classes are in the legend's order")

    def to_json(self) -> str:
        """Indented JSON; `Evaluation.model_validate_json` restores an equal value."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateEvent:
    """What a progress display is told."""

    done_px: int
    """Pixels scored so far."""
    total_px: int
    """Pixels there are."""


def evaluate(
    predicted: Path,
    reference: Path,
    *,
    legend: Legend,
    remap: Mapping[int, int | None] | None = None,
    layer: str | None = None,
    column: str | None = None,
    classes: Mapping[str, str | int | None] | None = None,
    window: Window | None = None,
    out: Path | None = None,
    on_progress: Callable[[EvaluateEvent], None] | None = None,
) -> Evaluation:
    """Scores of the class raster `predicted`, pixel by pixel on its own grid.

    Args:
        predicted: class ids of `legend` in its first band.
        reference: a raster of class ids, or polygons when `column` is given; any grid or CRS.
        legend: the classes of the map.
        remap: for a raster reference, source value to class id, None to leave pixels out.
        layer: for polygons, the layer of the file if it has several.
        column: for polygons, the attribute that says the class.
        classes: for polygons, attribute value to class name or id, None to leave polygons out.
        window: the only part of the map that is scored; None: all of it.
        out: JSON file to write.
        on_progress: called after each block.

    Raises:
        GeosegError: a file cannot be read, classes are unknown, or the two share no pixel.
    """
    source = _label_source(reference, remap=remap, layer=layer, column=column, classes=classes)
    scene = open_scene(predicted)
    map_ = open_labels(LabelSource(path=str(predicted)), path=predicted, scene=scene, legend=legend)
    truth = open_labels(source, path=reference, scene=scene, legend=legend)
    window = _checked(window or scene.window, scene.window, predicted)
    matrix = np.zeros((len(legend), len(legend) + 1), np.int64)
    done = 0
    for block in blocks(window, _BLOCK_PX):
        target = read_labels(truth, block)
        if (target != IGNORE_INDEX).any():
            matrix += confusion(target, read_labels(map_, block), len(legend))
        done += block.size
        if on_progress:
            on_progress(EvaluateEvent(done_px=done, total_px=window.size))
    result = Evaluation(
        predicted=str(predicted),
        reference=str(reference),
        window=(window.row, window.col, window.height, window.width),
        legend=legend,
        pixels=window.size,
        ignored_px=window.size - int(matrix.sum()),
        confusion=tuple(tuple(row) for row in matrix.tolist()),
        scores=Scores.of(matrix),
    )
    _require_reference(result)
    if out:
        write_text(out, result.to_json())
    return result


def _label_source(
    reference: Path,
    *,
    remap: Mapping[int, int | None] | None,
    layer: str | None,
    column: str | None,
    classes: Mapping[str, str | int | None] | None,
) -> LabelSource:
    try:
        return LabelSource(
            path=str(reference),
            remap=dict(remap or {}),
            layer=layer,
            column=column,
            classes=dict(classes or {}),
        )
    except ValidationError as error:
        reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise UsageError(f"the reference cannot be understood: {reference}. {reasons}") from None


def _checked(window: Window, scene: Window, predicted: Path) -> Window:
    if scene.contains(window) and window.size:
        return window
    raise UsageError(
        explain(
            "the window is not inside the map",
            at=predicted,
            expected=f"a part of {scene}",
            found=str(window),
            change="Correct it, or leave it out to score everything.",
        )
    )


def _require_reference(result: Evaluation) -> None:
    if result.scores.pixels:
        return
    raise LabelError(
        explain(
            "there is nothing to compare",
            at=result.reference,
            expected="reference pixels within the part of the map that is scored",
            found=f"none in {result.pixels} pixels",
            change="Check the window and the reference's own nodata or remapping.",
        )
    )
