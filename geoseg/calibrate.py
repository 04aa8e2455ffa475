"""What a job will take on this machine, from a short run of some of its own tiles.

A few windows of the scene go the whole way a tile goes, on the executor the job would use, and products are
made of them as the job would make them. Times and sizes are then scaled to the whole job. Each window is a
small prediction of its own, on the lattice of the scene: all it takes is what the job itself is made of.
"""

from __future__ import annotations

import heapq
import os
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from geoseg import jobs
from geoseg.apart import run_apart
from geoseg.execute import open_executor, run_tasks
from geoseg.facts import peak_rss_mb
from geoseg.products import Product
from geoseg.regions import EDGE_NAMES
from geoseg.stitch import CONFIDENCE_NODATA
from geoseg.survey import spread, survey
from geoseg.tasks import _load as load_members
from geoseg.tasks import predict_tile
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Executor

    from geoseg.execute import Execution, Slots
    from geoseg.prediction import Prediction
    from geoseg.survey import Survey
    from geoseg.tasks import PredictTask, Runtime
    from geoseg.tiling import Axis, Tile, TilePlan

_SECONDS = 6.0
"""About as long as tiles are computed for the measurement, once the network is warm."""
_SHARE = 8
"""At most one in so many patches of the job is computed for it, warming up not counted."""
_WINDOWS = 4
"""Windows for each tile that is worked on at once."""
_LONG_ENOUGH = 0.5
"""Seconds that a window takes at least, if patches are small."""
_WRITTEN = 6
"""Windows that are made into products, at most."""
_TRACED_BYTES = 22
"""Memory of tracing, by pixel of a tile's core."""
_ONE_TILE = 1 << 40
"""A tile size that no scene has: all that is wanted is one tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a job will take."""

    start_seconds: float
    """Loading libraries and networks, starting and stopping worker processes."""
    tiles_seconds: float
    """Labelling and tracing the tiles, warming up included."""
    write_seconds: float
    """Making products of the tiles."""
    memory_mb: float
    """Largest resident memory of the job's processes together."""
    scratch_mb: float
    """Largest size of parts and temporary files."""
    output_mb: dict[str, float]
    """Size of the product's files by kind."""
    patches: int
    """Patches the network will be given: those over nothing but nodata are left out."""
    mpx_per_s: float
    """What the network is given per second, all cores together."""
    measured_patches: int
    """Patches computed for the measurement"""
    measured_seconds: float
    """in this time."""

    @property
    def seconds(self) -> float:
        """Of the whole job."""
        return self.start_seconds + self.tiles_seconds + self.write_seconds


def calibrate(
    prediction: Prediction, *, execution: Execution, runtime: Runtime, began: float | None = None
) -> Calibration:
    """What the prediction will take, from a run of some seconds; nothing of it is kept.

    Args:
        prediction: the job.
        execution: where its tiles would run: they do so here, too.
        runtime: what runs the network, as `geoseg.jobs.settle` gives it.
        began: when the process was asked for (`time.time`); None: now.

    Raises:
        SceneError: the scene cannot be read. ExecutionError: the network cannot be run.
    """
    began = time.time() if began is None else began
    with TemporaryDirectory(prefix="geoseg-plan-") as folder:
        bench = _Bench(prediction=prediction, runtime=runtime, look=_look(prediction), folder=Path(folder))
        run = _run_tiles(bench, execution, began=began)
        return _extrapolate(bench, run, _write(bench, run))


def calibrate_apart(prediction: Prediction, *, execution: Execution, runtime: Runtime) -> Calibration:
    """The same in a process of its own: it starts as the job will, and its memory is its alone."""
    return run_apart(calibrate, prediction, execution=execution, runtime=runtime, began=time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What is measured, and where."""

    prediction: Prediction
    runtime: Runtime
    look: Survey
    folder: Path

    @property
    def plan(self) -> TilePlan:
        return self.prediction.plan

    def windows(self, count: int, side: int) -> list[Window]:
        """Up to `count` windows, each what `side` x `side` patches decide, spread over the data."""
        lattice, wanted = self.plan.lattice, self.plan.window

        def place(row: float, col: float) -> Window:
            run = _run(lattice.rows, row, side), _run(lattice.cols, col, side)
            return lattice.support(*run).intersect(wanted)

        return spread(self.look, count, wanted=wanted, place=place, extent=lambda window: window)

    def job(self, window: Window) -> _Job:
        """The prediction of one window, all in one tile."""
        plan = replace(self.plan, extent=window, tile_px=_ONE_TILE)
        prediction = replace(self.prediction, plan=plan)
        stem = f"{window.row}-{window.col}-{window.height}-{window.width}"
        product = Product(folder=self.folder, stem=stem, job=prediction.job, attempt="calibration")
        return _Job(prediction=prediction, product=product)

    def patches(self, tile: Tile) -> int:
        """Patches of a tile that the network will be given, as far as is known."""
        parts = (p.window if self.plan.blend else p.support for p in tile.patches)
        return sum(self.look.any_data(part.intersect(tile.core)) for part in parts)


def _run(axis: Axis, pixel: float, side: int) -> range:
    """Up to `side` patches in a row, among them the one that decides the pixel."""
    index = bisect_right(range(axis.count), pixel, key=axis.cut) - 1
    start = min(max(index - side // 2, 0), max(axis.count - side, 0))
    return range(start, min(start + side, axis.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A window of the scene as a job of its own."""

    prediction: Prediction
    product: Product

    def task(self, runtime: Runtime) -> PredictTask:
        """Its one tile."""
        return next(jobs.tile_tasks(self.prediction, self.product.parts, runtime))

    @property
    def valid(self) -> int:
        """Pixels that were given a class."""
        classes = self.product.parts.read(0, 0, "classes")["classes"]
        return int(np.count_nonzero(classes != self.prediction.card.legend.nodata))

    @property
    def regions(self) -> float:
        """Regions of one class; of those that reach its sides, the half, for they go on beyond."""
        if not self.prediction.options.polygons:
            return 0.0
        arrays = self.product.parts.read(0, 0, "class_id", *EDGE_NAMES)
        touching = np.unique(np.concatenate([arrays[name][0] for name in EDGE_NAMES]))
        return len(arrays["class_id"]) - int(np.count_nonzero(touching)) / 2

    @property
    def part_bytes(self) -> int:
        """Of what its tile left on disk."""
        return self.product.parts.path(0, 0).stat().st_size

    def write(self) -> _Written:
        """Make its product, and forget it."""
        start = time.perf_counter()
        jobs._write_products(self.prediction, self.product, lambda _what, _done, _total: None)  # noqa: SLF001
        outputs = self.product.outputs()
        seconds = time.perf_counter() - start
        for output in outputs:
            (self.product.folder / output.path).unlink()
        return _Written(seconds=seconds, size={output.kind: output.bytes for output in outputs})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What making one product took."""

    seconds: float
    size: dict[str, int]
    """Bytes by kind of file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lap:
    """Tiles that were computed together."""

    jobs: list[_Job]
    patches: list[int]
    """Patches of each that the network was given."""
    seconds: float
    """From the first task to the last result."""
    peak_mb: dict[int, int]
    """Largest resident memory so far of each process that took part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """All that was computed."""

    start_seconds: float
    warm: _Lap
    main: _Lap
    slots: int
    """Tiles worked on at once."""
    servers: int
    """Network calls at once."""

    def seconds(self, work: Sequence[int]) -> float:
        """How long tiles of so many patches take, one for each number, judging by the main lap."""
        measured = makespan(self.main.patches, slots=self.slots, servers=self.servers)
        return self.main.seconds * makespan(work, slots=self.slots, servers=self.servers) / (measured or 1.0)


def makespan(work: Iterable[float], *, slots: int, servers: int) -> float:
    """Time until all work is done, in its units: `slots` pieces at once, in order, share `servers` evenly."""
    running: list[float] = []
    now = shared = 0.0  # `shared` is the work each running piece would have had done since the beginning

    def finish() -> None:
        nonlocal now, shared
        busy = len(running)
        done = heapq.heappop(running)
        now += (done - shared) * max(1.0, busy / servers)
        shared = done

    for piece in work:
        if len(running) == slots:
            finish()
        heapq.heappush(running, shared + piece)
    while running:
        finish()
    return now


def _run_tiles(bench: _Bench, execution: Execution, *, began: float) -> _Run:
    with open_executor(execution) as (executor, slots):
        servers = _calls_at_once(bench.runtime, slots(), separate=execution.kind != "threads")

        def lap(windows: list[Window]) -> _Lap:
            return _compute([bench.job(window) for window in windows], bench.runtime, executor, slots)

        first = bench.windows(servers, 1)
        tasks = (bench.job(first[i % len(first)]).task(bench.runtime) for i in range(slots()))
        for _ in run_tasks(executor, _load, tasks, slots=slots):
            pass
        start_seconds = time.time() - began
        warm = lap(first)
        count, side = _sample_size(bench, warm, slots=slots(), servers=servers)
        main = lap(bench.windows(count, side)) if count else warm
        at_once, stop = slots(), time.perf_counter()
    start_seconds += time.perf_counter() - stop
    return _Run(start_seconds=start_seconds, warm=warm, main=main, slots=at_once, servers=servers)


def _calls_at_once(runtime: Runtime, slots: int, *, separate: bool) -> int:
    """Network calls that run side by side: one in each process, or one on each core, or one on all cores."""
    if separate:
        return slots
    if runtime.name.startswith("torch"):
        return max(1, min(runtime.cores, runtime.calls or runtime.cores))
    return 1


def _sample_size(bench: _Bench, warm: _Lap, *, slots: int, servers: int) -> tuple[int, int]:
    """How many windows to measure, of how many patches a side; (0, 0) where the job is too small for more."""
    rate = sum(warm.patches) / warm.seconds
    most = sum(map(bench.patches, bench.plan)) // _SHARE
    wanted = min(max(servers, int(_SECONDS * rate)), most)
    if wanted < servers:
        return 0, 0
    rows = bench.plan.lattice.rows
    longest = max(1, bench.plan.tile_px // (rows.patch_px - rows.overlap_px))
    # Many small windows meet more kinds of land, but what each takes besides the network must not weigh.
    side = max(isqrt(wanted // (_WINDOWS * slots)), isqrt(int(_LONG_ENOUGH * rate / servers)), 1)
    side = min(side, longest)
    return max(servers, wanted // side**2), side


def _compute(todo: list[_Job], runtime: Runtime, executor: Executor, slots: Slots) -> _Lap:
    start = time.perf_counter()
    tasks = (job.task(runtime) for job in todo)
    results = list(run_tasks(executor, _measured, tasks, slots=slots))
    seconds = time.perf_counter() - start
    peak_mb: dict[int, int] = {}
    for result in results:
        peak_mb[result.process] = max(result.peak_mb, peak_mb.get(result.process, 0))
    return _Lap(jobs=todo, patches=[r.patches for r in results], seconds=seconds, peak_mb=peak_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What a worker tells of a tile."""

    patches: int
    process: int
    peak_mb: int


def _measured(task: PredictTask) -> _Result:
    done = predict_tile(task)
    return _Result(patches=done.patches, process=os.getpid(), peak_mb=peak_rss_mb())


def _load(task: PredictTask) -> None:
    load_members(task)


def _look(prediction: Prediction) -> Survey:
    """Where there is data, and an answer is wanted."""
    found, aoi = survey(prediction.scene), prediction.aoi
    if aoi is None or aoi.wkb is None:  # a box is all in the plan
        return found
    cells = Window(0, 0, *found.share.shape)
    inside = replace(aoi, extent=cells).mask(cells, _coarse(prediction.scene.geobox, cells))
    share = found.share * inside
    return replace(found, share=share) if share.any() else found  # an area may be smaller than a cell


def _coarse(geobox: GeoBox, cells: Window) -> GeoBox:
    """The same area in so many pixels."""
    a, b, c, d, e, f = list(geobox.affine)[:6]
    down, across = geobox.shape[0] / cells.height, geobox.shape[1] / cells.width
    affine = Affine(a * across, b * down, c, d * across, e * down, f)
    return GeoBox(cells.shape, affine, geobox.crs)


def _write(bench: _Bench, run: _Run) -> tuple[_Written, _Written, list[_Written]]:
    """What products of nothing took, the first time and the second, and those of some windows."""
    row, col = bench.plan.window.row, bench.plan.window.col
    empty = bench.job(Window(row, col, 1, 1))
    _store_nothing(empty)
    first, again = empty.write(), empty.write()
    return first, again, [job.write() for job in run.main.jobs[:_WRITTEN]]


def _store_nothing(job: _Job) -> None:
    """The part of a tile of one pixel without data."""
    legend = job.prediction.card.legend
    classes = np.full((1, 1), legend.nodata, np.uint8)
    scores = np.full((len(legend), 1, 1), CONFIDENCE_NODATA, np.uint8)
    regions = trace_tile(
        classes,
        confidence=scores[0],
        pixel_area=np.ones((1, 1)),
        core=Window(0, 0, 1, 1),
        nodata=legend.nodata,
    )
    arrays = {"classes": classes, "confidence": scores[0], "probabilities": scores} | regions.to_arrays()
    job.product.parts.write(0, 0, arrays)


def _extrapolate(bench: _Bench, run: _Run, written: tuple[_Written, _Written, list[_Written]]) -> Calibration:
    plan, main = bench.plan, run.main
    work = [bench.patches(tile) for tile in plan]
    valid = bench.look.within(plan.window) * plan.window.size
    everywhere = valid / max(sum(job.valid for job in main.jobs), 1)
    cold, fixed, samples = written
    warming = 0.0 if main is run.warm else run.warm.seconds - run.seconds(run.warm.patches)
    seconds = run.seconds(work)
    patch_px = plan.lattice.rows.length * plan.lattice.cols.length
    return Calibration(
        start_seconds=run.start_seconds + max(cold.seconds - fixed.seconds, 0.0),
        tiles_seconds=seconds + max(warming, 0.0),
        write_seconds=_scaled(fixed.seconds, [s.seconds for s in samples], _more(main, samples, valid)),
        memory_mb=_memory_mb(bench, run),
        scratch_mb=everywhere * sum(job.part_bytes for job in main.jobs) / 1e6,
        output_mb=_output_mb(main, fixed, samples, valid),
        patches=sum(work),
        mpx_per_s=sum(work) * patch_px / 1e6 / seconds if seconds else 0.0,
        measured_patches=sum(main.patches),
        measured_seconds=main.seconds,
    )


def _more(lap: _Lap, samples: list[_Written], valid: float) -> float:
    """How many times the pixels of the samples the whole job has."""
    return valid / max(sum(job.valid for job in lap.jobs[: len(samples)]), 1)


def _scaled(fixed: float, samples: Sequence[float], more: float) -> float:
    """What a whole takes of which there is `more` than of the samples; all take something `fixed` besides."""
    return fixed + more * max(sum(samples) - fixed * len(samples), 0.0)


def _output_mb(lap: _Lap, fixed: _Written, samples: list[_Written], valid: float) -> dict[str, float]:
    """Sizes of the product's files. Polygons are many in one place and few in another: all windows count."""
    more = dict.fromkeys(fixed.size, _more(lap, samples, valid))
    regions = [job.regions for job in lap.jobs]
    per_px = sum(regions) / max(sum(job.valid for job in lap.jobs), 1)
    more["polygons"] = valid * per_px / max(sum(regions[: len(samples)]), 1)
    return {
        kind: _scaled(size, [s.size[kind] for s in samples], more[kind]) / 1e6
        for kind, size in fixed.size.items()
    }


def _memory_mb(bench: _Bench, run: _Run) -> float:
    """What was seen, and what larger tiles take beyond it."""
    seen = dict(run.main.peak_mb)
    here = os.getpid() in seen
    workers = sum(seen.values()) * (1 if here else run.slots / len(seen))
    driver = 0 if here else peak_rss_mb()
    largest = max((job.prediction.plan for job in run.main.jobs), key=lambda plan: plan.largest_reach_px)
    more = _tile_bytes(bench.prediction, bench.plan) - _tile_bytes(bench.prediction, largest)
    return workers + driver + run.slots * max(more, 0) / 1e6


def _tile_bytes(prediction: Prediction, plan: TilePlan) -> int:
    """Memory of a tile that grows with it: what is read and decided, then what is traced."""
    per_px = len(prediction.scene.bands) * np.dtype(prediction.scene.dtype).itemsize + 1
    core = plan.largest_core_px
    return max(plan.largest_reach_px * per_px + 3 * core, _TRACED_BYTES * core)
