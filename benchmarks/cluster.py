"""Mode `dask`: what Dask adds to each tile, whether its memory grows, whether two workers are as good as one.

Scheduler and workers are processes of their own, as on a cluster, so that the memory of each can be told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import psutil

from benchmarks import jobs, tool
from benchmarks.measure import rss_mb
from benchmarks.report import Verdict, table, verdict_table, write_section

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.jobs import Job
    from benchmarks.setting import Setting

TILES = 10_000
OVERHEAD, GROWTH, THROUGHPUT = 0.01, 1.1, 0.95
_SAMPLES = 20
"""Looks at the processes' memory during the tiles."""
_PATIENCE_S = 60.0


@dataclass(slots=True, kw_only=True)
class Cluster:
    """A scheduler and its workers."""

    scheduler_file: Path
    scheduler: psutil.Process
    workers: list[psutil.Process]

    def cpu_s(self) -> float:
        """User and system seconds of the workers so far."""
        return sum(t.user + t.system for t in (w.cpu_times() for w in self.workers))

    def memory_mb(self) -> tuple[float, float]:
        """Of the scheduler, and of this process, the client."""
        return self.scheduler.memory_info().rss / 2**20, rss_mb()


@dataclass(slots=True, kw_only=True)
class Overhead:
    """What 10,000 tiles that do nothing take."""

    seconds: float
    tiles: int
    memory: list[tuple[int, float, float]] = field(default_factory=list)
    """Tiles done, MB of the scheduler, MB of the client."""

    @property
    def per_tile_s(self) -> float:
        """Wall seconds that each tile keeps the cluster from working."""
        return self.seconds / self.tiles


def nothing(tile: int) -> int:
    """The work of a tile that has none."""
    return tile


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it."""
    setting.require(setting.networks)
    with _cluster(setting, workers=2) as cluster:
        overhead = _overhead(cluster, TILES)
    groups = [_throughput(setting, network, size) for network in setting.networks for size in setting.sizes]
    verdicts = [*_overhead_verdicts(setting, overhead), *(v for group in groups for v in group.verdicts)]
    parts = [
        (
            f"{overhead.tiles} tiles that do nothing, two workers: {overhead.seconds:.1f} s, "
            f"{1000 * overhead.per_tile_s:.2f} ms a tile."
        ),
        verdict_table(verdicts),
        table(
            ["tiles done", "scheduler MB", "client MB"],
            [[str(n), f"{a:.0f}", f"{b:.0f}"] for n, a, b in overhead.memory],
        ),
        *(group.text for group in groups),
    ]
    return write_section(setting.results, "dask", parts)


def _overhead(cluster: Cluster, tiles: int) -> Overhead:
    every = max(1, tiles // _SAMPLES)
    scheduler = str(cluster.scheduler_file)
    for _ in tool.run_tasks(nothing, range(100), scheduler=scheduler):
        pass  # connections are made, code is loaded
    found = Overhead(seconds=0.0, tiles=tiles)
    start = time.perf_counter()
    for done, _ in enumerate(tool.run_tasks(nothing, range(tiles), scheduler=scheduler), start=1):
        if done % every == 0:
            found.memory.append((done, *cluster.memory_mb()))
    found.seconds = time.perf_counter() - start
    return found


def _overhead_verdicts(setting: Setting, overhead: Overhead) -> list[Verdict]:
    """Dask's time over that of the cheapest tile there is: default size, no network, class raster only."""
    network, size = setting.networks[0], setting.sizes[0]
    job = setting.job("geoseg-without-network", network, setting.scene(size), runtime=setting.runtimes[0])
    result = setting.run(jobs.replace(job, cores=1))
    tile_s = result.cost.wall_s / int(result.facts.more["tiles"])
    # From a tenth on: the first tiles fill pools and caches.
    early = max(1, len(overhead.memory) // 10) - 1
    growth = overhead.memory[-1][1] / overhead.memory[early][1]
    return [
        Verdict(
            what=f"Dask over a tile without network ({1000 * tile_s:.0f} ms), {overhead.tiles} tiles",
            required=OVERHEAD,
            found=(overhead.per_tile_s / tile_s,),
            at_most=True,
        ),
        Verdict(
            what=f"scheduler's memory, {overhead.tiles} tiles over {overhead.memory[early][0]}",
            required=GROWTH,
            found=(growth,),
            at_most=True,
        ),
    ]


@dataclass(slots=True, kw_only=True)
class Throughput:
    """Mpx/s of a real job, by round."""

    network: str
    size: int
    by_kind: dict[str, list[float]] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """Two workers against the best single process."""
        single = {k: v for k, v in self.by_kind.items() if k != "two workers"}
        best = max(single, key=lambda k: median(single[k]))
        pairs = zip(self.by_kind["two workers"], single[best], strict=True)
        return [
            Verdict(
                what=f"{self.network} {self.size}: two workers over one process ({best}), Mpx/s",
                required=THROUGHPUT,
                found=tuple(a / b for a, b in pairs),
                at_most=False,
            )
        ]

    @property
    def text(self) -> str:
        """A table."""
        rows = [[kind, f"{median(v):.3f}"] for kind, v in self.by_kind.items()]
        return table([f"{self.network}, {self.size} px", "Mpx/s"], rows)


def _throughput(setting: Setting, network: str, size: int) -> Throughput:
    scene = setting.scene(size)
    found = Throughput(network=network, size=size)
    for _ in range(setting.rounds):
        for runtime in setting.runtimes:
            for cores in dict.fromkeys((1, setting.cores)):
                job = jobs.replace(setting.job("geoseg", network, scene, runtime=runtime), cores=cores)
                found.by_kind.setdefault(f"{runtime}, {cores} cores", []).append(
                    size**2 / 1e6 / setting.run(job).cost.wall_s
                )
        job = setting.job("geoseg", network, scene, runtime=setting.runtimes[0])
        seconds = _two_workers(setting, jobs.replace(job, out=job.out.with_stem(f"{job.out.stem}_two")))
        found.by_kind.setdefault("two workers", []).append(size**2 / 1e6 / seconds)
    return found


def _two_workers(setting: Setting, job: Job) -> float:
    """Wall seconds of the job on two workers that have loaded the network before."""
    from distributed import Client

    with _cluster(setting, workers=2) as cluster:
        with Client(scheduler_file=str(cluster.scheduler_file)) as client:
            client.run(tool.load_in_worker, job)
        start = time.perf_counter()
        tool.predict_on(job, str(cluster.scheduler_file))
        return time.perf_counter() - start


@contextmanager
def _cluster(setting: Setting, *, workers: int) -> Iterator[Cluster]:
    """Processes of our own on this machine, ended with the block."""
    folder = setting.work / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"scheduler-{os.getpid()}.json"
    file.unlink(missing_ok=True)
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(
            _dask(folder, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", file=file)
        )
        _wait_for(file)
        started += [
            _dask(
                folder,
                "worker",
                "--nthreads",
                "1",
                "--no-nanny",
                "--memory-limit",
                "0",
                "--no-dashboard",
                file=file,
            )
            for _ in range(workers)
        ]
        _wait_for_workers(file, workers)
        first, *others = (psutil.Process(process.pid) for process in started)
        yield Cluster(scheduler_file=file, scheduler=first, workers=others)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def _dask(folder: Path, *command: str, file: Path) -> subprocess.Popen[bytes]:
    kind, *rest = command
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "distributed.cli.dask_" + kind, "--scheduler-file", str(file), *rest],
        cwd=folder,
        env=jobs.environment() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_for(file: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        try:
            json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            threading.Event().wait(0.1)
        else:
            return
    raise TimeoutError(f"the scheduler has not written {file} within {_PATIENCE_S:.0f} s")


def _wait_for_workers(file: Path, workers: int) -> None:
    from distributed import Client

    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(workers, timeout=_PATIENCE_S)
