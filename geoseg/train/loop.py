"""The training loop, read top to bottom: `train` sets up, `_fit` loops, `_learn` and `_score` make epochs."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoseg.data import open_areas, read_crop, require_apart, require_one_type
from geoseg.errors import ExecutionError, UsageError, explain
from geoseg.files import require_writable
from geoseg.inference import normalise
from geoseg.metrics import Scores, confusion
from geoseg.models.registry import build
from geoseg.models.store import require_free, save_package
from geoseg.package import Card
from geoseg.train.checkpoint import Kept, State, Unfinished, discard, identity, kept_beside
from geoseg.train.distributed import joined
from geoseg.train.losses import class_weights
from geoseg.train.measure import measure, sizes
from geoseg.train.optimise import Learner, rate_factor, to_file
from geoseg.train.record import (
    Epoch,
    TrainEvent,
    TrainResult,
    attach_history,
    gsd_range,
    provenance,
)
from geoseg.train.run import Run, ahead, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from geoseg.config import Inference, TrainConfig, Training
    from geoseg.models.segmenter import Segmenter

_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    out: Path,
    *,
    data_root: Path,
    overwrite: bool = False,
    fresh: bool = False,
    on_progress: Callable[[TrainEvent], None] | None = None,
) -> TrainResult:
    """Trains a network and writes it as the package `out`, which appears only when it is complete.

    On a CPU the same configuration gives the same weights, bit for bit, unless `minutes` cuts the run short:
    also when the process is killed and another one goes on from the state kept beside `out`. It does where
    there is one, unless a `fresh` start is asked for. The caller's random state is left as it was.

    Started by `torchrun`, several processes train together; the first one writes and tells.

    Raises:
        GeosegError: `out` is taken, data does not fit, an unfinished run of something else is in the way, or
            the loss is no longer a number.
    """
    require_free(out, overwrite=overwrite)
    require_writable(out.absolute().parent)
    areas = open_areas(config.scenes, config=config, data_root=data_root)
    held_out = open_areas(config.validation, config=config, data_root=data_root)
    require_apart(areas, held_out)
    require_one_type((*areas, *held_out))
    _require_scores(config)
    t = config.training
    with joined(t.device, batch_size=t.batch_size) as group, _torch_state(t, group.device):
        model = build(
            config.model.card,
            bands=len(config.bands),
            classes=len(config.legend),
            encoder_weights=config.model.encoder_weights,
        )
        _require_stride(config.inference, model.stride_px)
        watched = on_progress if on_progress is not None and group.is_first else _silent
        run = prepare(config, areas, held_out, group=group, on_progress=watched)
        with kept_beside(out, fresh=fresh, reads_only=not group.is_first) as folder:
            run, state, best = _fitted(model, run, folder)
            card = _finish(model, run, state, best, out, overwrite=overwrite) if group.is_first else None
        card = Card.from_json(group.first_text(card.to_json() if card else None), source=out)
    kept = best.epoch
    run.tell("saved", epoch=kept.epoch, step=state.step, mean_iou=kept.mean_iou)
    return TrainResult(
        folder=out, card=card, epoch=kept.epoch, mean_iou=kept.mean_iou, history=tuple(state.history)
    )


def _fitted(model: Segmenter, run: Run, folder: Path) -> tuple[Run, State, Kept]:
    """Trains, from where an unfinished run stopped if there is one; the model gets the weights to keep."""
    t = run.config.training
    learner = Learner(model, t, class_weights(run.found.class_px, t.class_weights), run.group)
    every_s = None if t.checkpoint_minutes is None else 60 * t.checkpoint_minutes
    unfinished = Unfinished(folder, who=identity(run, threads=torch.get_num_threads()), every_s=every_s)
    run.group.first(0.0)  # the first process has the folder in order
    restored = unfinished.restore(learner)
    state = State()
    if restored is not None:
        state, seconds = restored
        run = replace(run, started=time.monotonic() - seconds)
        run.tell("resume", epoch=len(state.history) + 1, step=state.step)
    _require_together(run, state, folder)
    learner.begin(bands=len(run.bands))
    try:
        best = _fit(learner, run, state, unfinished)
    except ExecutionError:
        discard(folder)
        raise
    model.load_state_dict(best.weights)
    return run, state, best


def _finish(model: Segmenter, run: Run, state: State, best: Kept, out: Path, *, overwrite: bool) -> Card:
    """Measures the network and writes the package."""
    config = run.config
    run.tell("measure", epoch=best.epoch.epoch, step=state.step, mean_iou=best.epoch.mean_iou)
    measured = measure(model, run)
    patch_px, overlap_px = sizes(config, measured.context, model.stride_px)
    return save_package(
        out,
        model=model.to(memory_format=torch.contiguous_format),
        architecture=config.model.card,
        bands=run.bands,
        dtype=run.areas[0].scene.dtype,
        legend=config.legend,
        patch_px=patch_px,
        overlap_px=overlap_px,
        context=measured.context,
        call_bytes_per_px=measured.call_bytes_per_px,
        gsd=gsd_range(run.areas),
        licence=config.licence,
        provenance=provenance(run, state.history, best.epoch) | measured.speed,
        attach=lambda folder: attach_history(folder, state.history, config.legend.names),
        overwrite=overwrite,
    )


def _fit(learner: Learner, run: Run, state: State, unfinished: Unfinished) -> Kept:
    """Makes epochs until the run is over; returns the weights to keep."""

    def keep() -> None:
        if run.group.is_first:
            unfinished.offer(state, learner, seconds=run.seconds)

    while state.best is None or state.losses or not _is_over(run, state):
        learner.model.train()
        _learn(learner, run, state, keep)
        _score(learner, run, state)
        keep()
    return state.best


def _is_over(run: Run, state: State) -> bool:
    patience = run.config.training.early_stop
    assert state.best is not None  # noqa: S101 - asked after an epoch
    if patience is not None and len(state.history) - state.best.epoch.epoch >= patience:
        return True
    return run.progress(state.step) >= 1


def _learn(learner: Learner, run: Run, state: State, keep: Callable[[], None]) -> None:
    """The steps of an epoch, or those that are left of it."""
    t = run.config.training
    last = state.history[-1].mean_iou if state.history else None
    with closing(_batches(run, state)) as batches:
        done = run.progress(state.step)
        while len(state.losses) < t.steps_per_epoch and not (state.losses and done >= 1):
            share = rate_factor(done, warm_up=t.warm_up, final_rate=t.final_rate)
            state.rate = t.learning_rate * share
            loss = learner.step(batches, rate=state.rate, at=state.step)
            state.losses.append(loss)
            state.step += 1
            run.tell(
                "step",
                epoch=len(state.history) + 1,
                step=state.step,
                loss=loss,
                mean_iou=last,
                learning_rate=state.rate,
            )
            keep()
            done = run.progress(state.step)


def _score(learner: Learner, run: Run, state: State) -> None:
    """Ends an epoch: adds its line to the history, and keeps its weights if they are the best so far."""
    record = Epoch(
        epoch=len(state.history) + 1,
        step=state.step,
        loss=math.fsum(state.losses) / len(state.losses),
        learning_rate=state.rate,
        scores=_validate(learner, run),
        seconds=run.seconds,
        waited_s=state.waited_s,
    )
    state.history.append(record)
    state.losses, state.waited_s = [], 0.0
    best = state.best
    if best is None or record.mean_iou is None or record.mean_iou > (best.epoch.mean_iou or 0.0):
        weights = {name: to_file(value) for name, value in learner.scored.state_dict().items()}
        state.best = Kept(epoch=record, weights=weights)
    run.tell(
        "epoch",
        epoch=record.epoch,
        step=state.step,
        loss=record.loss,
        mean_iou=record.mean_iou,
        learning_rate=record.learning_rate,
    )


def _validate(learner: Learner, run: Run) -> Scores | None:
    """Scores over the validation windows, each process's share together; None when there are none."""
    if not run.validation:
        return None
    group, model = run.group, learner.scored
    group.share_buffers(model)
    classes = len(run.config.legend)
    matrix = np.zeros((classes, classes + 1), np.int64)
    model.eval()
    windows = run.validation[group.rank :: group.size]
    crops = ahead(lambda i: read_crop(*windows[i]), len(windows), workers=run.config.training.workers)
    with torch.inference_mode(), closing(crops):
        for crop in crops:
            pixels = _on_device(normalise(crop.values, crop.valid, run.bands)[None], group.device)
            with learner.autocast():
                logits = model(pixels)
            matrix += confusion(crop.target, logits[0].argmax(0).to(torch.uint8).cpu().numpy(), classes)
    return Scores.of(group.total(matrix))


def _batches(run: Run, state: State) -> Generator[tuple[Tensor, Tensor]]:
    """Pixels and targets on the device: the batches that are left of the epoch. Counts the time they take."""
    t = run.config.training
    epoch, first = len(state.history), len(state.losses) * t.accumulate
    count = t.steps_per_epoch * t.accumulate - first
    with closing(ahead(lambda i: run.batch(epoch, first + i), count, workers=t.workers)) as batches:
        asked = time.monotonic()
        for pixels, target in batches:
            state.waited_s += time.monotonic() - asked
            device = run.group.device
            yield _on_device(pixels, device), torch.from_numpy(target).to(device).long()
            asked = time.monotonic()


@contextmanager
def _torch_state(training: Training, device: torch.device) -> Iterator[None]:
    """Seeded, with the threads asked for; the caller's state is put back."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        torch.set_num_threads(training.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _on_device(pixels: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)


def _require_together(run: Run, state: State, folder: Path) -> None:
    """Returns when all processes stand at the same step: they may be machines with folders of their own."""
    there = int(run.group.first(state.step))
    differs = run.group.mean(float(there != state.step)) > 0
    if differs:
        raise UsageError(
            explain(
                "the processes do not see the same unfinished run",
                at=folder,
                expected=f"the state of step {there} for all of them",
                found=f"step {state.step} for process {run.group.rank}",
                change="Put the output on a file system they share, or start over with --fresh.",
            )
        )


def _require_scores(config: TrainConfig) -> None:
    if config.training.early_stop is not None and not config.validation:
        raise UsageError(
            explain(
                "nothing says when to stop early",
                at="training.early_stop",
                expected="scenes to score each epoch on",
                found="no `validation`",
                change="Add `validation`, or leave `early_stop` out.",
            )
        )


def _require_stride(inference: Inference, stride_px: int) -> None:
    for name, size in (("patch_px", inference.patch_px), ("overlap_px", inference.overlap_px)):
        if size != "auto" and size % stride_px:
            low = size - size % stride_px
            raise UsageError(
                explain(
                    "the size does not fit the network's stride",
                    at=f"inference.{name}",
                    expected=f"a multiple of {stride_px} px",
                    found=f"{size} px",
                    change=f"Use {low} or {low + stride_px}.",
                )
            )


def _silent(_event: TrainEvent) -> None:
    """Nobody watches."""
