"""`geoseg vectorize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.options import polygon_options, polygons
from geoseg.config import load_coded_legend
from geoseg.execute import Execution, default_threads
from geoseg.polygonize import vectorize

if TYPE_CHECKING:
    from geoseg.polygonize import Vectorized


@click.command("vectorize")
@click.argument("classes", type=click.Path(), metavar="CLASSES.tif")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(),
    metavar="OUT.gpkg",
    help="The polygons; the ending is the format.",
)
@click.option("--legend", type=click.Path(), metavar="FILE", help="Legend as YAML; else the raster's own.")
@click.option("--confidence", type=click.Path(), metavar="FILE", help="Confidence raster, percent.")
@click.option("--band", type=click.IntRange(1), metavar="N", help="Of a raster with several bands.")
@click.option("--as-integer", is_flag=True, help="Take a raster of floats that are all whole numbers.")
@polygon_options
@click.option(
    "--cleaned-raster",
    type=click.Path(),
    metavar="FILE.tif",
    help="Write the classes after --min-area, too: those of the polygons.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=default_threads,
    show_default="one per core, at most 8",
    help="Cores this process uses.",
)
@click.option("--workers", type=click.IntRange(0), default=0, help="Dask worker processes of our own.")
@click.option("--scheduler", metavar="ADDRESS|FILE", help="A running Dask cluster.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@command_options
def command(*, console: Console, classes: str, out: str, **given: Any) -> None:
    """Trace the classes of any raster of integers into whole, styled polygons.

    They never end at tile borders, share their borders exactly, and are the same for any number of threads
    and workers. Cut off, the same command goes on where it stopped.
    """
    paths = {
        name: None if given[name] is None else Path(given[name])
        for name in ("legend", "confidence", "cleaned_raster")
    }
    with console.progress(Path(classes).name) as report:
        result = vectorize(
            Path(classes),
            Path(out),
            legend=None if paths["legend"] is None else load_coded_legend(paths["legend"]),
            confidence=paths["confidence"],
            options=polygons(given),
            band=given["band"],
            as_integer=given["as_integer"],
            cleaned=paths["cleaned_raster"],
            execution=Execution(
                workers=given["workers"], threads=given["threads"], scheduler=given["scheduler"]
            ),
            overwrite=given["overwrite"],
            on_progress=report,
        )
    console.result(_document(result), _lines(console, result))


def _document(result: Vectorized) -> dict[str, Any]:
    def code(class_id: int) -> str:
        return "nodata" if class_id not in result.codes else str(result.codes[class_id])

    return {
        "path": str(result.path),
        "files": {name: str(path) for name, path in result.paths.items()},
        "cleaned_raster": None if result.cleaned is None else str(result.cleaned),
        "polygons": result.polygons,
        "pixels": {code(class_id): count for class_id, count in result.pixels.items()},
        "classes": [
            {
                "class_id": result.codes[row.class_id],
                "class_name": row.class_name,
                "polygons": row.polygons,
                "pixels": row.pixels,
                "area_m2": _or_none(row.area_m2),
                "area_change_m2": row.area_change_m2,
            }
            for row in result.classes
        ],
        "reused_tiles": result.reused_tiles,
    }


def _lines(console: Console, result: Vectorized) -> list[str]:
    reused = f", {result.reused_tiles} tiles from an earlier run" if result.reused_tiles else ""
    files = [str(path) for path in (*result.paths.values(), result.cleaned) if path is not None]
    head = f"{result.polygons:,} polygons in {files[0]}{reused}"
    moved = any(row.area_change_m2 is not None for row in result.classes)
    columns = ("class", "polygons", "pixels", "hectares", *(("change",) if moved else ()))
    rows = [
        (
            row.class_name,
            f"{row.polygons:,}",
            f"{row.pixels:,}",
            f"{row.area_m2 / 1e4:,.1f}",
            *((f"{row.area_change_m2 / 1e4:+,.2f}",) if row.area_change_m2 is not None else ()),
        )
        for row in result.classes
    ]
    return [head, *console.table(columns, rows), *(f"  {path}" for path in files[1:])]


def _or_none(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124 - NaN is no JSON
