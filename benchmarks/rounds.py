"""Contenders measured in turn, round by round, and ratios of what they took."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.jobs import FailedError, Job, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.setting import Setting


@dataclass(slots=True, kw_only=True)
class Rounds:
    """All results of some jobs that differ in their label."""

    rounds: list[dict[str, Result]] = field(default_factory=list)
    """By contender's label, one dictionary for each round."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by label."""

    def measure(self, setting: Setting, jobs: Sequence[Job], *, where: str) -> Iterator[Result]:
        """Runs all jobs in every round, and yields what came of each; one that fails is not tried again."""
        for number in range(setting.rounds):
            self.rounds.append({})
            # Every other round backwards: whatever drifts with time falls on all alike.
            for job in jobs[:: 1 if number % 2 == 0 else -1]:
                if job.label in self.failed:
                    continue
                try:
                    result = setting.run(job)
                except FailedError as error:
                    self.failed[job.label] = str(error)
                    print(f"failed: {job.label}: {error}", flush=True)
                    continue
                self.rounds[-1][job.label] = result
                _tell(f"round {number + 1}, {where}", result)
                yield result

    @property
    def results(self) -> list[Result]:
        """Of all rounds."""
        return [result for one in self.rounds for result in one.values()]

    @property
    def labels(self) -> list[str]:
        """Contenders with at least one result, in order of first appearance."""
        return list(dict.fromkeys(label for one in self.rounds for label in one))

    def all(self, label: str) -> list[Result]:
        """Results of a contender, round by round."""
        return [one[label] for one in self.rounds if label in one]

    def median(self, label: str, take: Callable[[Result], float]) -> float:
        """Of what `take` finds in a contender's results."""
        return median(map(take, self.all(label)))

    def ratio(self, label: str, over: str, *, wall: bool = False) -> tuple[float, ...]:
        """Cost of one contender over that of another, within each round that has both."""
        take: Callable[[Result], float] = (lambda r: r.cost.wall_s) if wall else (lambda r: r.cost.cpu_s)
        return tuple(take(o[label]) / take(o[over]) for o in self.rounds if label in o and over in o)

    def fact(self, label: str, name: str) -> Any:
        """What a contender's first result says of itself under that name; None: nothing."""
        found = self.all(label)
        return found[0].facts.more.get(name) if found else None

    @property
    def failures(self) -> list[str]:
        """A sentence for each contender that failed."""
        return [f"`{label}` failed: {why}" for label, why in self.failed.items()]


def _tell(where: str, result: Result) -> None:
    cost = result.cost
    print(
        f"{where}: {result.job.label}: {cost.cpu_s:.2f} cpu s, {cost.wall_s:.2f} s, {cost.peak_mb:.0f} MB",
        flush=True,
    )
