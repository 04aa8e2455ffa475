"""What a job will take on this machine, from a short run of some of its own windows.

Times and sizes of what was run are scaled to the whole job: times by the patches that hold data, sizes by the
pixels that do.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from geoseg.apart import run_apart
from geoseg.products import kind_of
from geoseg.trial import Bench, Job, Lap, Run, Written, look_at, peak_mb_here, run_trial, store_little
from geoseg.vector.options import FORMATS
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.execute import Execution
    from geoseg.prediction import Prediction
    from geoseg.tasks import Runtime
    from geoseg.tiling import TilePlan

_WRITTEN = 6
"""Windows that are made into products, at most."""
_TIMES = 3
"""How often each is made."""
_COG_BLOCK_PX = 512
"""Rasters have overviews down to this size."""
_OUTLINES = tuple(map(kind_of, FORMATS))
"""Files whose size follows the number of polygons."""
_TRACED_BYTES, _SIMPLIFIED_BYTES = 22, 44
"""Memory of tracing a noisy map, and of simplifying its lines, too, by pixel of a tile's core."""


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
        bench = Bench(prediction=prediction, runtime=runtime, look=look_at(prediction), folder=Path(folder))
        run = run_trial(bench, execution, began=began)
        return _extrapolate(bench, run, _write(bench, run))


def calibrate_apart(prediction: Prediction, *, execution: Execution, runtime: Runtime) -> Calibration:
    """The same in a process of its own: it starts as the job will, and its memory is its alone."""
    return run_apart(calibrate, prediction, execution=execution, runtime=runtime, began=time.time())


def _write(bench: Bench, run: Run) -> tuple[Written, Written, list[Written]]:
    """What products of one pixel took, the first time and later, and those of some windows."""
    row, col = bench.plan.window.row, bench.plan.window.col
    pixel = bench.job(Window(row, col, 1, 1))
    store_little(pixel)
    return pixel.write(), _fastest(pixel), [_fastest(job) for job in run.main.jobs[:_WRITTEN]]


def _fastest(job: Job) -> Written:
    """Of several times: what else runs here can only add to it."""
    return min((job.write() for _ in range(_TIMES)), key=lambda written: written.seconds)


def _extrapolate(bench: Bench, run: Run, written: tuple[Written, Written, list[Written]]) -> Calibration:
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
        write_seconds=fixed.seconds + valid * _seconds_per_px(main, fixed, samples),
        memory_mb=_memory_mb(bench, run),
        scratch_mb=everywhere * sum(job.part_bytes for job in main.jobs) / 1e6,
        output_mb=_output_mb(plan, main, fixed, samples, valid),
        patches=sum(work),
        mpx_per_s=sum(work) * patch_px / 1e6 / seconds if seconds else 0.0,
        measured_patches=sum(main.patches),
        measured_seconds=main.seconds,
    )


def _seconds_per_px(lap: Lap, fixed: Written, samples: list[Written]) -> float:
    """What a pixel adds; the median, for it is little, and anything else that runs here disturbs it."""
    found = [
        (sample.seconds - fixed.seconds) / job.valid
        for job, sample in zip(lap.jobs, samples, strict=False)
        if job.valid
    ]
    return max(median(found), 0.0) if found else 0.0


def _more(lap: Lap, samples: list[Written], valid: float) -> float:
    """How many times the pixels of the samples the whole job has."""
    return valid / max(sum(job.valid for job in lap.jobs[: len(samples)]), 1)


def _scaled(fixed: float, samples: Sequence[float], more: float) -> float:
    """What a whole takes of which there is `more` than of the samples; all take something `fixed` besides."""
    return fixed + more * max(sum(samples) - fixed * len(samples), 0.0)


def _output_mb(
    plan: TilePlan, lap: Lap, fixed: Written, samples: list[Written], valid: float
) -> dict[str, float]:
    """Sizes of the product's files. Polygons are many in one place and few in another: all windows count."""
    pyramid = _pyramid(plan.window) / _pyramid(lap.jobs[0].prediction.plan.window)
    more = dict.fromkeys(fixed.size, pyramid * _more(lap, samples, valid))
    counts, shares = zip(*(job.regions for job in lap.jobs), strict=True)
    per_px = sum(shares) / max(sum(job.valid for job in lap.jobs), 1)
    more |= dict.fromkeys(_OUTLINES, valid * per_px / max(sum(counts[: len(samples)]), 1))
    return {
        kind: _scaled(size, [s.size[kind] for s in samples], more[kind]) / 1e6
        for kind, size in fixed.size.items()
    }


def _pyramid(window: Window) -> float:
    """Pixels of a raster and its overviews, over pixels of the raster."""
    levels = ceil(log2(max(1.0, max(window.shape) / _COG_BLOCK_PX)))
    return sum(0.25**level for level in range(levels + 1))


def _memory_mb(bench: Bench, run: Run) -> float:
    """What was seen, and what larger tiles take beyond it."""
    seen = dict(run.main.peak_mb)
    here = os.getpid() in seen
    workers = sum(seen.values()) * (1 if here else run.slots / len(seen))
    driver = 0 if here else peak_mb_here()
    largest = max((job.prediction.plan for job in run.main.jobs), key=lambda plan: plan.largest_reach_px)
    more = _tile_bytes(bench.prediction, bench.plan) - _tile_bytes(bench.prediction, largest)
    return workers + driver + run.slots * max(more, 0) / 1e6


def _tile_bytes(prediction: Prediction, plan: TilePlan) -> int:
    """Memory of a tile that grows with it: what is read and decided, then what is traced."""
    per_px = len(prediction.scene.bands) * np.dtype(prediction.scene.dtype).itemsize + 1
    core, how = plan.largest_core_px, prediction.tracing
    traced = 0 if how is None else _TRACED_BYTES if how.generalise is None else _SIMPLIFIED_BYTES
    return max(plan.largest_reach_px * per_px + 3 * core, traced * core)
