"""`geoseg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from geoseg.accuracy.layers import is_vector
from geoseg.accuracy.objects import DEFAULT_EDGES_PX
from geoseg.accuracy.product import Beside, beside
from geoseg.cli.console import Console, command_options
from geoseg.cli.options import area_of_interest
from geoseg.cli.references import legend_of, reference_facts, reference_options
from geoseg.cli.scores import score_lines
from geoseg.errors import UsageError
from geoseg.evaluation import evaluate
from geoseg.raster.scene import open_scene
from geoseg.windows import Window


@click.command("evaluate")
@click.argument("predicted", type=click.Path(), metavar="PREDICTED")
@click.argument("reference", type=click.Path(), metavar="REFERENCE")
@click.option("-o", "--out", type=click.Path(), metavar="FILE.json", help="Write the metrics here.")
@click.option("--legend", type=click.Path(), metavar="FILE", help="Legend as YAML; else the map's own.")
@reference_options
@click.option("--window", type=int, nargs=4, metavar="ROW COL HEIGHT WIDTH", help="Score this part only.")
@click.option("--aoi", type=click.Path(), metavar="FILE", help="Score only what lies in these polygons.")
@click.option("--aoi-layer", metavar="NAME", help="Layer of the --aoi file, where it has several.")
@click.option("--bbox", type=float, nargs=4, metavar="XMIN YMIN XMAX YMAX", help="Score only this box.")
@click.option("--bbox-crs", metavar="EPSG:...", help="CRS of --bbox; else the map's.")
@click.option("--grid", type=click.Path(), metavar="FILE", help="Raster on whose grid polygons are scored.")
@click.option(
    "--polygons",
    type=click.Path(),
    metavar="FILE",
    help="Polygons made from the raster, to be scored, too. [default: those of the same prediction]",
)
@click.option(
    "--confidence",
    type=click.Path(),
    metavar="FILE",
    help="Confidence raster, percent: is it honest? [default: that of the same prediction]",
)
@click.option("--raster-only", is_flag=True, help="Leave out what the prediction wrote beside the raster.")
@click.option(
    "--boundary",
    type=click.FloatRange(0, min_open=True),
    metavar="METRES",
    help="How far a boundary may be off. [default: two pixels]",
)
@click.option("--no-boundary", is_flag=True, help="Leave boundaries out, which takes less time.")
@click.option("--intervals", is_flag=True, help="Polygons as REFERENCE: how much scores vary with them.")
@click.option("--no-objects", is_flag=True, help="Leave recall by size of objects out.")
@command_options
def command(*, console: Console, predicted: str, reference: str, **given: Any) -> None:
    """Compare a map with reference labels: a raster, or polygons with --column.

    PREDICTED is a class raster, or polygons as geoseg writes them. Of a raster from `geoseg predict`, its
    polygons and its confidence are scored, too.
    """
    path = Path(predicted)
    legend = legend_of(path, given["legend"])
    found = Beside() if is_vector(path) or given["raster_only"] else beside(path)
    polygons, confidence = (given[k] or getattr(found, k) for k in ("polygons", "confidence"))
    window = given["window"]
    with console.progress("evaluating") as report:
        result = evaluate(
            path,
            Path(reference),
            legend=legend,
            **reference_facts(given),
            window=None if window is None else Window(*window),
            aoi=area_of_interest(_grid_of(path, reference, given), given) if _has_area(given) else None,
            grid=given["grid"],
            polygons=polygons,
            confidence=confidence,
            tolerance_m=_tolerance(given),
            object_edges_px=None if given["no_objects"] else DEFAULT_EDGES_PX,
            intervals=given["intervals"],
            out=None if given["out"] is None else Path(given["out"]),
            on_progress=lambda event: report("pixels", event.done_px, event.total_px),
        )
    document = result.model_dump(mode="json")
    console.result(document, score_lines(console, document))


def _tolerance(given: dict[str, Any]) -> float | Literal["auto"] | None:
    metres: float | None = given["boundary"]
    if given["no_boundary"]:
        if metres is not None:
            raise UsageError("--boundary and --no-boundary contradict each other")
        return None
    return "auto" if metres is None else metres


def _has_area(given: dict[str, Any]) -> bool:
    return any(given[name] is not None for name in ("aoi", "bbox", "bbox_crs"))


def _grid_of(path: Path, reference: str, given: dict[str, Any]) -> Any:
    return open_scene(given["grid"] or reference if is_vector(path) else path)
