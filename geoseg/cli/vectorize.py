"""`geoseg vectorize`."""

from __future__ import annotations

from pathlib import Path

import click

from geoseg.cli.console import Console, command_options
from geoseg.config import load_legend
from geoseg.execute import Execution
from geoseg.polygonize import vectorize


@click.command("vectorize")
@click.argument("classes", type=click.Path(), metavar="CLASSES.tif")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="OUT.gpkg", help="The GeoPackage.")
@click.option("--legend", type=click.Path(), metavar="FILE", help="Legend as YAML; else the raster's own.")
@click.option("--confidence", type=click.Path(), metavar="FILE", help="Confidence raster, percent.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Dask worker processes of our own.")
@click.option("--scheduler", metavar="ADDRESS|FILE", help="A running Dask cluster.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@command_options
def command(
    *,
    console: Console,
    classes: str,
    out: str,
    legend: str | None,
    confidence: str | None,
    workers: int,
    scheduler: str | None,
    overwrite: bool,
) -> None:
    """Trace the classes of any uint8 raster into whole, styled polygons."""
    with console.progress(Path(classes).name) as report:
        result = vectorize(
            Path(classes),
            Path(out),
            legend=None if legend is None else load_legend(Path(legend)),
            confidence=None if confidence is None else Path(confidence),
            execution=Execution(workers=workers, scheduler=scheduler),
            overwrite=overwrite,
            on_progress=report,
        )
    document = {
        "path": str(result.path),
        "polygons": result.polygons,
        "pixels": {str(k): v for k, v in result.pixels.items()},
    }
    console.result(document, [f"{result.polygons:,} polygons in {result.path}"])
