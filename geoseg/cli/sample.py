"""`geoseg sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.accuracy.assess import design_sample
from geoseg.accuracy.sampling import ALLOCATIONS, MINIMUM
from geoseg.cli.console import Console, command_options
from geoseg.cli.options import area_of_interest
from geoseg.cli.references import legend_of, pair
from geoseg.errors import UsageError
from geoseg.raster.scene import open_scene

if TYPE_CHECKING:
    from geoseg.accuracy.assess import SampleDesign


@click.command("sample")
@click.argument("classes", type=click.Path(), metavar="MAP.tif")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="POINTS.gpkg", help="Points to label.")
@click.option("-n", "--points", type=click.IntRange(1), metavar="N", help="How many points in all; or")
@click.option(
    "--standard-error",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="that overall accuracy shall have, e.g. 0.01: as many as that takes; needs --expect.",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    default="proportional",
    show_default=True,
    help="How classes share them: by area, alike, or by area and expected error.",
)
@click.option(
    "--minimum",
    type=click.IntRange(2),
    default=MINIMUM,
    show_default=True,
    metavar="N",
    help="Points of each class at least.",
)
@click.option(
    "--expect",
    multiple=True,
    metavar="CLASS=SHARE",
    help="User's accuracy expected of a class, e.g. water=0.9; '*=0.8' for all others.",
)
@click.option("--legend", type=click.Path(), metavar="FILE", help="Legend as YAML; else the map's own.")
@click.option("--aoi", type=click.Path(), metavar="FILE", help="Sample only what lies in these polygons.")
@click.option("--aoi-layer", metavar="NAME", help="Layer of the --aoi file, where it has several.")
@click.option("--bbox", type=float, nargs=4, metavar="XMIN YMIN XMAX YMAX", help="Sample only this box.")
@click.option("--bbox-crs", metavar="EPSG:...", help="CRS of --bbox; else the map's.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@click.option("--overwrite", is_flag=True, help="Replace POINTS if it exists, labels and all.")
@command_options
def command(*, console: Console, classes: str, out: str, **given: Any) -> None:
    """Draw a stratified random sample of a map's pixels, to be labelled by people.

    Label the points by what is truly there (name or id of a class, in the column `label`), then give the
    file to `geoseg accuracy`. The map's own class is kept out of sight on purpose.
    """
    path = Path(classes)
    legend = legend_of(path, given["legend"])
    with console.progress("sampling") as report:
        result = design_sample(
            path,
            Path(out),
            legend=legend,
            size=given["points"],
            standard_error=given["standard_error"],
            allocation=given["allocation"],
            minimum=given["minimum"],
            expected=_expected(given["expect"]) if given["expect"] else None,
            aoi=_area(path, given),
            seed=given["seed"],
            overwrite=given["overwrite"],
            on_progress=lambda done, total: report("pixels", done, total),
        )
    console.result(result.model_dump(mode="json"), _lines(console, result))


def _area(path: Path, given: dict[str, Any]) -> Any:
    if all(given[name] is None for name in ("aoi", "bbox", "bbox_crs")):
        return None
    return area_of_interest(open_scene(path), given)


def _expected(given: tuple[str, ...]) -> dict[str, float]:
    try:
        return {name: float(value or "") for name, value in map(pair, given)}
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--expect takes CLASS=SHARE, e.g. water=0.9, not {', '.join(given)}") from error


def _lines(console: Console, result: SampleDesign) -> list[str]:
    rows = [(s.name, f"{s.pixels:,}", f"{s.area_m2 / 1e4:,.1f}", f"{s.points:,}") for s in result.strata]
    return [
        f"{result.points:,} points in {result.path}",
        *console.table(("class of the map", "pixels", "hectares", "points"), rows),
    ]
