"""`geoseg train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.console import Console, command_options
from geoseg.config import TrainConfig, load

if TYPE_CHECKING:
    from geoseg.jobs import Progress
    from geoseg.train import TrainEvent


@click.command("train")
@click.argument("config", type=click.Path(), metavar="CONFIG.yaml")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="MODEL", help="Package to write.")
@click.option(
    "--data", type=click.Path(), metavar="DIR", help="Where CONFIG's paths start; default: its folder."
)
@click.option("--overwrite", is_flag=True, help="Replace MODEL if it is a package.")
@command_options
def command(*, console: Console, config: str, out: str, data: str | None, overwrite: bool) -> None:
    """Train a network from scenes and labels and write it as a model package."""
    settings = load(Path(config), TrainConfig)  # before torch is imported: a typing error costs no seconds
    from geoseg.train import train

    with console.progress("training") as report:
        result = train(
            settings,
            Path(out),
            data_root=Path(data) if data else Path(config).parent,
            overwrite=overwrite,
            on_progress=lambda event: show(event, report, console),
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


def show(event: TrainEvent, report: Progress, console: Console) -> None:
    """Moves the bar with each step and prints a line for each epoch."""
    report("steps", event.step, event.steps)
    if event.stage == "epoch":
        scored = "" if event.mean_iou is None else f", validation mean IoU {event.mean_iou:.3f}"
        console.note(f"epoch {event.epoch}: loss {event.loss:.4f}{scored} ({event.seconds:.0f} s)")
