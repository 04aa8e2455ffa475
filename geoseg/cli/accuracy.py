"""`geoseg accuracy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.accuracy.assess import assess
from geoseg.cli.console import Console, command_options
from geoseg.cli.references import legend_of, pair
from geoseg.errors import UsageError

if TYPE_CHECKING:
    from geoseg.accuracy.assess import Accuracy
    from geoseg.accuracy.olofsson import Estimate


@click.command("accuracy")
@click.argument("points", type=click.Path(), metavar="POINTS.gpkg")
@click.argument("classes", type=click.Path(), metavar="MAP.tif")
@click.option("-o", "--out", type=click.Path(), metavar="FILE.json", help="Write the estimates here.")
@click.option("--legend", type=click.Path(), metavar="FILE", help="Legend as YAML; else the map's own.")
@click.option(
    "--class",
    "labels",
    multiple=True,
    metavar="LABEL=CLASS",
    help="What a label stands for, where it is none.",
)
@click.option("--labelled-only", is_flag=True, help="Judge by the points that are labelled so far.")
@command_options
def command(
    *,
    console: Console,
    points: str,
    classes: str,
    out: str | None,
    legend: str | None,
    labels: tuple[str, ...],
    labelled_only: bool,
) -> None:
    """Estimate accuracy and areas, with 95 % intervals, from points that `geoseg sample` drew.

    MAP is the map the points were drawn from, or any other map of the same place (Olofsson et al. 2014,
    Stehman 2014).
    """
    path = Path(classes)
    result = assess(
        Path(points),
        path,
        legend=legend_of(path, legend),
        classes={label: _required(label, target) for label, target in map(pair, labels)},
        labelled_only=labelled_only,
        out=None if out is None else Path(out),
    )
    if result.unlabelled_points:
        console.warn(
            f"{result.unlabelled_points} of the points drawn are left out; that is right only if they were "
            "left out by chance"
        )
    console.result(result.model_dump(mode="json"), _lines(console, result))


def _required(label: str, target: str | None) -> str:
    if target is None:
        raise UsageError(f"--class {label}= names no class")
    return target


def _lines(console: Console, result: Accuracy) -> list[str]:
    rows = [
        (
            c.name,
            _share(c.users_accuracy),
            _share(c.producers_accuracy),
            "" if c.mapped_m2 is None else f"{c.mapped_m2 / 1e4:,.1f}",
            _plus_minus(c.area_m2, 1e-4, ",.1f"),
        )
        for c in result.classes
    ]
    head = (
        f"overall accuracy {_share(result.overall_accuracy)}, {result.points:,} points, "
        f"{result.area_m2 / 1e4:,.1f} ha; all with 95 % intervals"
    )
    return [
        head,
        *console.table(("class", "user's", "producer's", "mapped ha", "true ha"), rows),
    ]


def _share(found: Estimate | None) -> str:
    return "no points" if found is None else f"{_plus_minus(found, 100, '.1f')} %"


def _plus_minus(found: Estimate, factor: float, form: str) -> str:
    from geoseg.accuracy.olofsson import Z95

    half = Z95 * found.standard_error * factor
    return f"{found.value * factor:{form}} ± {half:{form}}"
