"""The whole way in one go: scene, training, prediction through Dask, evaluation, pictures."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.config import Inference as InferenceChoice
from geoseg.config import LabelSource, ModelChoice, SceneLabels, TrainConfig, Training
from geoseg.demo.scene import DemoScene, write_scene
from geoseg.demo.spectra import BANDS
from geoseg.errors import OutputError, explain
from geoseg.evaluation import evaluate
from geoseg.execute import Execution
from geoseg.facts import peak_rss_mb
from geoseg.files import require_writable, write_text
from geoseg.jobs import Outcome, Progress, predict
from geoseg.manifest import SIDECARS
from geoseg.prediction import PredictOptions, prepare
from geoseg.raster.read import read_overview, read_window
from geoseg.raster.scene import open_scene
from geoseg.windows import Window

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.evaluation import Evaluation
    from geoseg.legend import Legend

SUMMARY_NAME = "demo.json"
_OURS = {SUMMARY_NAME, "scene", "train.yaml", "model", "map", "metrics.json", "map.png", "detail.png"}
"""What an interrupted demo may have left."""
_OVERVIEW_PX = 1200
_DETAIL_PX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """How large and how long."""

    size_px: int = 4096
    """Side of the scene."""
    minutes: float | None = 1.0
    """Training stops after this time; None: after all steps, repeatable to the bit."""
    epochs: int = 10
    """With a time limit, as many of these as fit."""
    steps_per_epoch: int = 50
    batch_size: int = 8
    patch_px: int = 128
    """Side of the training windows; prediction uses 512 px."""
    tile_px: int = 1024
    workers: int = 2
    """Dask worker processes that predict."""
    seed: int = 0


QUICK = DemoSettings(
    size_px=512, minutes=None, epochs=2, steps_per_epoch=12, patch_px=64, tile_px=256, workers=0
)
"""Seconds instead of minutes, without worker processes: for tests. The map is poor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """Where everything is and how good it is."""

    folder: Path
    files: dict[str, str]
    """What is where, relative to the folder."""
    evaluation: dict[str, Any]
    """Of the part of the scene that was held out, as `geoseg evaluate` writes it."""
    steps: int
    """Training steps made before the time was over."""
    seconds: dict[str, float]
    peak_rss_mb: int
    fresh: bool
    """False: an earlier run had made all this, and nothing was done."""


def run_demo(
    folder: Path,
    settings: DemoSettings,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> DemoResult:
    """Makes the scene, trains on its west, predicts all of it, scores the east, draws it.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    earlier = _earlier(folder, settings, overwrite=overwrite)
    if earlier is not None:
        return earlier
    report = on_progress or (lambda _what, _done, _total: None)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name] = round(now - clock, 1)
        clock = now

    report("scene", 0, 1)
    demo = write_scene(folder / "scene", size=settings.size_px, seed=settings.seed)
    report("scene", 1, 1)
    lap("scene")
    steps = _train(demo, folder, settings, report)
    lap("train")
    outcome = _predict(demo, folder, settings, report)
    lap("predict")
    evaluation = _evaluate(demo, folder)
    lap("evaluate")
    _draw(demo, folder, evaluation)
    lap("draw")
    result = DemoResult(
        folder=folder,
        files=_files(outcome),
        evaluation=evaluation.model_dump(mode="json"),
        steps=steps,
        seconds=seconds,
        peak_rss_mb=peak_rss_mb(),
        fresh=True,
    )
    document = {"settings": asdict(settings), **{k: v for k, v in asdict(result).items() if k != "folder"}}
    write_text(folder / SUMMARY_NAME, json.dumps(document, indent=2) + "\n")
    return result


def training_config(demo: DemoScene, settings: DemoSettings) -> TrainConfig:
    """What the demo trains: a small U-Net on the western part of its scene."""
    window = demo.train
    return TrainConfig(
        description="Land use of the synthetic demo scene",
        licence="Apache-2.0",
        legend=demo.legend,
        bands=BANDS,
        scenes=(
            SceneLabels(
                image=demo.image.name,
                labels=LabelSource(path=demo.truth.name),
                window=(window.row, window.col, window.height, window.width),
            ),
        ),
        model=ModelChoice(
            architecture="unet",
            encoder="resnet18",
            options={"encoder_depth": 3, "decoder_channels": [64, 32, 16]},
        ),
        training=Training(
            patch_px=settings.patch_px,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            steps_per_epoch=settings.steps_per_epoch,
            learning_rate=3e-3,
            class_weights="inverse_sqrt",
            seed=settings.seed,
            minutes=settings.minutes,
            device="cpu",
        ),
        inference=InferenceChoice(),
    )


def _earlier(folder: Path, settings: DemoSettings, *, overwrite: bool) -> DemoResult | None:
    """What an earlier, complete run with the same settings left, if nothing is to be redone."""
    require_writable(folder)
    summary = folder / SUMMARY_NAME
    if overwrite:
        summary.unlink(missing_ok=True)
    if summary.exists():
        try:
            document = json.loads(summary.read_text("utf-8"))
            known = {k: document[k] for k in ("files", "evaluation", "steps", "seconds", "peak_rss_mb")}
        except (ValueError, KeyError, TypeError) as error:
            raise _in_the_way(folder, f"a {SUMMARY_NAME} that no demo wrote ({error})") from error
        if document["settings"] == asdict(settings):
            return DemoResult(folder=folder, fresh=False, **known)
        raise _in_the_way(folder, "a demo with other settings")
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in _OURS and not p.name.startswith("."))
    if foreign:
        raise _in_the_way(folder, ", ".join(foreign[:3]))
    return None


def _in_the_way(folder: Path, found: str) -> OutputError:
    return OutputError(
        explain(
            "there is something already",
            at=folder,
            expected="an empty folder, or the demo with these settings",
            found=found,
            change="Give --overwrite to redo a demo, or another folder.",
        )
    )


def _train(demo: DemoScene, folder: Path, settings: DemoSettings, report: Progress) -> int:
    """Writes the model package; returns the number of steps made."""
    from geoseg.train import train

    config = training_config(demo, settings)
    write_text(folder / "train.yaml", _yaml(config))
    result = train(
        config,
        folder / "model",
        data_root=demo.image.parent,
        overwrite=True,
        fresh=True,
        on_progress=lambda event: report("training steps", event.step, event.steps),
    )
    return result.history[-1].step


def _yaml(config: TrainConfig) -> str:
    """The configuration as a file that `geoseg train` takes."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.width = 110
    yaml.dump(config.model_dump(mode="json", exclude_defaults=True), text)
    return text.getvalue()


def _predict(demo: DemoScene, folder: Path, settings: DemoSettings, report: Progress) -> Outcome:
    prediction = prepare(open_scene(demo.image), folder / "model", PredictOptions(tile_px=settings.tile_px))
    execution = Execution(workers=min(settings.workers, os.cpu_count() or 1))
    return predict(
        prediction,
        folder / "map",
        execution=execution,
        overwrite=True,
        on_progress=report,
    )


def _evaluate(demo: DemoScene, folder: Path) -> Evaluation:
    return evaluate(
        folder / "map" / "scene_classes.tif",
        demo.truth,
        legend=demo.legend,
        window=demo.held_out,
        out=folder / "metrics.json",
    )


def _files(outcome: Outcome) -> dict[str, str]:
    shown = (o for o in outcome.manifest.outputs if o.kind not in SIDECARS)
    products = {str(o.kind): f"map/{o.path}" for o in shown}
    return {
        "scene": "scene/scene.tif",
        "truth": "scene/truth.tif",
        "configuration": "train.yaml",
        "model": "model",
        **products,
        "manifest": f"map/{outcome.path.name}",
        "metrics": "metrics.json",
        "picture": "map.png",
        "detail": "detail.png",
    }


def _draw(demo: DemoScene, folder: Path, evaluation: Evaluation) -> None:
    """The whole scene reduced, and a part of the held-out side at full resolution."""
    from geoseg.report import Outline, draw_map, stretch

    image = open_scene(demo.image).select(("red", "green", "blue"))
    truth, classes, confidence = (
        open_scene(path)
        for path in (
            demo.truth,
            folder / "map" / "scene_classes.tif",
            folder / "map" / "scene_confidence.tif",
        )
    )
    scores = evaluation.scores
    note = (
        "Synthetic scene, trained on the western part only. Held out: mean IoU "
        f"{scores.mean_iou or 0:.2f}, overall accuracy {scores.overall_accuracy or 0:.1%}."
    )
    small = [read_overview(s, longest=_OVERVIEW_PX) for s in (image, truth, classes, confidence)]
    factor = small[1].valid.shape[0] / image.window.height
    draw_map(
        folder / "map.png",
        image=stretch(small[0].values, small[0].valid),
        truth=_ids(small[1].values, small[1].valid, demo.legend),
        prediction=_ids(small[2].values, small[2].valid, demo.legend),
        confidence=np.where(small[3].valid, small[3].values[0], 255).astype(np.uint8),
        legend=demo.legend,
        title=f"Land use, {image.window.height} x {image.window.width} pixels at 10 m",
        note=note,
        outlines=[
            Outline(window=_scaled(demo.train, factor), label="train"),
            Outline(window=_scaled(demo.held_out, factor), label="held out"),
        ],
    )
    part = _detail(demo.held_out)
    pixels = [read_window(s, part) for s in (image, truth, classes)]
    draw_map(
        folder / "detail.png",
        image=stretch(pixels[0].values, pixels[0].valid),
        truth=_ids(pixels[1].values, pixels[1].valid, demo.legend),
        prediction=_ids(pixels[2].values, pixels[2].valid, demo.legend),
        confidence=None,
        legend=demo.legend,
        title=f"Held-out part, {part.height} x {part.width} pixels at full resolution",
        note=note,
    )


def _ids(values: np.ndarray[Any, Any], valid: np.ndarray[Any, Any], legend: Legend) -> np.ndarray[Any, Any]:
    return np.where(valid, values[0], legend.nodata).astype(np.uint8)


def _scaled(window: Window, factor: float) -> Window:
    row, col = round(window.row * factor), round(window.col * factor)
    return Window(row, col, round(window.stop_row * factor) - row, round(window.stop_col * factor) - col)


def _detail(held_out: Window) -> Window:
    """A square in the upper left of the held-out part, away from its edges."""
    side = min(_DETAIL_PX, held_out.height, held_out.width)
    row = held_out.row + (held_out.height - side) // 4
    return Window(row, held_out.col + (held_out.width - side) // 4, side, side)
