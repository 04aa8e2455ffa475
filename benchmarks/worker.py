"""The process of one measurement: `python -m benchmarks.worker JOB`, with the job as JSON."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.jobs import Facts, Job, Result, answer
from benchmarks.measure import gpu_busy, measured

if TYPE_CHECKING:
    from benchmarks.contenders import Work

CONTENDERS = {
    "whole": "benchmarks.contenders:whole",
    "naive": "benchmarks.contenders:naive",
    "dask_overlap": "benchmarks.contenders:dask_overlap",
    "read": "benchmarks.contenders:read",
    "forward": "benchmarks.contenders:forward",
    "geoseg": "benchmarks.contenders:geoseg",
    "geoseg-all": "benchmarks.contenders:geoseg_all",
    "geoseg-without-network": "benchmarks.contenders:geoseg_without_network",
    "geoseg-by-value": "benchmarks.flat:geoseg_by_value",
    "geoseg-all-by-value": "benchmarks.flat:geoseg_all_by_value",
    "geoseg-in-memory": "benchmarks.tool:polygons_in_memory",
    "geoseg-gpkg": "benchmarks.tool:polygons_in_geopackage",
    "geoseg-simplify": "benchmarks.tool:simplified_in_memory",
    "gdal-c": "benchmarks.vectors:gdal_c",
    "gdal-c-in-memory": "benchmarks.vectors:gdal_c_in_memory",
    "script": "benchmarks.vectors:script",
    "coverage-simplify": "benchmarks.vectors:coverage_simplify",
    "monai": "benchmarks.peers:monai",
    "torchgeo": "benchmarks.peers:torchgeo",
    "terratorch": "benchmarks.peers:terratorch",
    "rastervision": "benchmarks.peers:rastervision",
    "geo_inference": "benchmarks.peers:geo_inference",
}
"""Where each contender is set up; imported only in the process that runs it."""
PEERS = {
    "monai": "monai.inferers",
    "torchgeo": "torchgeo.samplers",
    "terratorch": "terratorch.tasks.tiled_inference",
    "rastervision": "rastervision.pytorch_learner",
    "geo_inference": "geo_inference.geo_inference",
}
"""Other tools, and what must be importable to run them."""
WARM_PX = 640
"""Side of the small scene on which everything runs once before it is timed."""
WARM_MAP_PX = 2304
"""Side of the small class map, likewise: more than one tile of geoseg."""


def warm_scene(work: Path) -> Path:
    """Where that scene is."""
    return work / "scenes" / f"scene_{WARM_PX}.tif"


def warm_map(work: Path) -> Path:
    """The class map that stands for it where there is no network."""
    return work / "scenes" / f"clean_{WARM_MAP_PX}.tif"


def main() -> None:
    """Set up, warm up, measure, answer."""
    job = Job.from_json(sys.argv[1])
    with TemporaryDirectory() as compiled:
        if job.start == "first":
            os.environ["NUMBA_CACHE_DIR"] = compiled  # read when numba is imported
        answer(measure(job))


def measure(job: Job, *, warm: bool = True) -> Result:
    """The job's result; not warm: the first call pays for what only happens once."""
    if job.start != "warm":
        return _from_nothing(job)
    work = _set_up(job)
    if warm:
        small = warm_scene(job.work) if job.network else warm_map(job.work)
        with TemporaryDirectory(dir=job.out.parent) as scratch:
            work.prepare(small)
            work.run(small, Path(scratch) / f"warm{job.out.suffix}")
    work.prepare(job.scene)
    with gpu_busy() if job.device != "cpu" else nullcontext([]) as busy:
        facts, cost = measured(lambda: work.run(job.scene, job.out))
    if busy:
        facts = replace(facts, more=facts.more | {"gpu_busy": mean(busy)})
    facts = replace(facts, more=facts.more | work.check(job.scene, job.out))
    return Result(job=job, cost=cost, facts=facts)


def _from_nothing(job: Job) -> Result:
    """The job's result, where imports, loading and first calls count."""

    def everything() -> Facts:
        work = _set_up(job)
        work.prepare(job.scene)
        return work.run(job.scene, job.out)

    facts, cost = measured(everything)
    return Result(job=job, cost=cost, facts=facts)


def _set_up(job: Job) -> Work:
    module, _, name = CONTENDERS[job.contender].partition(":")
    work: Work = getattr(import_module(module), name)(job)
    return work


if __name__ == "__main__":
    main()
