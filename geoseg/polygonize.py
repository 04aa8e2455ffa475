"""Any class raster to a styled GeoPackage, by the same tiles, parts and merge as a prediction."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.assemble import Assembly
from geoseg.errors import LabelError, OutputError, SceneError, explain
from geoseg.execute import Execution, open_executor, run_tasks
from geoseg.files import require_writable
from geoseg.raster.legends import nodata_of, read_legend
from geoseg.raster.parts import PartStore
from geoseg.raster.scene import open_scene
from geoseg.tasks import TileDone, TraceTask, trace_part
from geoseg.tiling import TILE_PX, Lattice, TilePlan

if TYPE_CHECKING:
    from geoseg.jobs import Progress
    from geoseg.legend import Legend
    from geoseg.raster.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectorized:
    """What was written."""

    path: Path
    polygons: int
    legend: Legend
    pixels: dict[int, int]
    """Pixels by class id, nodata included."""


def vectorize(
    classes: Path,
    out: Path,
    *,
    legend: Legend | None = None,
    confidence: Path | None = None,
    execution: Execution | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Vectorized:
    """Polygons of a class raster, 4-connected and whole, in a GeoPackage with an embedded style.

    Args:
        classes: single-band uint8 raster of class ids; what its mask or nodata value excludes is no class.
        out: the GeoPackage; ends in .gpkg.
        legend: names and colours; None takes what the raster itself says.
        confidence: uint8 percent on the same grid, for the mean per polygon.
        execution: where tiles are traced.
        overwrite: replace `out` if it exists.
        on_progress: called after each tile.

    Raises:
        SceneError: the raster is not a class raster, or cannot be read.
        LabelError: it holds values that are not in the legend.
        OutputError: `out` exists or cannot be written.
    """
    out = out.absolute()
    scene = _class_scene(classes)
    scored = None if confidence is None else _confidence_scene(confidence, scene)
    _require_free(out, overwrite=overwrite)
    require_writable(out.parent)
    lattice = Lattice.of(scene.window.shape, patch_px=TILE_PX, overlap_px=0, stride_px=1)
    plan = TilePlan(lattice=lattice, tile_px=TILE_PX)
    work = Path(tempfile.mkdtemp(prefix=f".{out.stem}-", suffix=".work", dir=out.parent))
    try:
        store = PartStore(folder=work)
        declared = nodata_of(classes) if legend is None else legend.nodata
        nodata = 255 if declared is None else declared
        tasks = [
            TraceTask(
                classes=scene,
                confidence=scored,
                core=t.core,
                row=t.row,
                col=t.col,
                nodata=nodata,
                nodata_is_declared=declared is not None,
                store=store,
            )
            for t in plan
        ]
        done = _trace_all(tasks, execution or Execution(), on_progress)
        pixels = _sum(done)
        known = legend or read_legend(classes, present=set(pixels) - {nodata})
        _require_known(pixels, known, nodata, classes)
        assembly = Assembly(
            store=store,
            cores={t.core: (t.row, t.col) for t in plan},
            geobox=scene.geobox,
            legend=known,
            tags={"GEOSEG_SOURCE": classes.name},
        )
        count = assembly.write_polygons(out, description=f"Polygons of {classes.name}, made by geoseg")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Vectorized(path=out, polygons=count, legend=known, pixels=pixels)


def _trace_all(tasks: list[TraceTask], execution: Execution, report: Progress | None) -> list[TileDone]:
    done = []
    with open_executor(execution) as (executor, slots):
        for result in run_tasks(executor, trace_part, tasks, slots=slots):
            done.append(result)
            if report is not None:
                report("tiles", len(done), len(tasks))
    return done


def _sum(done: list[TileDone]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for tile in done:
        total.update(tile.pixels)
    return dict(sorted(total.items()))


def _class_scene(path: Path) -> Scene:
    """The raster as a scene of one uint8 band.

    Raises:
        SceneError: it has several bands or another type; says how to choose or convert.
    """
    scene = open_scene(path)
    if len(scene.bands) != 1 or scene.dtype != "uint8":
        raise SceneError(
            explain(
                "not a class raster",
                at=path,
                expected="one band of uint8 class ids",
                found=f"{len(scene.bands)} band(s) of {scene.dtype}",
                change="Choose the band with gdal_translate -b and convert it with -ot Byte.",
            )
        )
    return scene


def _confidence_scene(path: Path, classes: Scene) -> Scene:
    scene = _class_scene(path)
    if scene.geobox != classes.geobox:
        raise SceneError(
            explain(
                "the confidence raster does not lie on the class raster",
                at=path,
                expected=f"the grid of {classes.name}, shape {classes.window.shape}",
                found=f"shape {scene.window.shape}, or another transform or CRS",
                change="Give the one written with this class raster, or none.",
            )
        )
    return scene


def _require_free(out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() != ".gpkg":
        raise OutputError(
            explain(
                "unknown output format",
                at=out,
                expected="a name that ends in .gpkg",
                found=out.suffix or "no ending",
                change="Name the output FILE.gpkg.",
            )
        )
    if out.exists() and not overwrite:
        raise OutputError(
            explain(
                "there is something already",
                at=out,
                expected="a free name",
                found="a file",
                change="Give --overwrite to replace it, or another -o.",
            )
        )


def _require_known(pixels: dict[int, int], legend: Legend, nodata: int, path: Path) -> None:
    unknown = sorted(set(pixels) - set(legend.ids.tolist()) - {nodata})
    if unknown:
        raise LabelError(
            explain(
                "the raster holds values that are not in the legend",
                at=path,
                expected=f"class ids {', '.join(map(str, sorted(legend.ids.tolist())))} or nodata {nodata}",
                found=", ".join(map(str, unknown)),
                change="Add them to the legend, or give the legend that belongs to this raster.",
            )
        )
