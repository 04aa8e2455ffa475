"""Which runtime runs the network: the fastest that agrees with the reference on real pixels of the scene.

The reference is PyTorch in float32, or ONNX Runtime where a package is an ONNX graph only. Others must give
practically every pixel the same class, and be clearly faster; what cannot be loaded or fails is left out, and
the reason is told. The outcome is remembered for the package, the machine and the versions involved.
"""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from geoseg.apart import run_apart
from geoseg.cache import recall, remember
from geoseg.errors import ExecutionError, GeosegError
from geoseg.inference import DecidingPredictor
from geoseg.survey import SAMPLE_PX, Sample, sample_count, sample_patches, sample_shape
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from geoseg.inference import Predictor
    from geoseg.matching import Mapping
    from geoseg.package import Card
    from geoseg.raster.scene import Scene
    from geoseg.tiling import TilePlan

MOST_DIFFERENT = 1e-4
"""A runtime that gives a larger share of the sample's pixels another class than the reference is not used."""
LEAST_GAIN = 1.1
"""Nor is one that is not faster than the reference by this factor."""
LEAST_PX = round(1 / MOST_DIFFERENT)
"""In a sample with fewer valid pixels a single one would decide."""
_ROUNDS = 3
_SECONDS = 10.0
"""No further round begins after this time."""
_BRIEF = 0.1
"""Seconds: what is over sooner is repeated, for clocks and schedulers are not that even."""
_MOST_REPEATS = 16
_WORTH_PX = 48 * SAMPLE_PX
"""A contest forwards its sample about 16 times, and saves about a third of the work: it pays from three times
that on, and every later job has its outcome for nothing."""
_UNTRIED = {"torch-compile": "not tried: compiling takes longer than a contest may; ask for it by name"}
_INVOLVED = ("geoseg", "torch", "onnxruntime", "onnxruntime-gpu", "openvino")


class Loader(Protocol):
    """`geoseg.models.runtime.load_predictor`, or what stands in for it."""

    def __call__(self, package: Path, /, *, runtime: str, device: str, cores: int) -> tuple[Card, Predictor]:
        """The package's card, and its network in the named runtime."""


class Trial(Value):
    """How one runtime did."""

    name: str
    differs: float | None = Field(
        default=None,
        description="Share of the sample's valid pixels with another class than the reference gives",
    )
    max_difference: float | None = Field(default=None, description="Largest difference of a logit there")
    mpx_per_s: float | None = Field(default=None, description="Median, all cores together; None: not timed")
    problem: str | None = Field(default=None, description="Why it cannot be used; None: it can")


class Choice(Value):
    """The runtime to use, and why; plain enough for a manifest."""

    name: str
    reason: str
    trials: tuple[Trial, ...] = Field(default=(), description="The reference first; empty: no contest")
    sample_px: int = Field(default=0, description="Valid pixels of the sample")
    remembered: bool = Field(default=False, description="The contest was held in an earlier run")


def choose_for(
    scene: Scene,
    package: Path,
    card: Card,
    plan: TilePlan,
    *,
    device: str,
    cores: int,
    mapping: Mapping | None = None,
) -> Choice:
    """The runtime for a job: remembered, or found by a contest on its own pixels where that pays.

    Raises:
        SceneError: the scene cannot be read.
    """
    count = sample_count(cores)
    earlier = recall_choice(card, sample_shape(plan, count), device=device, cores=cores)
    if earlier is not None:
        return earlier
    if not worth_choosing(plan.forwarded_px):
        return Choice(name=reference_of(card), reason="the job is too small for a contest to pay")
    sample = sample_patches(scene, card, plan, count, mapping=mapping)
    if (found := int(sample.valid.sum())) < LEAST_PX:
        return Choice(
            name=reference_of(card), reason=f"a sample of the scene holds {found:,} valid pixels only"
        )
    try:
        # Apart: what loses must not stay in memory, and a runtime that dies must not take the job with it.
        return run_apart(choose_runtime, package, card, sample, device=device, cores=cores)
    except GeosegError as error:
        return Choice(name=reference_of(card), reason=f"the contest could not be held ({error})")


def worth_choosing(forwarded_px: int) -> bool:
    """True where a contest costs less than the faster runtime it may find would save in this one job."""
    return forwarded_px >= _WORTH_PX


def reference_of(card: Card) -> str:
    """The runtime whose answers the others are held against."""
    if card.architecture is not None:
        return "torch"
    alone = find_spec("onnxruntime") is None and find_spec("openvino") is not None
    return "openvino" if alone else "onnxruntime"


def choose_runtime(
    package: Path,
    card: Card,
    sample: Sample,
    *,
    device: str,
    cores: int,
    load: Loader | None = None,
    runtimes: Sequence[str] | None = None,
) -> Choice:
    """The fastest runtime that agrees with the reference on the sample; the reference unless that pays.

    Args:
        package: where the network is.
        card: what the package says about itself.
        sample: patches of a scene, as `sample_patches` takes them; answers are compared where they are valid.
        device: one of cpu, cuda, cuda:N, auto.
        cores: CPU cores the job may use; the contest is held with all of them busy.
        load: loads a package into a runtime; None: `geoseg.models.runtime.load_predictor`.
        runtimes: who takes part; None: all there are on this machine.

    Raises:
        GeosegError: the reference itself cannot be loaded or run, so the job could not be either.
    """
    shape = sample.valid.shape[1:]
    earlier = recall_choice(card, shape, device=device, cores=cores)
    if earlier is not None:
        return earlier
    reference = reference_of(card)
    others = [
        name
        for name in runtimes or _available(device)
        if name != reference and not (card.architecture is None and name.startswith("torch"))
    ]
    if not set(others) - set(_UNTRIED):
        return Choice(name=reference, reason="there is no other runtime here")
    with ThreadPoolExecutor(cores, thread_name_prefix="geoseg-contest") as pool:
        contest = _Contest(package=package, sample=sample, device=device, cores=cores, pool=pool)
        trials = contest.hold([reference, *others], load or _load)
    choice = decide_contest(trials, sample_px=contest.sample_px)
    remember(_key(card, shape, device=device, cores=cores), choice.model_dump(mode="json"))
    return choice


def recall_choice(card: Card, shape: tuple[int, ...], *, device: str, cores: int) -> Choice | None:
    """What an earlier contest on patches of `shape` found under the same circumstances, if there was one."""
    entry = recall(_key(card, shape, device=device, cores=cores))
    try:
        return None if entry is None else Choice.model_validate(entry).model_copy(update={"remembered": True})
    except ValidationError:  # an entry from before the record was changed
        return None


def decide_contest(trials: Sequence[Trial], *, sample_px: int) -> Choice:
    """The choice that follows from the trials, the reference's first."""
    reference, *others = trials
    base = reference.mpx_per_s or 0.0
    fit = [t for t in others if t.problem is None and t.mpx_per_s]
    best = max(fit, key=lambda t: t.mpx_per_s or 0.0, default=reference)
    if best is reference or (best.mpx_per_s or 0.0) <= LEAST_GAIN * base:
        told = "; ".join(f"{t.name}: {_outcome(t, base)}" for t in others)
        return Choice(
            name=reference.name,
            reason=f"no other is {100 * (LEAST_GAIN - 1):.0f} % faster and agrees ({told})",
            trials=tuple(trials),
            sample_px=sample_px,
        )
    return Choice(
        name=best.name,
        reason=f"{_outcome(best, base)} as {reference.name}, and gives {100 * (best.differs or 0):.4f} % of "
        f"the sample's pixels another class",
        trials=tuple(trials),
        sample_px=sample_px,
    )


def _outcome(trial: Trial, base: float) -> str:
    if trial.problem is not None:
        return trial.problem
    return f"{(trial.mpx_per_s or 0.0) / base:.2f} times as fast" if base else "not timed"


_Answer = tuple[NDArray[np.float32], NDArray[np.intp]]
"""Logits, and the index of the highest."""


@dataclass(slots=True, kw_only=True)
class _Entrant:
    """A runtime that takes part, and what has been found out about it."""

    name: str
    race: Callable[[], object] | None = None
    """Labels the sample once; None: not loaded, or failed."""
    differs: float | None = None
    max_difference: float | None = None
    speeds: list[float] = field(default_factory=list)
    problem: str | None = None

    @property
    def trial(self) -> Trial:
        return Trial(
            name=self.name,
            differs=self.differs,
            max_difference=self.max_difference,
            mpx_per_s=round(median(self.speeds), 4) if self.speeds else None,
            problem=self.problem,
        )


@dataclass(slots=True, kw_only=True)
class _Contest:
    """All runtimes on one sample: first whether they agree, which warms them up, then how fast they are."""

    package: Path
    sample: Sample
    device: str
    cores: int
    pool: Executor

    @property
    def sample_px(self) -> int:
        """Those that answers are compared on."""
        return int(self.sample.valid.sum())

    def hold(self, names: Sequence[str], load: Loader) -> list[Trial]:
        start = time.perf_counter()
        entrants = [_Entrant(name=name, problem=_UNTRIED.get(name)) for name in names]
        truth: list[_Answer] = []
        for entrant in entrants:
            if entrant.problem is None:
                self._guard(entrant, entrants[0], lambda e: self._enter(e, load, truth))
        for _ in range(_ROUNDS):
            # One round after the other, so that what else the machine does meets all of them.
            for entrant in entrants:
                if entrant.race is not None:
                    self._guard(entrant, entrants[0], self._lap)
            if time.perf_counter() - start > _SECONDS:
                break
        return [entrant.trial for entrant in entrants]

    def _guard(self, entrant: _Entrant, reference: _Entrant, step: Callable[[_Entrant], None]) -> None:
        """What goes wrong with a runtime is a reason not to use it; without the reference there is no job."""
        try:
            step(entrant)
        except Exception as error:
            if entrant is reference:
                raise
            entrant.race = None
            entrant.problem = _in_words(error)

    def _enter(self, entrant: _Entrant, load: Loader, truth: list[_Answer]) -> None:
        """Load a runtime and hold its answers against `truth`, the reference's; the first fills it."""
        _, predictor = load(self.package, runtime=entrant.name, device=self.device, cores=self.cores)
        answers = self.pool.map(lambda patch: _answer(predictor(patch)), self._patches())
        if truth:
            counts, differences = zip(*map(_compare, answers, truth, self.sample.valid), strict=True)
            entrant.differs = sum(counts) / max(self.sample_px, 1)
            entrant.max_difference = max(differences)
        else:
            truth.extend(answers)
            entrant.differs = entrant.max_difference = 0.0
        if entrant.differs > MOST_DIFFERENT:
            entrant.problem = (
                f"gives {100 * entrant.differs:.3f} % of the sample's pixels another class, "
                f"{100 * MOST_DIFFERENT:g} % are allowed"
            )
        entrant.race = self._race(predictor)

    def _race(self, predictor: Predictor) -> Callable[[], object]:
        """A function that labels the sample once, with as many calls at once as the runtime admits."""
        if isinstance(predictor, DecidingPredictor):  # on its device, and only the decision comes back
            decide = predictor.decide
            return lambda: decide(self.sample.pixels, "probability")
        return lambda: deque(self.pool.map(predictor, self._patches()), maxlen=0)

    def _lap(self, entrant: _Entrant) -> None:
        start, passes, seconds = time.perf_counter(), 0, 0.0
        while entrant.race and (passes == 0 or (seconds < _BRIEF and passes < _MOST_REPEATS)):
            entrant.race()
            passes, seconds = passes + 1, time.perf_counter() - start
        entrant.speeds.append(passes * self.sample.valid.size / 1e6 / max(seconds, 1e-9))

    def _patches(self) -> Iterator[NDArray[np.float32]]:
        pixels = self.sample.pixels
        return (pixels[i : i + 1] for i in range(len(pixels)))


def _answer(logits: NDArray[np.float32]) -> _Answer:
    if not np.isfinite(logits).all():
        raise ExecutionError("returns scores that are not finite")
    return logits, logits.argmax(axis=1)


def _compare(answer: _Answer, truth: _Answer, valid: NDArray[np.bool_]) -> tuple[int, float]:
    """Valid pixels whose highest score is another class's, and the largest difference of a score there."""
    if answer[0].shape != truth[0].shape:
        raise ExecutionError(f"returns scores of shape {answer[0].shape}, not {truth[0].shape}")
    differs = np.count_nonzero((answer[1] != truth[1]) & valid)
    return int(differs), float(np.abs(answer[0] - truth[0]).max(initial=0.0, where=valid))


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, GeosegError) else f"{type(error).__name__}: {text}"


def _available(device: str) -> Sequence[str]:
    from geoseg.models.runtime import available_runtimes

    return tuple(available_runtimes(device))


def _load(package: Path, /, *, runtime: str, device: str, cores: int) -> tuple[Card, Predictor]:
    from geoseg.models.runtime import load_predictor

    return load_predictor(package, runtime=runtime, device=device, cores=cores)


def _key(card: Card, shape: tuple[int, ...], *, device: str, cores: int) -> dict[str, Any]:
    """Everything the outcome of a contest may depend on."""
    return {
        "about": "runtime",
        "card": card.fingerprint,
        "patch": list(shape),
        "device": device,
        "cores": cores,
        "versions": {name: _version(name) for name in _INVOLVED},
        "machine": _machine(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "limits": [MOST_DIFFERENT, LEAST_GAIN],
        "compared": "valid pixels",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _machine() -> list[str]:
    """The models of the processor and of the GPUs, as far as the system tells without any library."""
    files = [Path("/proc/cpuinfo"), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    found = [platform.machine(), platform.processor()]
    for path in files:
        with suppress(OSError):
            lines = path.read_text("utf-8", errors="replace").splitlines()
            names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model"))
            found += sorted(set(names))
    return found
