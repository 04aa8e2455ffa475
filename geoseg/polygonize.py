"""Any class raster to polygons that need no more work, by the same tiles, parts and merge as a prediction."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from geoseg.assemble import Assembly
from geoseg.errors import LabelError, OutputError, SceneError, UsageError, explain
from geoseg.execute import Execution, open_executor, run_tasks
from geoseg.facts import versions
from geoseg.files import require_writable, sweep
from geoseg.legend import IGNORE_INDEX, CodedLegend, Legend
from geoseg.manifest import digest
from geoseg.outlining import (
    CleanStores,
    CleanTask,
    ScanTask,
    TraceTask,
    clean,
    recall,
    scan_tile,
    trace_part,
)
from geoseg.raster.classes import as_it_stands, by_codes, open_class_band, require_few
from geoseg.raster.legends import nodata_of, read_coded_legend, read_legend
from geoseg.raster.parts import PartStore
from geoseg.raster.scene import open_scene
from geoseg.scratch import PARTS, at_work, forget, forget_abandoned, scratch_of
from geoseg.tiling import TILE_PX, Lattice, TilePlan
from geoseg.vector.options import FORMATS, Format, PolygonOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from geoseg.execute import Slots
    from geoseg.jobs import Progress
    from geoseg.raster.classes import ClassRaster, Codes
    from geoseg.raster.scene import Scene
    from geoseg.tasks import TileDone
    from geoseg.vector.options import Tracing
    from geoseg.vector.summary import ClassRow

_TIFF = (".tif", ".tiff")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectorized:
    """What was written."""

    paths: Mapping[Format, Path]
    """The files of polygons."""
    cleaned: Path | None
    """The class raster after the minimum mapping unit, if it was asked for."""
    polygons: int
    legend: Legend
    codes: Mapping[int, int]
    """What the raster holds, and polygons say, for each class id of the legend."""
    pixels: dict[int, int]
    """Pixels of the raster by class id, nodata included."""
    classes: tuple[ClassRow, ...]
    """What the polygons of each class come to."""
    reused_tiles: int = 0
    """Tiles finished by an earlier, interrupted run."""

    @property
    def path(self) -> Path:
        """The file, or the first of several."""
        return next(iter(self.paths.values()))


def vectorize(
    classes: str | Path,
    out: str | Path,
    *,
    legend: Legend | CodedLegend | None = None,
    confidence: str | Path | None = None,
    options: PolygonOptions | None = None,
    band: int | None = None,
    as_integer: bool = False,
    cleaned: str | Path | None = None,
    execution: Execution | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Vectorized:
    """Polygons of a class raster, whole and styled, in a GeoPackage or other files.

    Interrupted, it goes on where it stopped when it is called again.

    Args:
        classes: raster of class ids; what its mask or nodata value excludes is no class.
        out: the file; its ending is its format. With several formats, each has its own ending.
        legend: names and colours; None takes what the raster itself says.
        confidence: uint8 percent on the same grid, for the mean and the lowest of each polygon.
        options: minimum mapping unit, lines, formats.
        band: of the raster, from 1; None: it has one.
        as_integer: take floats that are all whole.
        cleaned: where to write the classes after the minimum mapping unit, which the polygons match.
        execution: where tiles are traced.
        overwrite: replace what is there.
        on_progress: called after each tile.

    Raises:
        SceneError: the raster is not a class raster, or cannot be read.
        LabelError: it holds values that are not in the legend.
        UsageError: options contradict each other or the raster.
        OutputError: a file exists or cannot be written.
    """
    options, source = options or PolygonOptions(), Path(classes)
    scene = open_class_band(source, band=band, as_integer=as_integer)
    options.require_possible(scene.geobox)
    paths = output_paths(Path(out).absolute(), options.formats)
    raster = None if cleaned is None else _raster_path(Path(cleaned), scene, options)
    for path in filter(None, (*paths.values(), raster)):
        _require_free(path, overwrite=overwrite)
        require_writable(path.parent)
    job = _Job(
        path=source,
        scene=scene,
        confidence=None if confidence is None else _confidence_scene(Path(confidence), scene),
        legend=CodedLegend.of(legend) if isinstance(legend, Legend) else legend,
        options=options,
        out=next(iter(paths.values())),
    )
    with at_work(job.work):
        try:
            traced = _trace(job, execution or Execution(), on_progress or _silent)
            made = _write(job, traced, paths, raster)
        except (SceneError, LabelError, UsageError):  # parts are of no use once the cause is mended
            forget(job.work)
            raise
        forget(job.work)
    forget_abandoned(job.out.parent, job.out.stem)
    return made


def output_paths(out: Path, formats: tuple[Format, ...] | None) -> dict[Format, Path]:
    """The file of each format: those asked for, else the one that `out` ends in.

    Raises:
        OutputError: `out` ends in nothing known, or in another format than those asked for.
    """
    ending = out.suffix.lower().removeprefix(".")
    known = next((f for f in FORMATS if f == ending), None)
    if formats is None or (known is not None and known not in formats):
        wanted = FORMATS if formats is None else formats
        if known is None or known not in wanted:
            raise OutputError(
                explain(
                    "unknown output format" if known is None else "the output's name is of another format",
                    at=out,
                    expected=f"a name that ends in {', '.join(f'.{f}' for f in wanted)}",
                    found=out.suffix or "no ending",
                    change="Name the output FILE.gpkg, or say --format.",
                )
            )
        return {known: out}
    if known is not None:
        return {f: out.with_suffix(out.suffix if f == known else f".{f}") for f in formats}
    return {f: out.with_name(f"{out.name}.{f}") for f in formats}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A raster, what the caller says of it, and where its parts are."""

    path: Path
    scene: Scene
    confidence: Scene | None
    legend: CodedLegend | None
    options: PolygonOptions
    out: Path
    """The first file, beside which the parts lie."""

    @property
    def work(self) -> Path:
        """Parts, named so that nothing made otherwise is ever resumed."""
        facts = {
            "classes": self.scene.fingerprint,
            "confidence": self.confidence and self.confidence.fingerprint,
            "legend": self.legend and asdict(self.legend),
            "options": self.options.facts,
            "tile_px": TILE_PX,
            "versions": versions(),
        }
        return scratch_of(self.out.parent, self.out.stem, digest(facts))

    @property
    def parts(self) -> PartStore:
        """Of the classes as they are."""
        return PartStore(folder=self.work / PARTS)

    @property
    def plan(self) -> TilePlan:
        """The tiles."""
        lattice = Lattice.of(self.scene.window.shape, patch_px=TILE_PX, overlap_px=0, stride_px=1)
        return TilePlan(lattice=lattice, tile_px=TILE_PX)

    @property
    def band(self) -> int:
        """Number in the file."""
        return self.scene.bands[0].index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """What is known when all tiles are traced."""

    legend: Legend
    codes: Codes | None
    """None: the raster's values are class ids."""
    pixels: dict[int, int]
    """By class id."""
    how: Tracing
    store: PartStore
    """Of what is outlined."""
    reused: int
    """Tiles that were finished before."""


def _trace(job: _Job, execution: Execution, report: Progress) -> _Traced:
    """Traces all tiles that an interrupted run has not."""
    with open_executor(execution) as (executor, slots):
        crew = _Crew(executor=executor, slots=slots, report=report)
        raster, legend = _meaning(job, crew)
        how = job.options.on(job.scene.geobox, nodata=raster.nodata)
        done, reused = _trace_tiles(job, raster, how, crew)
        pixels = _sum(done)
        present = sorted(set(pixels) - {raster.nodata})
        known = legend.legend if legend else read_legend(job.path, present=present, band=job.band)
        _require_known(present, CodedLegend.of(known), job.path)
        store = job.parts
        if how.minimum is not None:
            how = job.options.on(job.scene.geobox, nodata=raster.nodata, ids=present)
            store = _clean_tiles(job, how, crew)
    codes = None if legend is None or legend.is_plain else legend.codes
    return _Traced(legend=known, codes=codes, pixels=pixels, how=how, store=store, reused=reused)


def _meaning(job: _Job, crew: _Crew) -> tuple[ClassRaster, CodedLegend | None]:
    """The raster and its legend; that of plain bytes may follow from what is found in them."""
    given = job.legend
    is_plain = job.scene.dtype == "uint8" and (given is None or given.is_plain)
    # Masks of 0 and 255 are common: with another nodata value declared, 255 is a class.
    may_hold_255 = given is None and nodata_of(job.path, band=job.band) not in {None, IGNORE_INDEX}
    found = _look(job, crew) if not is_plain or may_hold_255 else set()
    if is_plain and IGNORE_INDEX not in found:
        return as_it_stands(job.scene, job.path, None if given is None else given.legend), given
    legend = given or read_coded_legend(job.path, present=found, band=job.band)
    _require_known(found - {legend.nodata}, legend, job.path)
    return by_codes(job.scene, legend), legend


def _look(job: _Job, crew: _Crew) -> set[int]:
    """The values of the raster.

    Raises:
        SceneError: there are too many for classes.
    """
    tasks = [ScanTask(scene=job.scene, core=tile.core) for tile in job.plan]
    found: set[int] = set()
    for values in crew.run("looking", scan_tile, tasks):
        found.update(values)
        require_few(job.scene, sorted(found))
    return found


def _trace_tiles(job: _Job, raster: ClassRaster, how: Tracing, crew: _Crew) -> tuple[list[TileDone], int]:
    """What each tile holds, and how many were finished before this run."""
    tasks = [
        TraceTask(
            classes=raster,
            confidence=job.confidence,
            core=tile.core,
            row=tile.row,
            col=tile.col,
            how=how,
            store=job.parts,
        )
        for tile in job.plan
    ]
    earlier = [recall(t.store, t.row, t.col, t.core) for t in tasks]
    done = [tile for tile in earlier if tile is not None]
    reused = len(done)
    todo = [task for task, tile in zip(tasks, earlier, strict=True) if tile is None]
    done += crew.run("tiles", trace_part, todo, before=reused)
    return done, reused


def _clean_tiles(job: _Job, how: Tracing, crew: _Crew) -> PartStore:
    """The store of the parts after the minimum mapping unit."""
    stores = CleanStores.within(job.work, raw=job.parts)
    tasks = [
        CleanTask(
            name=job.scene.name,
            geobox=job.scene.geobox,
            core=tile.core,
            place=tile.core,
            row=tile.row,
            col=tile.col,
            how=how,
            stores=stores,
            has_confidence=job.confidence is not None,
        )
        for tile in job.plan
    ]
    clean(tasks, crew.executor, crew.slots, on_done=lambda n: crew.report("cleaning", n, len(tasks)))
    return stores.cleaned


def _write(job: _Job, traced: _Traced, paths: Mapping[Format, Path], cleaned: Path | None) -> Vectorized:
    """Writes all files from the parts."""
    parts = Assembly(
        store=job.parts,
        outlined=traced.store,
        cores={tile.core: (tile.row, tile.col) for tile in job.plan},
        geobox=job.scene.geobox,
        legend=traced.legend,
        codes=traced.codes,
        tags={"GEOSEG_SOURCE": job.path.name},
        tracing=traced.how,
        crs=job.options.crs,
    )
    for path in paths.values():
        sweep(path)  # what a run that was killed was writing
    if cleaned is not None:
        sweep(cleaned)
        parts.write_cleaned(cleaned)
    totals = parts.write_polygons(paths, description=f"Polygons of {job.path.name}, made by geoseg")
    ids = traced.legend.ids.tolist()
    return Vectorized(
        paths=paths,
        cleaned=cleaned,
        polygons=totals.count,
        legend=traced.legend,
        codes=dict(zip(ids, ids, strict=True)) if traced.codes is None else traced.codes,
        pixels=traced.pixels,
        classes=tuple(totals.rows(traced.legend)),
        reused_tiles=traced.reused,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crew:
    """What runs tasks, and who hears of it."""

    executor: Executor
    slots: Slots
    report: Progress

    def run(
        self, what: str, function: Callable[[T], R], tasks: Sequence[T], *, before: int = 0
    ) -> Iterator[R]:
        """Results as they come; `before` were there already."""
        total = before + len(tasks)
        results = run_tasks(self.executor, function, tasks, slots=self.slots)
        for finished, result in enumerate(results, start=before + 1):
            self.report(what, finished, total)
            yield result


def _sum(done: list[TileDone]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for tile in done:
        total.update(tile.pixels)
    return dict(sorted(total.items()))


def _confidence_scene(path: Path, classes: Scene) -> Scene:
    scene = open_scene(path)
    if len(scene.bands) != 1 or scene.dtype != "uint8":
        raise SceneError(
            explain(
                "not a confidence raster",
                at=path,
                expected="one band of uint8 percent",
                found=f"{len(scene.bands)} band(s) of {scene.dtype}",
                change="Choose the band with gdal_translate -b and scale it with -scale and -ot Byte.",
            )
        )
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


def _raster_path(path: Path, scene: Scene, options: PolygonOptions) -> Path:
    """Where the cleaned raster goes.

    Raises:
        UsageError: there will be none. OutputError: it cannot go there.
    """
    if options.min_area is None:
        raise UsageError("a cleaned raster is what --min-area leaves of the classes: give that, too")
    path = path.absolute()
    if path.suffix.lower() not in _TIFF or str(path) in scene.files:
        raise OutputError(
            explain(
                "the cleaned raster cannot be written there",
                at=path,
                expected="a name that ends in .tif, and not that of the class raster itself",
                found=path.suffix if str(path) not in scene.files else "the class raster",
                change="Choose another name.",
            )
        )
    return path


def _require_free(out: Path, *, overwrite: bool) -> None:
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


def _require_known(present: Iterable[int], legend: CodedLegend, path: Path) -> None:
    known = sorted(legend.codes.values())
    unknown = sorted(set(present) - set(known))
    if unknown:
        raise LabelError(
            explain(
                "the raster holds values that are not in the legend",
                at=path,
                expected=f"class ids {', '.join(map(str, known))} or nodata {legend.nodata}",
                found=", ".join(map(str, unknown)),
                change="Add them to the legend, or give the legend that belongs to this raster.",
            )
        )


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody listens to."""
