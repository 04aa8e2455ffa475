"""The process of one measurement: `python -m benchmarks.worker JOB`, with the job as JSON."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.jobs import Job, Result, answer
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


def warm_scene(work: Path) -> Path:
    """Where that scene is."""
    return work / "scenes" / f"scene_{WARM_PX}.tif"


def main() -> None:
    """Set up, warm up, measure, answer."""
    answer(measure(Job.from_json(sys.argv[1])))


def measure(job: Job, *, warm: bool = True) -> Result:
    """The job's result; not warm: the first call pays for what only happens once."""
    module, _, name = CONTENDERS[job.contender].partition(":")
    work: Work = getattr(import_module(module), name)(job)
    if warm:
        with TemporaryDirectory(dir=job.out.parent) as scratch:
            work.prepare(warm_scene(job.work))
            work.run(warm_scene(job.work), Path(scratch) / "warm.tif")
    work.prepare(job.scene)
    with gpu_busy() if job.device != "cpu" else nullcontext([]) as busy:
        facts, cost = measured(lambda: work.run(job.scene, job.out))
    if busy:
        facts = replace(facts, more=facts.more | {"gpu_busy": mean(busy)})
    return Result(job=job, cost=cost, facts=facts)


if __name__ == "__main__":
    main()
