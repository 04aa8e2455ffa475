"""What training tells while it runs, and what it writes down about itself."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import torch

from geoseg.facts import facts_of, versions
from geoseg.metrics import Scores
from geoseg.package import CURVES_NAME, HISTORY_NAME, GsdRange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from geoseg.data import Area
    from geoseg.package import Card
    from geoseg.train.run import Run

_GSD_TOLERANCE = 2.0
"""A model fits pixels from the smallest it has seen divided by this to the largest times this."""


Stage = Literal["survey", "resume", "step", "epoch", "measure", "saved"]
"""Scenes are read; an unfinished run goes on; a step was made; an epoch was scored; the finished network is
measured, which takes up to half a minute; the package is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainEvent:
    """What a progress display is told."""

    stage: Stage
    """What has happened, or for "survey" and "measure" begins, and tells no more until it is over."""
    epoch: int
    """From 1; 0 before the first."""
    step: int
    """Steps made so far."""
    steps: int
    """Steps there will be, unless time runs out first."""
    seconds: float
    """Since training began."""
    loss: float | None = None
    """Of this step, or the mean of this epoch."""
    mean_iou: float | None = None
    """On the validation windows, when they were scored last; for stage "saved" that of the epoch kept."""
    learning_rate: float | None = None
    """Of this step, or the last one of this epoch."""
    seconds_left: float | None = None
    """How long the remaining steps will take, going by those made; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One line of the history."""

    epoch: int
    """From 1."""
    step: int
    """Steps made by its end."""
    loss: float
    """Mean over its steps."""
    learning_rate: float
    """Of its last step."""
    seconds: float
    """Since training began, its validation included."""
    waited_s: float
    """Of these, spent waiting for windows to be read, in this epoch."""
    scores: Scores | None
    """On the validation windows; None without any."""

    @property
    def mean_iou(self) -> float | None:
        """On the validation windows."""
        return self.scores.mean_iou if self.scores else None

    @property
    def document(self) -> dict[str, Any]:
        """As plain JSON values; `of` restores an equal value."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"scores": self.scores.model_dump(mode="json") if self.scores else None}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Epoch:
        """The epoch in a `document`."""
        scores = document["scores"]
        return cls(**{**document, "scores": Scores.model_validate(scores) if scores else None})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training made."""

    folder: Path
    """The model package."""
    card: Card
    """As stored in it."""
    epoch: int
    """The epoch whose weights were kept: the best by validation mean IoU, else the last."""
    mean_iou: float | None
    """Of that epoch, on the validation windows."""
    history: tuple[Epoch, ...]
    """All epochs."""


def gsd_range(areas: Sequence[Area]) -> GsdRange:
    """Pixel sizes a model learnt from `areas` is said to fit."""
    sizes = [facts_of(a.scene).gsd_m for a in areas]
    return GsdRange(min_m=min(sizes) / _GSD_TOLERANCE, max_m=max(sizes) * _GSD_TOLERANCE)


def provenance(run: Run, history: Sequence[Epoch], kept: Epoch) -> dict[str, Any]:
    """How and from what a model was made, for its card: plain JSON values."""
    names = run.config.legend.names
    return {
        "description": run.config.description,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": run.config.model_dump(mode="json"),
        "seed": run.config.training.seed,
        "versions": versions("torch", "segmentation-models-pytorch", "numpy"),
        "device": run.group.device.type,
        "processes": run.group.size,
        "threads": run.config.training.threads or torch.get_num_threads(),
        "scenes": [
            {"name": a.scene.name, "fingerprint": a.scene.fingerprint, "window": str(a.window)}
            for a in run.areas
        ],
        "label_pixels": dict(zip(names, run.found.class_px.tolist(), strict=True)),
        "validation_windows": len(run.validation),
        "kept_epoch": kept.epoch,
        "steps": history[-1].step,
        "seconds": round(run.seconds, 1),
        "scores": kept.scores.model_dump(mode="json") if kept.scores else None,
        "history": history_rows(history, names),
    }


def history_rows(history: Sequence[Epoch], names: Sequence[str]) -> list[dict[str, float | int | None]]:
    """One flat record per epoch."""
    return [
        {
            "epoch": e.epoch,
            "step": e.step,
            "loss": e.loss,
            "learning_rate": e.learning_rate,
            "seconds": round(e.seconds, 2),
            "waited_s": round(e.waited_s, 2),
            "mean_iou": e.mean_iou,
            **{f"iou {n}": e.scores.classes[i].iou if e.scores else None for i, n in enumerate(names)},
        }
        for e in history
    ]


def attach_history(folder: Path, history: Sequence[Epoch], names: Sequence[str]) -> None:
    """Writes the history into a package's folder: a CSV and a picture of its curves."""
    from geoseg.report import EpochPoint, draw_curves

    (folder / HISTORY_NAME).write_text(history_csv(history_rows(history, names)), "utf-8")
    points = [EpochPoint(epoch=e.epoch, loss=e.loss, mean_iou=e.mean_iou) for e in history]
    draw_curves(folder / CURVES_NAME, points)


def history_csv(rows: Sequence[dict[str, float | int | None]]) -> str:
    """The records as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
