"""`geoseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg import jobs, seams
from geoseg.cli.console import Console, command_options
from geoseg.cli.options import (
    area_of_interest,
    execution_options,
    predict_options,
    prediction_options,
)
from geoseg.cli.scenes import SceneSource, open_given, sources
from geoseg.errors import ExecutionError, GeosegError, PartialError, UsageError
from geoseg.execute import Execution
from geoseg.manifest import SIDECARS
from geoseg.prediction import prepare
from geoseg.tasks import Runtime

if TYPE_CHECKING:
    from geoseg.manifest import Manifest
    from geoseg.raster.scene import Scene


@click.command("predict")
@prediction_options
@click.option("-o", "--out", required=True, type=click.Path(), metavar="DIR", help="Output folder.")
@execution_options
@click.option("--scheduler", metavar="ADDRESS|FILE", help="A running Dask cluster.")
@click.option("--gpu-resource", is_flag=True, help="Run tiles only on workers that offer resource GPU=1.")
@click.option("--overwrite", is_flag=True, help="Redo, and replace what is there.")
@command_options
def command(
    *,
    console: Console,
    scenes: tuple[str, ...],
    model: tuple[Path, ...],
    out: str,
    overwrite: bool,
    **given: Any,
) -> None:
    """Label every pixel of each SCENE and write rasters, polygons and a manifest.

    SCENE is a raster file; NAME=PATH arguments together are one scene of band files, and with --mosaic all
    files together are one scene. Writes
    NAME_classes.tif, NAME_confidence.tif, NAME.gpkg and NAME_manifest.json into DIR; with --min-area also
    NAME_classes_mmu.tif, the classes as the polygons have them. The same command again
    does nothing when all is complete, and goes on where it was cut off when it is not.
    """
    execution = Execution(
        workers=given["workers"],
        threads=given["threads"],
        scheduler=given["scheduler"],
        resources=(("GPU", 1.0),) if given["gpu_resource"] else (),
    )
    options = predict_options(given)
    runtime = Runtime(name=given["runtime"], device=given["device"], batch_size=given["batch_size"])
    outcomes: list[jobs.Outcome] = []
    failures: list[tuple[SceneSource, Exception]] = []
    for source, scene in _open_all(sources(scenes, mosaic=given["mosaic"]), given, failures):
        try:
            aoi = area_of_interest(scene, given)
            prediction = prepare(scene, model, options, aoi=aoi)
            with console.progress(scene.name) as report:
                outcome = jobs.predict(
                    prediction,
                    Path(out),
                    execution=execution,
                    runtime=runtime,
                    overwrite=overwrite,
                    on_progress=report,
                )
            outcomes.append(outcome)
        except Exception as error:  # noqa: BLE001 - told below, each with its scene; the others go on
            failures.append((source, error))
    _conclude(console, outcomes, failures)


def _open_all(
    wanted: list[SceneSource], given: dict[str, Any], failures: list[tuple[SceneSource, Exception]]
) -> list[tuple[SceneSource, Scene]]:
    """The scenes whose headers can be read; failures are added to `failures`.

    Raises:
        UsageError: two scenes have one name, so that one's files would replace the other's.
    """
    opened: list[tuple[SceneSource, Scene]] = []
    names: dict[str, SceneSource] = {}
    for source in wanted:
        try:
            scene = open_given(source, given)
        except GeosegError as error:
            failures.append((source, error))
            continue
        if scene.name in names:
            raise UsageError(
                f"two scenes are called {scene.name}: {names[scene.name]} and {source}. Their products would "
                "have the same file names: predict them into different folders."
            )
        names[scene.name] = source
        opened.append((source, scene))
    return opened


def _conclude(
    console: Console, outcomes: list[jobs.Outcome], failures: list[tuple[SceneSource, Exception]]
) -> None:
    if len(failures) == 1 and not outcomes:
        raise failures[0][1]
    document = {
        "complete": [
            {"manifest": str(o.path), "fresh": o.fresh, **o.manifest.model_dump(mode="json")}
            for o in outcomes
        ],
        "failed": [{"scene": str(s), "error": str(e)} for s, e in failures],
    }
    console.result(document, [line for o in outcomes for line in _summary(console, o)])
    for outcome in outcomes:
        for warning in outcome.manifest.warnings:
            console.warn(f"{outcome.manifest.scene['name']}: {warning}")
    for source, error in failures:
        console.error(f"{source}: {error}")
    if failures and outcomes:
        raise PartialError(f"{len(failures)} of {len(failures) + len(outcomes)} scenes failed, see above")
    if failures:
        kinds = {type(error) for _, error in failures}
        kind = kinds.pop() if len(kinds) == 1 else ExecutionError
        told = kind if issubclass(kind, GeosegError) else ExecutionError
        raise told(f"all {len(failures)} scenes failed, see above")


def _summary(console: Console, outcome: jobs.Outcome) -> list[str]:
    manifest = outcome.manifest
    if not outcome.fresh:
        return [f"{manifest.scene['name']}: complete already, nothing to do ({outcome.path})"]
    reused = f", {outcome.reused_tiles} tiles from an earlier run" if outcome.reused_tiles else ""
    seconds = sum(manifest.seconds.values())
    rate = manifest.counts.valid / 1e6 / seconds if seconds else 0.0
    head = (
        f"{manifest.scene['name']}: {manifest.counts.valid:,} pixels in {seconds:.1f} s "
        f"({rate:.2f} Mpx/s{reused}), peak memory {manifest.execution['peak_rss_mb']} MB"
    )
    files = [f"  {outcome.path.parent / o.path}" for o in manifest.outputs if o.kind not in SIDECARS]
    measured: dict[str, Any] | None = manifest.seams
    seam = f"seams: {seams.in_words(None if measured is None else seams.GridScore(**measured))}"
    return [head, *_class_table(console, manifest), seam, *files, f"  {outcome.path}"]


def _class_table(console: Console, manifest: Manifest) -> list[str]:
    """What the network said and, if that is another thing, what the polygons say."""
    valid = max(manifest.counts.valid, 1)
    outlined = {o.id: o.area_m2 or 0.0 for o in manifest.outlined}
    moved = _moves_areas(manifest)
    rows = [
        (
            c.name,
            f"{c.pixels:,}",
            f"{c.area_m2 / 1e4:,.1f}",
            f"{100 * c.pixels / valid:.1f} %",
            *((f"{outlined.get(c.id, 0.0) / 1e4:,.1f}",) if moved else ()),
        )
        for c in manifest.counts.classes
    ]
    columns = ("class", "pixels", "hectares", "share", *(("hectares of polygons",) if moved else ()))
    return console.table(columns, rows)


def _moves_areas(manifest: Manifest) -> bool:
    """Whether polygons cover other areas than the pixels of their class."""
    options = manifest.options.get("polygons") or {}
    return bool(options.get("min_area") or options.get("simplify") or options.get("smooth"))
