"""Throughput of training over that of the bare network: `python -m benchmarks.training`.

    share = windows per second of `geoseg train` / windows per second of forward and backward alone

Both take turns within one run, a block of steps each, so that what drifts with time falls on both. `bare` is
the same network, batch and loss on random tensors that lie in memory. Training reads windows from a file,
normalises and varies them, clips the gradient, steps the optimiser and tells how it goes; two of a block's
batches are read ahead while the other has its turn. A share is that of one round of two blocks; the table
shows the median and the range.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads are not to spin

import numpy as np
import rasterio
import torch
from torch.nn import functional

from benchmarks.scenes import BANDS, make_scene
from geoseg.config import LabelSource, ModelChoice, SceneLabels, TrainConfig, Training
from geoseg.legend import Legend, LegendClass
from geoseg.models.registry import build
from geoseg.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from geoseg.train import TrainEvent

REQUIRED = 0.9
_CLASSES = 5
_FIELD_PX = 40
NETWORKS = {
    "tiny": ModelChoice(
        architecture="unet",
        encoder="mobilenet_v2",
        options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
    ),
    "resnet18": ModelChoice(
        architecture="unet", encoder="resnet18", options={"decoder_channels": [128, 64, 48, 32, 16]}
    ),
    "segformer": ModelChoice(architecture="segformer", encoder="mit_b0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some steps of one of the two."""

    wall_s: float
    cpu_s: float


@dataclass(slots=True, kw_only=True)
class Turns:
    """Watches training, and lets the bare network have its turn after each block of steps."""

    bare: Callable[[], None]
    block: int
    rounds: int
    trained: list[Block] = field(default_factory=list)
    bared: list[Block] = field(default_factory=list)
    started: tuple[float, float] = (0.0, 0.0)

    def watch(self, event: TrainEvent) -> None:
        """Takes in what training tells."""
        if event.stage != "step":
            return
        if event.step % self.block == 0:
            if event.step > self.block:  # the first block warms up
                self.trained.append(_since(self.started))
            start = _now()
            for _ in range(self.block):
                self.bare()
            if event.step > self.block:
                self.bared.append(_since(start))
            if len(self.trained) == self.rounds:
                raise _DoneError
            self.started = _now()


class _DoneError(Exception):
    """All rounds are measured."""


def measure(model: ModelChoice, training: Training, folder: Path, *, block: int, rounds: int) -> Turns:
    """Blocks of training and of the bare network, in turns."""
    config = TrainConfig(
        legend=_legend(),
        bands=BANDS,
        scenes=(_scene(folder),),
        model=model,
        training=training,
    )
    turns = Turns(bare=_bare(model, training), block=block, rounds=rounds)
    try:
        train(config, folder / "model", data_root=folder, on_progress=turns.watch)
    except _DoneError:
        return turns
    raise AssertionError("training ended before all was measured")


def _bare(model: ModelChoice, training: Training) -> Callable[[], None]:
    """Forward and backward on random tensors."""
    device = torch.device("cuda" if training.device == "cuda" else "cpu")
    network = build(model.card, bands=len(BANDS), classes=_CLASSES, encoder_weights=None)
    network.to(device).to(memory_format=torch.channels_last).train()
    shape = (training.batch_size, len(BANDS), training.patch_px, training.patch_px)
    pixels = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    target = torch.randint(0, _CLASSES, (shape[0], *shape[2:]), device=device)

    def call() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(pixels)
        functional.cross_entropy(logits.float(), target).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def _legend() -> Legend:
    colors = ("#2b6cb0", "#276749", "#d69e2e", "#805ad5", "#c53030")
    return Legend(
        classes=tuple(LegendClass(id=i + 1, name=f"class {i + 1}", color=c) for i, c in enumerate(colors))
    )


def _scene(folder: Path, size: int = 2048) -> SceneLabels:
    """A synthetic scene, and labels in squares."""
    image = make_scene(folder / "scene.tif", size=size)
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, _CLASSES + 1, (-(-size // _FIELD_PX),) * 2).astype(np.uint8)
    labels = np.kron(coarse, np.ones((_FIELD_PX, _FIELD_PX), np.uint8))[:size, :size]
    with rasterio.open(image) as source:
        profile = {"crs": source.crs, "transform": source.transform, "compress": "deflate"}
    path = folder / "labels.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="uint8", height=size, width=size, **profile
    ) as target:
        target.write(labels, 1)
    return SceneLabels(image=image.name, labels=LabelSource(path=path.name))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> Block:
    wall, cpu = _now()
    return Block(wall_s=wall - start[0], cpu_s=cpu - start[1])


def row(name: str, turns: Turns, windows: int) -> str:
    """A line of the table."""
    shares = {
        kind: [
            getattr(bare, kind) / getattr(trained, kind)
            for trained, bare in zip(turns.trained, turns.bared, strict=True)
        ]
        for kind in ("wall_s", "cpu_s")
    }
    rate = windows / statistics.median(block.wall_s for block in turns.trained)
    cells = [name, f"{rate:.2f}", *(_spread(values) for values in shares.values())]
    met = "met" if statistics.median(shares["wall_s"]) >= REQUIRED else "NOT met"
    return "| " + " | ".join([*cells, met]) + " |"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.training", description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["tiny", "resnet18"], choices=NETWORKS)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--block", type=int, default=6, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args(arguments)
    training = Training(
        patch_px=options.patch,
        batch_size=options.batch,
        epochs=1,
        steps_per_epoch=options.block * (options.rounds + 2),
        threads=options.threads,
        workers=options.workers,
        device=options.device,
    )
    print("| network | windows/s | bare over training, wall: median (range) | cpu | at least 0.9, wall |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.networks:
        folder = Path(tempfile.mkdtemp(prefix="training-"))
        try:
            turns = measure(NETWORKS[name], training, folder, block=options.block, rounds=options.rounds)
        finally:
            shutil.rmtree(folder)
        print(row(name, turns, options.block * options.batch), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
