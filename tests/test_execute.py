"""The sliding window on every executor, real worker processes included."""

from __future__ import annotations

import threading
import time

import pytest

from geoseg.errors import ExecutionError, SceneError, UsageError
from geoseg.execute import Execution, open_executor, run_tasks


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
        results = sorted(run_tasks(executor, square, range(50), in_flight=2 * slots))
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
        for _ in run_tasks(executor, work, source(), in_flight=3):
            finished += 1
            assert len(taken) <= finished + 3
    assert finished == 20
    assert most <= 3


@pytest.mark.parametrize("execution", [Execution(), Execution(threads=2)], ids=lambda e: e.kind)
def test_a_failure_names_the_task_after_what_ran_was_kept(execution: Execution) -> None:
    kept = []
    with open_executor(execution) as (executor, slots), pytest.raises(ExecutionError) as caught:
        for result in run_tasks(executor, fail_on_three, range(100), in_flight=slots):
            kept.append(result)  # noqa: PERF402 - the results before the failure are the point
    assert "a tile failed: 3" in str(caught.value)
    assert "ZeroDivisionError: three" in str(caught.value)
    assert {0, 1, 2} <= set(kept)
    assert len(kept) < 10


def test_errors_of_ours_pass_through_unchanged() -> None:
    with open_executor(Execution()) as (executor, _), pytest.raises(SceneError, match="scene 0"):
        list(run_tasks(executor, refuse, range(5), in_flight=1))


def test_an_executor_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="either --workers"):
        Execution(workers=2, scheduler="tcp://somewhere:8786")
    with pytest.raises(UsageError, match="threads >= 1"):
        Execution(threads=0)
