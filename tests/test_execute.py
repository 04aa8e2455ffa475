"""The sliding window on every executor, real worker processes included."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import Future

import pytest

from geoseg.errors import ExecutionError, SceneError, UsageError
from geoseg.execute import Execution, InlineExecutor, open_executor, run_tasks


def square(x: int) -> int:
    return x * x


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ZeroDivisionError("three")
    return x


def refuse(x: int) -> int:
    raise SceneError(f"scene {x}")


@pytest.mark.parametrize("execution", [Execution(), Execution(threads=3)], ids=lambda e: e.kind)
def test_all_tasks_come_back_once(execution: Execution) -> None:
    with open_executor(execution) as (executor, slots):
        results = sorted(run_tasks(executor, square, range(50), slots=slots))
    assert results == [x * x for x in range(50)]


def test_tasks_are_taken_from_the_source_only_when_there_is_room() -> None:
    taken, running, most = [], 0, 0
    lock = threading.Lock()

    def source():
        for i in range(20):
            taken.append(i)
            yield i

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    with open_executor(Execution(threads=4)) as (executor, _):
        finished = 0
        for _ in run_tasks(executor, work, source(), slots=lambda: 2):
            finished += 1
            assert len(taken) <= finished + 4
    assert finished == 20
    assert most <= 4


@pytest.mark.parametrize("execution", [Execution(), Execution(threads=2)], ids=lambda e: e.kind)
def test_a_failure_names_the_task_after_what_ran_was_kept(execution: Execution) -> None:
    kept = []
    with open_executor(execution) as (executor, slots), pytest.raises(ExecutionError) as caught:
        for result in run_tasks(executor, fail_on_three, range(100), slots=slots):
            kept.append(result)  # noqa: PERF402 - the results before the failure are the point
    assert "a tile failed: 3" in str(caught.value)
    assert "ZeroDivisionError: three" in str(caught.value)
    assert {0, 1, 2} <= set(kept)
    assert len(kept) < 10


def test_errors_of_ours_pass_through_unchanged() -> None:
    with open_executor(Execution()) as (executor, _), pytest.raises(SceneError, match="scene 0"):
        list(run_tasks(executor, refuse, range(5), slots=lambda: 1))


def test_an_executor_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="either --workers"):
        Execution(workers=2, scheduler="tcp://somewhere:8786")
    with pytest.raises(UsageError, match="threads >= 1"):
        Execution(threads=0)


def test_room_is_asked_for_anew_because_workers_come_and_go() -> None:
    asked = iter([1, 1, 4])
    now = 1

    def slots() -> int:
        nonlocal now
        now = next(asked, now)
        return now

    with open_executor(Execution(threads=4)) as (executor, _):
        assert sorted(run_tasks(executor, square, range(10), slots=slots)) == [x * x for x in range(10)]
    assert now == 4


def test_a_lost_cluster_is_an_error_with_a_name() -> None:
    class Lost(InlineExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(ExecutionError, match="ConnectionError: the cluster was lost"):
        list(run_tasks(Lost(), square, [1], slots=lambda: 1))


def test_errors_of_ours_leave_their_cause_behind() -> None:
    """Causes such as GDAL's cannot be pickled, and Dask would turn the whole error into another."""
    with open_executor(Execution(threads=1)) as (executor, slots), pytest.raises(SceneError) as caught:
        list(run_tasks(executor, refuse_with_cause, [1], slots=slots))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args  # noqa: S301 - our own bytes


def refuse_with_cause(x: int) -> int:
    try:
        raise OSError("from far away")
    except OSError as error:
        raise SceneError(f"scene {x}") from error


def test_no_more_tiles_are_in_threads_than_there_is_memory_for() -> None:
    for calls, tiles in ((None, 5), (9, 5), (2, 3), (1, 2)):
        with open_executor(Execution(threads=4), calls=calls) as (_, slots):
            assert slots() == tiles
