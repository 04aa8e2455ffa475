"""The training loop, read top to bottom: `train` sets up, `_fit` loops, `_step` learns."""

from __future__ import annotations

import math
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from geoseg.data import open_areas, read_crop, require_apart, require_one_type
from geoseg.errors import ExecutionError, UsageError, explain
from geoseg.files import require_writable
from geoseg.inference import normalise
from geoseg.legend import IGNORE_INDEX
from geoseg.metrics import Scores, confusion
from geoseg.models.registry import build
from geoseg.models.store import require_free, save_package
from geoseg.train.measure import measure, sizes
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from geoseg.config import Inference, TrainConfig, Training
    from geoseg.data import Survey
    from geoseg.models.segmenter import Segmenter

_WARM_UP = 0.05
"""Share of the run in which the learning rate rises: batch statistics of fresh weights are wild."""
_LAST_RATE = 0.01
"""Share of the peak learning rate that is left at the end."""
_CLIP_NORM = 1.0


def train(
    config: TrainConfig,
    out: Path,
    *,
    data_root: Path,
    overwrite: bool = False,
    on_progress: Callable[[TrainEvent], None] | None = None,
) -> TrainResult:
    """Trains a network and writes it as the package `out`, which appears only when it is complete.

    On a CPU the same configuration gives the same weights, bit for bit, unless `minutes` cuts the run short.
    The caller's random state is left as it was.

    Raises:
        GeosegError: `out` is taken, data does not fit, or the loss is no longer a number.
    """
    require_free(out, overwrite=overwrite)
    require_writable(out.absolute().parent)
    areas = open_areas(config.scenes, config=config, data_root=data_root)
    held_out = open_areas(config.validation, config=config, data_root=data_root)
    require_apart(areas, held_out)
    require_one_type((*areas, *held_out))
    device = _device(config.training.device)
    with _torch_state(config.training, device):
        model = build(
            config.model.card,
            bands=len(config.bands),
            classes=len(config.legend),
            encoder_weights=config.model.encoder_weights,
        )
        _require_stride(config.inference, model.stride_px)
        run = prepare(config, areas, held_out, device=device, on_progress=on_progress or _silent)
        history, best = _fit(model, run)
        model.load_state_dict(best.weights)
        measured = measure(model, run)
    patch_px, overlap_px = sizes(config, measured.context, model.stride_px)
    card = save_package(
        out,
        model=model.to(memory_format=torch.contiguous_format),
        architecture=config.model.card,
        bands=run.bands,
        dtype=areas[0].scene.dtype,
        legend=config.legend,
        patch_px=patch_px,
        overlap_px=overlap_px,
        context=measured.context,
        call_bytes_per_px=measured.call_bytes_per_px,
        gsd=gsd_range(areas),
        licence=config.licence,
        provenance=provenance(run, history, best.epoch) | measured.speed,
        attach=lambda folder: attach_history(folder, history, config.legend.names),
        overwrite=overwrite,
    )
    run.tell("saved", epoch=best.epoch.epoch, step=history[-1].step, mean_iou=best.epoch.mean_iou)
    return TrainResult(
        folder=out, card=card, epoch=best.epoch.epoch, mean_iou=best.epoch.mean_iou, history=tuple(history)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Kept:
    """The weights worth keeping so far."""

    epoch: Epoch
    weights: dict[str, Tensor]


def _fit(model: Segmenter, run: Run) -> tuple[list[Epoch], _Kept]:
    """The epochs, and the one that is kept."""
    t = run.config.training
    # Channels last takes a fifth less time than torch's default layout.
    model.to(run.device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=t.learning_rate, weight_decay=t.weight_decay)
    class_weights = _class_weights(run.found, t.class_weights).to(run.device)
    step, history = 0, list[Epoch]()
    best: _Kept | None = None
    while best is None or run.progress(step) < 1:
        losses, waited, rate = list[float](), 0.0, 0.0
        model.train()
        for pixels, target, wait in _batches(run, epoch=len(history)):
            rate = t.learning_rate * rate_factor(run.progress(step))
            losses.append(_step(model, optimiser, pixels, target, rate=rate, weights=class_weights, at=step))
            step, waited = step + 1, waited + wait
            run.tell("step", epoch=len(history) + 1, step=step, loss=losses[-1])
            if run.progress(step) >= 1:
                break
        record = Epoch(
            epoch=len(history) + 1,
            step=step,
            loss=math.fsum(losses) / len(losses),
            learning_rate=rate,
            scores=_validate(model, run),
            seconds=run.seconds,
            waited_s=waited,
        )
        history.append(record)
        run.tell("epoch", epoch=record.epoch, step=step, loss=record.loss, mean_iou=record.mean_iou)
        if best is None or record.mean_iou is None or record.mean_iou > (best.epoch.mean_iou or 0.0):
            best = _Kept(epoch=record, weights={k: v.detach().clone() for k, v in model.state_dict().items()})
    return history, best


def rate_factor(progress: float) -> float:
    """Share of the peak learning rate at a share of the run: up in a line, then down along a cosine."""
    if progress < _WARM_UP:
        return max(progress / _WARM_UP, _LAST_RATE)
    past = min((progress - _WARM_UP) / (1 - _WARM_UP), 1.0)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * past)) / 2


def _step(
    model: Segmenter,
    optimiser: torch.optim.Optimizer,
    pixels: Tensor,
    target: Tensor,
    *,
    rate: float,
    weights: Tensor,
    at: int,
) -> float:
    """One step down the gradient; returns the loss before it."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    with _autocast(pixels.device):
        logits = model(pixels)
    loss = functional.cross_entropy(logits, target, weight=weights, ignore_index=IGNORE_INDEX)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ExecutionError(
            explain(
                "training has diverged",
                at=f"step {at + 1}",
                expected="a finite loss",
                found=f"{value}, at learning rate {rate:.3g}",
                change="Lower `learning_rate`; check the scenes for extreme values that are really nodata.",
            )
        )
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
    optimiser.step()
    return value


def _class_weights(found: Survey, kind: str) -> Tensor:
    """Weight of each class in the loss; they average 1 over the labelled pixels."""
    if kind == "none":
        return torch.ones(len(found.class_px))
    share = found.class_px / found.class_px.sum()
    raw = np.divide(1, np.sqrt(share), out=np.zeros_like(share), where=share > 0)
    return torch.from_numpy((raw / (raw * share).sum()).astype(np.float32))


def _validate(model: Segmenter, run: Run) -> Scores | None:
    """Scores over the validation windows; None when there are none."""
    if not run.validation:
        return None
    classes = len(run.config.legend)
    matrix = np.zeros((classes, classes + 1), np.int64)
    model.eval()
    crops = ahead(
        lambda i: read_crop(*run.validation[i]), len(run.validation), workers=run.config.training.workers
    )
    with torch.inference_mode(), closing(crops):
        for crop in crops:
            pixels = _on_device(normalise(crop.values, crop.valid, run.bands)[None], run.device)
            with _autocast(run.device):
                logits = model(pixels)
            matrix += confusion(crop.target, logits[0].argmax(0).to(torch.uint8).cpu().numpy(), classes)
    return Scores.of(matrix)


def _batches(run: Run, *, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Pixels and targets on the device, and the seconds waited for them, for each step of an epoch."""
    t = run.config.training
    with closing(ahead(lambda i: run.batch(epoch, i), t.steps_per_epoch, workers=t.workers)) as batches:
        asked = time.monotonic()
        for pixels, target in batches:
            waited = time.monotonic() - asked
            yield _on_device(pixels, run.device), torch.from_numpy(target).to(run.device).long(), waited
            asked = time.monotonic()


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            explain(
                "there is no such device",
                at="training.device",
                expected="a GPU that torch can use",
                found="none",
                change="Say `device: auto` or `device: cpu`.",
            )
        )
    has_gpu = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")


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


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where that is fast, which it is on GPUs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _on_device(pixels: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)


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
