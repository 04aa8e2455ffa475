"""`geoseg train`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.console import Console, command_options
from geoseg.config import TrainConfig, load

if TYPE_CHECKING:
    from geoseg.jobs import Progress
    from geoseg.train import TrainEvent

_LINES = 20
"""At most about so many lines about steps where there is no bar."""


@click.command("train")
@click.argument("config", type=click.Path(), metavar="CONFIG.yaml")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="MODEL", help="Package to write.")
@click.option(
    "--data", type=click.Path(), metavar="DIR", help="Where CONFIG's paths start; default: its folder."
)
@click.option("--overwrite", is_flag=True, help="Replace MODEL if it is a package.")
@click.option("--fresh", is_flag=True, help="Start over where an unfinished run could be continued.")
@click.option("--tensorboard", type=click.Path(), metavar="DIR", help="Write curves for TensorBoard as well.")
@command_options
def command(
    *,
    console: Console,
    config: str,
    out: str,
    data: str | None,
    overwrite: bool,
    fresh: bool,
    tensorboard: str | None,
) -> None:
    """Train a network from scenes and labels and write it as a model package.

    A run that was interrupted keeps its state in MODEL.unfinished; the same command goes on from there.
    `torchrun -m geoseg train ...` trains with several processes.
    """
    if os.environ.get("RANK", "0") != "0":  # torchrun started several: the first one tells
        console.verbosity, console.as_json, tensorboard = -1, False, None
    settings = load(Path(config), TrainConfig)  # before torch is imported: a typing error costs no seconds
    from geoseg.train import train
    from geoseg.train.board import tensorboard as board

    with ExitStack() as stack:
        watch = stack.enter_context(board(Path(tensorboard))) if tensorboard else None
        shown = Shown(console, stack.enter_context(console.progress("training")))

        def tell(event: TrainEvent) -> None:
            shown.show(event)
            if watch is not None:
                watch(event)

        result = train(
            settings,
            Path(out),
            data_root=Path(data) if data else Path(config).parent,
            overwrite=overwrite,
            fresh=fresh,
            on_progress=tell,
        )
    document = {
        "model": str(result.folder),
        "fingerprint": result.card.fingerprint,
        "epoch": result.epoch,
        "validation_mean_iou": result.mean_iou,
        "epochs": len(result.history),
        "seconds": round(result.history[-1].seconds, 1),
        "loss": result.history[-1].loss,
    }
    scored = "" if result.mean_iou is None else f", validation mean IoU {result.mean_iou:.3f}"
    line = (
        f"{result.folder}: {len(result.history)} epochs in {result.history[-1].seconds:.0f} s, "
        f"kept epoch {result.epoch}{scored}"
    )
    console.result(document, [line])
    if result.mean_iou is None:
        console.note(
            "no `validation` in the configuration: the last epoch was kept, and is scored on nothing yet"
        )


class Shown:
    """What people see of training: a bar on a terminal, else a line now and then; a line for each epoch."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console = console
        self._bar = bar if sys.stderr.isatty() and not console.log_json else None
        self._part = -1

    def show(self, event: TrainEvent) -> None:
        """Takes in an event."""
        if event.stage == "resume":
            self._console.note(f"going on after step {event.step} of {event.steps}, in epoch {event.epoch}")
        elif event.stage == "epoch":
            scored = "" if event.mean_iou is None else f", validation mean IoU {event.mean_iou:.3f}"
            self._console.note(f"epoch {event.epoch}: loss {event.loss:.4f}{scored} ({event.seconds:.0f} s)")
        if self._bar is not None:
            self._bar(_state(event), event.step, event.steps)
        elif event.stage in {"survey", "measure"}:
            self._console.note(f"training: {_state(event)}")
        elif event.stage == "step":
            self._line(event)

    def _line(self, event: TrainEvent) -> None:
        part = _LINES * event.step // event.steps
        if part != self._part:
            self._part = part
            left = "" if event.seconds_left is None else f", {_duration(event.seconds_left)} left"
            self._console.note(f"training: step {event.step}/{event.steps}, {_state(event)}{left}")


def _state(event: TrainEvent) -> str:
    """How it stands, in a few words."""
    if event.stage == "survey":
        return "reading scenes"
    if event.stage == "measure":
        return "measuring the finished network"
    known = {"loss": event.loss, "mean IoU": event.mean_iou}
    return ", ".join(f"{name} {v:.3f}" for name, v in known.items() if v is not None) or event.stage


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )
