"""One measurement: what runs, on what, in a process of its own; and what came of it.

Jobs travel to workers as JSON, and workers may run in another tool's environment: nothing here imports more
than the standard library.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_MARK = "RESULT "
_SHOWN = 400

Cuts = tuple[list[int], list[int]]
"""Rows and columns at which another patch begins to have a say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A contender on a scene."""

    contender: str
    """Name in `benchmarks.contenders.CONTENDERS`."""
    network: str
    """Name in `benchmarks.specs.NETWORKS`; "" where there is none: a class map becomes polygons."""
    scene: Path
    out: Path
    """Class raster to write, or GeoPackage."""
    work: Path
    """Folder with networks, packages and scenes."""
    cores: int
    """Threads a contender may keep busy."""
    runtime: str = "torch"
    """What runs the network, where the contender has a choice."""
    device: str = "cpu"
    patch_px: int | None = None
    """None: as the contender does by default."""
    overlap_px: int | None = None
    tile_px: int | None = None
    memory: int | None = None
    """Bytes that geoseg may take."""
    connectivity: int = 8
    """Neighbours of a pixel that may belong to its polygon: 4 or 8."""
    tolerance_px: float | None = None
    """Of simplification, where that is the contender's work."""
    start: str = "warm"
    """What has happened before the clock starts. `warm`: everything once, on something small; `fresh`:
    nothing in this process; `first`: nothing, and nothing has been compiled."""

    @property
    def label(self) -> str:
        """Contender and, where it has a choice, runtime."""
        return f"{self.contender} {self.runtime}" if self.contender in HAVE_RUNTIMES else self.contender

    def to_json(self) -> str:
        """One line; `from_json` restores an equal value."""
        return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job in `text`."""
        document = json.loads(text)
        return cls(**document | {name: Path(document[name]) for name in ("scene", "out", "work")})


HAVE_RUNTIMES = frozenset(
    {"forward", "geoseg", "geoseg-all", "geoseg-without-network", "geoseg-by-value", "geoseg-all-by-value"}
)
"""Contenders that run the network in whatever the job names; the others use eager PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a contender tells about its own work."""

    forwarded_px: int | None = None
    """Pixels given to the network, duplicates and padding included; None: it cannot be known."""
    cuts: Cuts = ((), ())  # type: ignore[assignment]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a piece of work took, start-up excluded."""

    cpu_s: float
    """User and system time of the process and of children that have ended."""
    wall_s: float
    peak_mb: float
    """Largest resident memory of the process in its whole life, imports included."""
    start_mb: float
    """Resident memory before the work began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A job that has been run."""

    job: Job
    cost: Cost
    facts: Facts

    def to_json(self) -> str:
        """One line; `from_json` restores an equal value."""
        return json.dumps(
            {
                "job": json.loads(self.job.to_json()),
                "cost": asdict(self.cost),
                "facts": asdict(self.facts),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The result in `text`."""
        document = json.loads(text)
        rows, cols = document["facts"].pop("cuts")
        return cls(
            job=Job.from_json(json.dumps(document["job"])),
            cost=Cost(**document["cost"]),
            facts=Facts(cuts=(list(rows), list(cols)), **document["facts"]),
        )


__all__ = ["Cost", "Cuts", "Facts", "FailedError", "Job", "Result", "answer", "check_call", "replace", "run"]


class FailedError(RuntimeError):
    """A contender's process that ended badly; the message is the end of what it wrote."""


def run(job: Job, *, python: str, timeout_s: float | None = None) -> Result:
    """The job's result, from a fresh process of the interpreter `python`.

    Raises:
        FailedError: the process failed or took longer than `timeout_s`.
    """
    said = check_call([python, "-m", "benchmarks.worker", job.to_json()], timeout_s=timeout_s)
    answers = [line for line in said.splitlines() if line.startswith(_MARK)]
    if not answers:
        raise FailedError(f"no result: {said[-_SHOWN:]}")
    return Result.from_json(answers[-1].removeprefix(_MARK))


def check_call(command: list[str], *, timeout_s: float | None = None) -> str:
    """What a command writes, run from the repository's root as every contender is.

    Raises:
        FailedError: it cannot be started, fails, or takes longer than `timeout_s`.
    """
    try:
        ended = subprocess.run(  # noqa: S603 - interpreters the caller names
            command,
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"not finished after {timeout_s} s") from error
    except OSError as error:
        raise FailedError(f"{command[0]}: {error.strerror}") from error
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}").splitlines()
        raise FailedError(" / ".join(said[-2:])[-_SHOWN:])
    return ended.stdout


def answer(result: Result) -> None:
    """Tell the parent process."""
    print(_MARK + result.to_json(), flush=True)


def environment() -> dict[str, str]:
    """For every contender alike.

    With libgomp's default, threads that wait spin, and on a shared machine the same work costs up to four
    times the CPU time: a finding about OpenMP, not about the tools.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {"OMP_WAIT_POLICY": "PASSIVE", "ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": path}
    return {**os.environ, **fixed}
