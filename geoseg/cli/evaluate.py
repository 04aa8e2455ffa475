"""`geoseg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.scores import score_lines
from geoseg.config import load_legend
from geoseg.errors import UsageError
from geoseg.evaluate import evaluate
from geoseg.raster.legends import own_legend
from geoseg.windows import Window

if TYPE_CHECKING:
    from geoseg.legend import Legend


@click.command("evaluate")
@click.argument("predicted", type=click.Path(), metavar="PREDICTED.tif")
@click.argument("reference", type=click.Path(), metavar="REFERENCE")
@click.option("-o", "--out", type=click.Path(), metavar="FILE.json", help="Write the metrics here.")
@click.option("--legend", type=click.Path(), metavar="FILE", help="Legend as YAML; else the raster's own.")
@click.option("--column", metavar="NAME", help="Polygons: the attribute that says the class.")
@click.option("--layer", metavar="NAME", help="Polygons: the layer, if the file has several.")
@click.option(
    "--class", "classes", multiple=True, metavar="VALUE=CLASS", help="Polygons: attribute value to class."
)
@click.option(
    "--remap", multiple=True, metavar="VALUE=ID", help="Raster: value to class id; VALUE= leaves it out."
)
@click.option("--window", type=int, nargs=4, metavar="ROW COL HEIGHT WIDTH", help="Score this part only.")
@command_options
def command(
    *,
    console: Console,
    predicted: str,
    reference: str,
    out: str | None,
    legend: str | None,
    column: str | None,
    layer: str | None,
    classes: tuple[str, ...],
    remap: tuple[str, ...],
    window: tuple[int, int, int, int] | None,
) -> None:
    """Compare a class raster with reference labels: a raster, or polygons with --column."""
    with console.progress("evaluating") as report:
        result = evaluate(
            Path(predicted),
            Path(reference),
            legend=_legend(Path(predicted), legend),
            remap=_remap(remap),
            layer=layer,
            column=column,
            classes=dict(_pair(text) for text in classes),
            window=None if window is None else Window(*window),
            out=None if out is None else Path(out),
            on_progress=lambda event: report("pixels", event.done_px, event.total_px),
        )
    document = result.model_dump(mode="json")
    console.result(document, score_lines(console, document))


def _legend(predicted: Path, given: str | None) -> Legend:
    legend = own_legend(predicted) if given is None else load_legend(Path(given))
    if legend is None:
        raise UsageError(
            f"the raster carries no legend: {predicted}. Say what its values stand for with --legend FILE."
        )
    return legend


def _remap(given: tuple[str, ...]) -> dict[int, int | None]:
    pairs = dict(_pair(text) for text in given)
    try:
        return {int(source): None if target is None else int(target) for source, target in pairs.items()}
    except ValueError as error:
        raise UsageError(f"--remap takes VALUE=ID with integers, not {', '.join(given)}") from error


def _pair(text: str) -> tuple[str, str | None]:
    source, sign, target = text.partition("=")
    if not sign:
        raise UsageError(f"expected VALUE=CLASS, found {text!r}; VALUE= leaves those out")
    return source, target or None
