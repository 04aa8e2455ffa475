"""Where tile tasks run: in this thread, in threads, in Dask workers. One function submits them all.

Every executor is a `concurrent.futures.Executor`: Dask's client gives one too, so no code below knows where a
task runs. Tasks are submitted in a sliding window, never as one graph of everything: 100,000 futures at once
cost a scheduler minutes and hundreds of megabytes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from geoseg.errors import ExecutionError, GeosegError, UsageError, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

Slots = Callable[[], int]
"""How many tasks can run at once, now."""

_log = logging.getLogger(__name__)

_MOST_THREADS = 8

_CONNECT_SECONDS = 20
"""How long an unanswered call to a scheduler may take."""


def default_threads() -> int:
    """Tiles at once in this process: one for each core, up to eight: each tile takes memory."""
    return min(os.cpu_count() or 1, _MOST_THREADS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where to run, and how many tasks at once."""

    workers: int = 0
    """0: threads of this process, unless `scheduler` is given. N > 0: N Dask worker processes."""
    threads: int = field(default_factory=default_threads)
    """Cores this process uses when there are no worker processes. Tiles have one thread more than that, so
    that one is read or written while others are computed; 1 runs all in line."""
    scheduler: str | None = None
    """Address (tcp://host:port) or scheduler file of a running Dask cluster."""
    resources: tuple[tuple[str, float], ...] = ()
    """Dask resources each tile needs, e.g. (("GPU", 1.0),). Worker processes must offer them."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.threads < 1:
            raise UsageError(f"workers must be >= 0 and threads >= 1, not {self.workers} and {self.threads}")
        if self.workers and self.scheduler:
            raise UsageError(
                "give either --workers (processes of our own) or --scheduler (a running cluster)"
            )

    @property
    def kind(self) -> str:
        """One of serial, threads, processes, cluster."""
        if self.scheduler:
            return "cluster"
        if self.workers:
            return "processes"
        return "threads" if self.threads > 1 else "serial"


class InlineExecutor(Executor):
    """Runs each task when it is submitted, in the calling thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The finished future of `fn(*args, **kwargs)`."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future carries any error to whoever asks for its result
            future.set_exception(error)
        return future


@contextmanager
def open_executor(execution: Execution, *, calls: int | None = None) -> Iterator[tuple[Executor, Slots]]:
    """The executor described, and how many tasks it can run at once, asked anew each time.

    Args:
        execution: where tasks run.
        calls: network calls this process has memory for at once; so many tiles, and one more, are in its
            threads. None: as many as it has threads.

    Raises:
        UsageError: no cluster answers at the address given.
    """
    if execution.kind == "serial":
        yield InlineExecutor(), lambda: 1
    elif execution.kind == "threads":
        tiles = min(execution.threads, calls or execution.threads) + 1
        with ThreadPoolExecutor(tiles, thread_name_prefix="geoseg-tile") as pool:
            yield pool, lambda: tiles
    else:
        with _client(execution) as client:
            _log.info("dask dashboard: %s", client.dashboard_link)
            resources = dict(execution.resources)
            _warn_if_nobody_can(client, resources)
            # pure=False: a task writes a part, so "same arguments" must not mean "already done".
            options = {"pure": False, "retries": 0, **({"resources": resources} if resources else {})}
            yield client.get_executor(**options), _now_and_then(lambda: _slots(client, resources))


def run_tasks(
    executor: Executor, function: Callable[[T], R], tasks: Iterable[T], *, slots: Slots
) -> Iterator[R]:
    """Results of `function(task)` in the order they finish.

    Twice `slots()` tasks are submitted at once, so that no worker waits for the driver.

    The first failure stops the submission of further tasks; those running are waited for, so that what they
    finish is kept, and then the failure is raised.

    Raises:
        GeosegError: as the task raised it.
        ExecutionError: any other failure, naming the task.
    """
    running: dict[Future[R], T] = {}
    failure: tuple[T, BaseException] | None = None
    waiting = iter(tasks)
    while True:
        room = 2 * slots()
        while failure is None and len(running) < room:
            try:
                task = next(waiting)
            except StopIteration:
                break
            running[executor.submit(_guarded, function, task)] = task
        if not running:
            break
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            task = running.pop(future)
            error = _error_of(future)
            if error is None:
                yield future.result()
            elif failure is None:
                failure = (task, error)
    if failure is not None:
        _raise(*failure)


def _guarded(function: Callable[[T], R], task: T) -> R:
    """`function(task)`, with errors of ours that can travel between processes: their causes cannot."""
    try:
        return function(task)
    except GeosegError as error:
        message = str(error)
        kind = type(error)
    raise kind(message)


def _error_of(future: Future[R]) -> BaseException | None:
    """What went wrong with a finished task; a cancelled one was lost together with its cluster."""
    if future.cancelled():
        return ConnectionError("the cluster was lost")
    try:
        return future.exception()
    except CancelledError:
        return ConnectionError("the cluster was lost")


def _raise(task: object, error: BaseException) -> None:
    if isinstance(error, GeosegError):
        raise error
    raise ExecutionError(
        explain(
            "a tile failed",
            at=task,
            expected="a finished part",
            found=f"{type(error).__name__}: {error}",
            change="Mend the cause and run the same command again.",
        )
    ) from error


@contextmanager
def _client(execution: Execution) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if execution.scheduler:
        with _connected(Client, execution.scheduler) as client:
            yield client
        return
    # Waiting OpenMP threads must sleep, not spin: it is read when a worker starts.
    env = {"OMP_WAIT_POLICY": "PASSIVE"}
    worker_resources = dict(execution.resources) or None
    with (
        LocalCluster(
            n_workers=execution.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # None still takes port 8787, and warns when somebody has it
            memory_limit=0,  # a tile's memory is bounded by the plan; pausing workers would only hide a bug
            resources=worker_resources,
            env=env,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connected(client: Any, scheduler: str) -> Any:
    try:
        return client(_address(scheduler), timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            explain(
                "no Dask scheduler answers",
                at=scheduler,
                expected="an address such as tcp://host:8786, or a scheduler file",
                found=str(error) or type(error).__name__,
                change="Start one with `dask scheduler --scheduler-file FILE`, then `dask worker`.",
            )
        ) from error


def _address(scheduler: str) -> str:
    """The address itself, or the one in a scheduler file."""
    path = Path(scheduler)
    if "://" in scheduler or not path.is_file():
        return scheduler
    try:
        return str(json.loads(path.read_text("utf-8"))["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"a file that names no address ({error})") from error


def _abilities(client: Any, resources: dict[str, float]) -> list[int]:
    """Tasks each worker that is there now can run at once; 0 where it lacks a resource."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [
        min([int(w["nthreads"]), *(int(w["resources"].get(k, 0) / v) for k, v in resources.items())])
        for w in workers
    ]


def _now_and_then(slots: Slots) -> Slots:
    """`slots`, asked once a second: a question to the scheduler after every tile costs a millisecond each."""
    known, asked = 0, -math.inf

    def remembered() -> int:
        nonlocal known, asked
        if time.monotonic() - asked > 1:
            known, asked = slots(), time.monotonic()
        return known

    return remembered


def _slots(client: Any, resources: dict[str, float]) -> int:
    """Tasks that can run at once; workers come and go while a job runs."""
    return max(1, sum(_abilities(client, resources)))


def _warn_if_nobody_can(client: Any, resources: dict[str, float]) -> None:
    """Workers may join later, so waiting for them is no error; but nobody should wait without knowing."""
    able = _abilities(client, resources)
    wanted = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
    if not able:
        _log.warning("the Dask cluster has no workers: tiles wait until some join")
    elif not any(able):
        _log.warning("no worker offers %s: tiles wait for `dask worker --resources %s`", wanted, wanted)
