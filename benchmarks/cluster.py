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
from benchmarks.worker import warm_scene

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
_GOODBYE_S = 10.0
_PACED_S = 10.0
_WORKERS = 2
_TWO = "two workers"


@dataclass(slots=True, kw_only=True)
class Cluster:
    """A scheduler with workers."""

    scheduler_file: Path
    scheduler: psutil.Process

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
        """Wall seconds for each tile, whatever the number of workers."""
        return self.seconds / self.tiles

    @property
    def verdict(self) -> Verdict:
        """Growth of the scheduler, from a tenth of the tiles on: the first ones fill pools and caches."""
        early = self.memory[max(1, len(self.memory) // 10) - 1]
        return Verdict(
            what=f"scheduler's memory after {self.tiles} tiles over that after {early[0]}",
            required=GROWTH,
            found=(self.memory[-1][1] / early[1],),
            at_most=True,
        )


def nothing(tile: int) -> int:
    """The work of a tile that has none."""
    return tile


def pause(seconds: float) -> float:
    """The work of a tile that takes so long, and no CPU."""
    time.sleep(seconds)
    return seconds


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it."""
    setting.require(setting.networks)
    tile_s = _cheapest_tile_s(setting)
    with _cluster(setting, workers=_WORKERS) as cluster:
        overhead = _overhead(cluster, TILES)
        added = tuple(_added(cluster, tile_s) for _ in range(setting.rounds))
    groups = [_throughput(setting, network, size) for network in setting.networks for size in setting.sizes]
    verdicts = [
        Verdict(
            what=f"Dask's addition to tiles without network ({1000 * tile_s:.0f} ms each)",
            required=OVERHEAD,
            found=added,
            at_most=True,
        ),
        overhead.verdict,
        *(v for group in groups for v in group.verdicts),
    ]
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


def _cheapest_tile_s(setting: Setting) -> float:
    """Seconds of the cheapest tile there is: default size, one core, no network, class raster only."""
    network, size = setting.networks[0], setting.sizes[0]
    job = setting.job("geoseg-without-network", network, setting.scene(size), runtime=setting.runtimes[0])
    result = setting.run(jobs.replace(job, cores=1))
    return result.cost.wall_s / int(result.facts.more["tiles"])


def _added(cluster: Cluster, tile_s: float) -> float:
    """Share that Dask adds to tiles that only sleep for so long: what it cannot hide behind their work."""
    rounds = max(5, round(_PACED_S / tile_s))
    start = time.perf_counter()
    tiles = [tile_s] * (rounds * _WORKERS)
    for _ in tool.run_tasks(pause, tiles, scheduler=str(cluster.scheduler_file)):
        pass
    return (time.perf_counter() - start) / (rounds * tile_s) - 1


@dataclass(slots=True, kw_only=True)
class Throughput:
    """Mpx/s of a real job, by round."""

    network: str
    size: int
    by_kind: dict[str, list[float]] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """Two workers against the best single process, in the same runtime."""
        single = {kind: rates for kind, rates in self.by_kind.items() if not kind.endswith(_TWO)}
        best = max(single, key=lambda kind: median(single[kind]))
        two = self.by_kind[f"{best.partition(',')[0]}, {_TWO}"]
        return [
            Verdict(
                what=f"{self.network} {self.size}: two workers over one process ({best}), Mpx/s",
                required=THROUGHPUT,
                found=tuple(a / b for a, b in zip(two, single[best], strict=True)),
                at_most=False,
            )
        ]

    @property
    def text(self) -> str:
        """A table."""
        rows = [[kind, f"{median(v):.3f}"] for kind, v in self.by_kind.items()]
        return table([f"{self.network}, {self.size} px", "Mpx/s"], rows)


def _throughput(setting: Setting, network: str, size: int) -> Throughput:
    scene, found = setting.scene(size), Throughput(network=network, size=size)
    for number in range(setting.rounds):
        for runtime in setting.runtimes:
            job = setting.job("geoseg", network, scene, runtime=runtime)
            seconds = {
                f"{runtime}, {cores} cores": setting.run(jobs.replace(job, cores=cores)).cost.wall_s
                for cores in dict.fromkeys((1, setting.cores))
            }
            seconds[f"{runtime}, {_TWO}"] = _two_workers(setting, job)
            for kind, taken in seconds.items():
                found.by_kind.setdefault(kind, []).append(size**2 / 1e6 / taken)
                print(f"round {number + 1}: {kind}: {found.by_kind[kind][-1]:.2f} Mpx/s", flush=True)
    return found


def _two_workers(setting: Setting, job: Job) -> float:
    """Wall seconds of the job on two workers that have loaded what they need before."""
    from distributed import Client

    warm = warm_scene(setting.work)
    job = jobs.replace(job, out=job.out.with_stem(f"{job.out.stem}_two"))
    with _cluster(setting, workers=_WORKERS) as cluster:
        scheduler = str(cluster.scheduler_file)
        with Client(scheduler_file=scheduler) as client:
            client.run(tool.warm_worker, job, warm)
        tool.predict_on(jobs.replace(job, scene=warm), scheduler)  # this process, too, has things to load
        start = time.perf_counter()
        tool.predict_on(job, scheduler)
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
        yield Cluster(scheduler_file=file, scheduler=psutil.Process(started[0].pid))
    finally:
        for process in reversed(started):
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """A worker that cannot say goodbye to its scheduler waits for ever."""
    process.terminate()
    try:
        process.wait(_GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.kill()
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
