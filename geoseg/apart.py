"""A function run in a Python process of its own, for what would stay in this one: libraries, memory, threads.

Not `multiprocessing`: that runs the caller's script again in the new process, unless it is written for it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from geoseg.errors import ExecutionError, GeosegError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def run_apart(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)`, computed by a new process that ends with it.

    The function is one of ours, by its name; arguments and result are copied.

    Raises:
        GeosegError: as the function raised it.
        ExecutionError: anything else went wrong there, the death of the process included.
    """
    with TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True) as folder:
        answer = Path(folder) / "answer"
        done = subprocess.run(  # noqa: S603 - this very program
            [sys.executable, "-P", "-m", "geoseg.apart", str(answer)],
            input=pickle.dumps((function, args, kwargs)),
            capture_output=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            check=False,
        )
        if done.returncode == 0:
            result, error = pickle.loads(answer.read_bytes())  # noqa: S301 - written by the process above
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    raise ExecutionError(
        explain(
            "a process of ours failed",
            at=function.__qualname__,
            expected="its result",
            found=f"exit code {done.returncode}{': ' if last else ''}{''.join(last)}",
            change="Try again; what it says may tell more.",
        )
    )


def _answer(path: Path) -> None:
    """Do what standard input asks for, and leave the result, or an error of ours, at `path`."""
    function, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this
    outcome: tuple[object, GeosegError | None]
    try:
        outcome = function(*args, **kwargs), None
    except GeosegError as error:
        outcome = None, error.with_traceback(None)
    path.write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
