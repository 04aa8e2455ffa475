"""Some windows of a job, taken the whole way a tile goes, to see what that takes.

Each window is a small prediction of its own, on the lattice of the scene and on the executor the job would
use: all it takes is what the job itself is made of.
"""

from __future__ import annotations

import heapq
import os
import shutil
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from geoseg import jobs
from geoseg.execute import InlineExecutor, open_executor, run_tasks
from geoseg.outlining import clean
from geoseg.products import Product
from geoseg.regions import EDGE_NAMES
from geoseg.survey import spread, survey
from geoseg.tasks import load_members, predict_tile
from geoseg.vector.tracing import trace_or_find_small
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
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
_MOST_WINDOWS = 256
_ONE_TILE = 1 << 40
"""A tile size that no scene has: all that is wanted is one tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured, and where."""

    prediction: Prediction
    runtime: Runtime
    look: Survey
    folder: Path

    @property
    def plan(self) -> TilePlan:
        """Of the whole job."""
        return self.prediction.plan

    def windows(self, count: int, side: int) -> list[Window]:
        """Up to `count` windows, each what `side` x `side` patches decide, spread over the data."""
        lattice, wanted = self.plan.lattice, self.plan.window

        def place(row: float, col: float) -> Window:
            run = _run(lattice.rows, row, side), _run(lattice.cols, col, side)
            return lattice.support(*run).intersect(wanted)

        return spread(self.look, count, wanted=wanted, place=place, extent=lambda window: window)

    def job(self, window: Window) -> Job:
        """The prediction of one window, all in one tile."""
        plan = replace(self.plan, extent=window, tile_px=_ONE_TILE)
        prediction = replace(self.prediction, plan=plan)
        stem = f"{window.row}-{window.col}-{window.height}-{window.width}"
        product = Product(folder=self.folder, stem=stem, job=prediction.job, attempt="calibration")
        return Job(prediction=prediction, product=product)

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
class Job:
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
    def regions(self) -> tuple[int, float]:
        """Regions of one class, and as many if those that reach a side, and go on beyond, count half."""
        if self.prediction.options.polygons is None:
            return 0, 0.0
        self._clean()
        arrays = jobs.outlined_parts(self.prediction, self.product).read(0, 0, "class_id", *EDGE_NAMES)
        touching = np.unique(np.concatenate([arrays[name][0] for name in EDGE_NAMES]))
        count = len(arrays["class_id"])
        return count, count - int(np.count_nonzero(touching)) / 2

    @property
    def part_bytes(self) -> int:
        """Of what its tile left on disk, after the minimum mapping unit, too."""
        stores = (self.product.parts, self.product.clean_stores.cleaned)
        paths = (store.path(0, 0) for store in stores)
        return sum(path.stat().st_size for path in paths if path.exists())

    def write(self) -> Written:
        """Make its product, and forget it."""
        shutil.rmtree(self.product.clean_stores.cleaned.folder, ignore_errors=True)
        start = time.perf_counter()
        self._clean()
        jobs.write_products(self.prediction, self.product, lambda _what, _done, _total: None)
        outputs = self.product.outputs()
        seconds = time.perf_counter() - start
        for output in outputs:
            (self.product.folder / output.path).unlink()
        return Written(seconds=seconds, size={output.kind: output.bytes for output in outputs})

    def _clean(self) -> None:
        """The minimum mapping unit, if there is one and it has not been done."""
        tasks = jobs.clean_tasks(self.prediction, self.product)
        if tasks:
            clean(tasks, InlineExecutor(), lambda: 1, on_done=lambda _finished: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What making one product took."""

    seconds: float
    size: dict[str, int]
    """Bytes by kind of file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """Tiles that were computed together."""

    jobs: list[Job]
    patches: list[int]
    """Patches of each that the network was given."""
    seconds: float
    """From the first task to the last result."""
    peak_mb: dict[int, int]
    """Largest resident memory so far of each process that took part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that was computed."""

    start_seconds: float
    warm: Lap
    main: Lap
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


def run_trial(bench: Bench, execution: Execution, *, began: float) -> Run:
    """Loads the network, warms it up on one window per call at once, then computes what is measured.

    `began` is when the process was asked for (`time.time`).
    """
    with open_executor(execution, calls=bench.runtime.calls) as (executor, slots):
        servers = _calls_at_once(bench.runtime, slots(), separate=execution.kind != "threads")

        def lap(windows: list[Window]) -> Lap:
            todo = [bench.job(window) for window in windows]
            return _compute(todo, bench.runtime, executor, slots, least=servers)

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
    return Run(start_seconds=start_seconds, warm=warm, main=main, slots=at_once, servers=servers)


def _calls_at_once(runtime: Runtime, slots: int, *, separate: bool) -> int:
    """Network calls that run side by side: one in each process, or one on each core, or one on all cores."""
    if separate:
        return slots
    if runtime.name.startswith("torch"):
        return max(1, min(runtime.cores, runtime.calls or runtime.cores))
    return 1


def _sample_size(bench: Bench, warm: Lap, *, slots: int, servers: int) -> tuple[int, int]:
    """How many windows to measure, at most, of how many patches a side; (0, 0) where the job is too small."""
    rate = sum(warm.patches) / warm.seconds
    most = sum(map(bench.patches, bench.plan)) // _SHARE
    if most < servers:
        return 0, 0
    likely = min(max(servers, int(_SECONDS * rate)), most)
    rows = bench.plan.lattice.rows
    longest = max(1, bench.plan.tile_px // (rows.patch_px - rows.overlap_px))
    # Many small windows meet more kinds of land, but what each takes besides the network must not weigh.
    side = max(isqrt(likely // (_WINDOWS * slots)), isqrt(int(_LONG_ENOUGH * rate / servers)), 1)
    side = min(side, longest)
    return min(max(servers, most // side**2), _MOST_WINDOWS), side


def _compute(todo: list[Job], runtime: Runtime, executor: Executor, slots: Slots, *, least: int) -> Lap:
    """What was done of `todo` in the time there is: `least` in any case."""
    start = time.perf_counter()
    begun: list[Job] = []

    def tasks() -> Iterator[PredictTask]:
        for job in todo:
            if len(begun) >= least and time.perf_counter() - start > _SECONDS:
                return
            begun.append(job)
            yield job.task(runtime)

    results = {result.folder: result for result in run_tasks(executor, _measured, tasks(), slots=slots)}
    seconds = time.perf_counter() - start
    peak_mb: dict[int, int] = {}
    for result in results.values():
        peak_mb[result.process] = max(result.peak_mb, peak_mb.get(result.process, 0))
    patches = [results[str(job.product.parts.folder)].patches for job in begun]
    return Lap(jobs=begun, patches=patches, seconds=seconds, peak_mb=peak_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What a worker tells of a tile."""

    folder: str
    """Of its part: which tile it is."""
    patches: int
    process: int
    peak_mb: int


def _measured(task: PredictTask) -> _Result:
    done = predict_tile(task)
    return _Result(
        folder=str(task.store.folder), patches=done.patches, process=os.getpid(), peak_mb=peak_mb_here()
    )


def peak_mb_here() -> int:
    """Largest resident memory of this process so far; not that of its parent, which `getrusage` may tell."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
        return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    except (OSError, ValueError, IndexError):  # another system
        return round(getrusage(RUSAGE_SELF).ru_maxrss / 1024)


def _load(task: PredictTask) -> None:
    load_members(task)


def look_at(prediction: Prediction) -> Survey:
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


def store_little(job: Job) -> None:
    """The part of a tile of one pixel."""
    legend = job.prediction.card.legend
    classes = np.full((1, 1), legend.classes[0].id, np.uint8)
    scores = np.zeros((len(legend), 1, 1), np.uint8)
    arrays = {"classes": classes, "confidence": scores[0], "probabilities": scores}
    how = job.prediction.tracing
    if how is not None:
        arrays |= trace_or_find_small(
            classes, confidence=scores[0], pixel_area=np.ones((1, 1)), core=Window(0, 0, 1, 1), how=how
        )
    job.product.parts.write(0, 0, arrays)
