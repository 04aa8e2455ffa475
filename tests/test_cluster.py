"""The main job on real Dask worker processes: the same pixels, or a clear failure, never wrong ones."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoseg import execute, jobs
from geoseg.errors import ExecutionError, UsageError
from geoseg.execute import Execution, open_executor, run_tasks
from geoseg.prediction import PredictOptions, prepare
from geoseg.raster.scene import open_scene

TILE_PX = 40
GPU = (("GPU", 1.0),)


@dataclass
class Cluster:
    """A scheduler and workers started by their own commands, as on any machine."""

    folder: Path
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return str(self.folder / "scheduler.json")

    @property
    def address(self) -> str:
        return json.loads(Path(self.file).read_text())["address"]

    def start(self, name: str, program: str, *options: str) -> None:
        arguments = ["--scheduler-file", self.file, *options]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{program}", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            # Tasks defined in this file must be importable there.
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        )

    def start_worker(self, name: str, *options: str) -> None:
        self.start(name, "dask_worker", "--name", name, "--nthreads", "1", "--no-nanny", *options)

    def wait_for_workers(self, count: int) -> None:
        from distributed import Client

        with Client(self.address) as client:
            client.wait_for_workers(count, timeout=60)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()  # nothing of theirs is wanted, and a worker may be slow to leave in good order
        for process in self.processes.values():
            process.wait(30)


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler without workers, in a process of its own."""
    running = Cluster(tmp_path)
    running.start(
        "scheduler", "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"
    )
    try:
        deadline = time.monotonic() + 60
        while not Path(running.file).exists():
            assert time.monotonic() < deadline, "no scheduler within a minute"
            time.sleep(0.02)
        yield running
    finally:
        running.stop()


@pytest.fixture
def scene(make_scene) -> Path:
    return make_scene((150, 170))


@pytest.fixture
def serial(scene, package, tmp_path) -> dict[str, bytes]:
    """The product as one thread makes it."""
    predict(scene, package, tmp_path / "serial", Execution())
    return product_bytes(tmp_path / "serial")


def predict(scene: Path, package: Path, out: Path, execution: Execution) -> jobs.Outcome:
    prediction = prepare(open_scene(scene), package, PredictOptions(tile_px=TILE_PX))
    return jobs.predict(prediction, out, execution=execution)


def product_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "scene_manifest.json"}


def test_own_worker_processes_give_the_bytes_of_one_thread(scene, package, tmp_path, serial) -> None:
    outcome = predict(scene, package, tmp_path / "out", Execution(workers=2))
    assert outcome.manifest.execution["kind"] == "processes"
    assert outcome.manifest.plan["tiles"] == 20
    assert product_bytes(tmp_path / "out") == serial
    with rasterio.open(scene) as dataset:
        valid = (dataset.read() != 0).all(axis=0)
    with rasterio.open(tmp_path / "out" / "scene_classes.tif") as dataset:
        assert np.array_equal(dataset.read(1) != 255, valid)


def test_a_running_cluster_by_address_by_file_by_resource_and_with_a_worker_killed(
    scheduler, scene, package, tmp_path, serial
) -> None:
    scheduler.start_worker("plain")
    scheduler.start_worker("gpu", "--resources", "GPU=1")
    scheduler.wait_for_workers(2)
    by_file = Execution(scheduler=scheduler.file, resources=GPU)
    with open_executor(by_file) as (executor, slots):
        assert slots() == 1  # only the worker that offers it
        assert list(run_tasks(executor, where, range(12), slots=lambda: 2)) == ["gpu"] * 12
    outcome = predict(scene, package, tmp_path / "by file", by_file)
    assert outcome.manifest.execution["kind"] == "cluster"
    assert product_bytes(tmp_path / "by file") == serial

    out, by_address = tmp_path / "out", Execution(scheduler=scheduler.address)
    killer = threading.Thread(target=kill_at_work, args=(scheduler.processes["plain"], out))
    killer.start()
    try:
        outcome = predict(scene, package, out, by_address)
    except ExecutionError as error:  # finished tiles are kept
        assert "a tile failed: scene, tile" in str(error)  # noqa: PT017
        outcome = predict(scene, package, out, by_address)
    killer.join()
    assert scheduler.processes["plain"].wait(30) == -signal.SIGKILL
    assert outcome.fresh
    assert product_bytes(out) == serial
    assert not list(out.glob(".*"))


def kill_at_work(process: subprocess.Popen, out: Path) -> None:
    """Kill -9 as soon as some tiles are finished."""
    deadline = time.monotonic() + 60
    while len(list(out.glob(".scene-*.work/parts/tile_*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()


def where(_: int) -> str:
    """Name of the worker this runs on."""
    from distributed import get_worker

    return str(get_worker().name)


def test_nobody_waits_without_knowing_and_a_deadly_task_is_named(scheduler, caplog) -> None:
    caplog.set_level(logging.WARNING, "geoseg")
    with open_executor(Execution(scheduler=scheduler.address)) as (_, slots):
        assert slots() == 1
    assert "the Dask cluster has no workers: tiles wait" in caplog.text
    for name in ("a", "b", "c", "d", "e"):  # a task is given up with the fourth worker that dies of it
        scheduler.start_worker(name)
    scheduler.wait_for_workers(5)
    with open_executor(Execution(scheduler=scheduler.address, resources=GPU)) as (executor, _):
        waiting = executor.submit(where, 0)
        time.sleep(0.3)
        assert not waiting.done()
        waiting.cancel()
    assert "no worker offers GPU=1: tiles wait for `dask worker --resources GPU=1`" in caplog.text
    with (
        pytest.raises(ExecutionError, match=r"a tile failed: tile 7\. .*KilledWorker.*Mend the cause"),
        open_executor(Execution(scheduler=scheduler.address)) as (executor, slots),
    ):
        list(run_tasks(executor, exit_hard, ["tile 7"], slots=slots))


def exit_hard(_: str) -> None:
    os._exit(3)


@pytest.mark.parametrize("nobody", ["tcp://127.0.0.1:9", "nonsense", "127.0.0.1:9"])
def test_an_address_where_nobody_answers_is_a_usage_error(nobody, monkeypatch) -> None:
    monkeypatch.setattr(execute, "_CONNECT_SECONDS", 0.3)
    with (
        pytest.raises(
            UsageError, match=r"no Dask scheduler answers: .*dask scheduler --scheduler-file"
        ) as caught,
        open_executor(Execution(scheduler=nobody)),
    ):
        pass
    assert caught.value.exit_code == 2
    assert nobody in str(caught.value)


@pytest.mark.parametrize("text", ["not json", "{}", "[1]", '{"address": "tcp://127.0.0.1:9"}'])
def test_a_file_that_leads_to_no_scheduler_is_a_usage_error(tmp_path, monkeypatch, text) -> None:
    monkeypatch.setattr(execute, "_CONNECT_SECONDS", 0.3)
    path = tmp_path / "scheduler.json"
    path.write_text(text)
    with (
        pytest.raises(UsageError, match=r"no Dask scheduler answers: .*scheduler\.json"),
        open_executor(Execution(scheduler=str(path))),
    ):
        pass
