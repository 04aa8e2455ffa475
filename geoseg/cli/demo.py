"""`geoseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.scores import score_lines

if TYPE_CHECKING:
    from geoseg.demo.run import DemoResult


@click.command("demo")
@click.argument("out", type=click.Path(), default="demo-output", metavar="[OUT]")
@click.option("--quick", is_flag=True, help="A small scene and a poor map, in seconds.")
@click.option("--overwrite", is_flag=True, help="Redo what is there.")
@command_options
def command(*, console: Console, out: str, quick: bool, overwrite: bool) -> None:
    """Make a synthetic scene, train a small network, map the scene through Dask, and score the map.

    Everything goes into OUT (default: demo-output).
    """
    from geoseg.demo.run import QUICK, DemoSettings, run_demo

    with console.progress("demo") as report:
        result = run_demo(
            Path(out), QUICK if quick else DemoSettings(), overwrite=overwrite, on_progress=report
        )
    document = {
        "folder": str(result.folder),
        "fresh": result.fresh,
        "files": result.files,
        "steps": result.steps,
        "seconds": result.seconds,
        "peak_rss_mb": result.peak_rss_mb,
        "evaluation": result.evaluation,
    }
    console.result(document, _lines(console, result))


def _lines(console: Console, result: DemoResult) -> list[str]:
    head = [] if result.fresh else ["complete already, nothing to do; --overwrite redoes it"]
    total = sum(result.seconds.values())
    steps = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    return [
        *head,
        "On the part of the scene that was held out:",
        *score_lines(console, result.evaluation),
        f"{total:.0f} s in all: {steps}; peak memory {result.peak_rss_mb} MB; {result.steps} training steps",
        *(f"  {kind:<14} {result.folder / path}" for kind, path in result.files.items()),
    ]
