"""The folder beside a package in which an unfinished run keeps its state, to go on from after it was killed.

    OUT.unfinished/
        state.json                   where the run stands, what it belongs to, which files hold the tensors
        tensors-STEP.safetensors     weights, optimiser, random numbers
        best-STEP.safetensors        the weights worth keeping so far
        lock                         held while a process works on it

Tensors go to files of new names, `state.json` is replaced after them, and old files go last: whenever the
process is killed, `state.json` names files that are whole. Nothing in there is ever executed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from geoseg.errors import OutputError, explain
from geoseg.facts import versions
from geoseg.files import replacing, write_text
from geoseg.raster.labels import read_labels
from geoseg.train.record import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from geoseg.train.optimise import Learner
    from geoseg.train.run import Run

_STATE, _LOCK = "state.json", "lock"
_VERSION = 1
_SHOWN = 3
_WITHOUT_EFFECT = ("workers", "checkpoint_minutes")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """The weights worth keeping so far."""

    epoch: Epoch
    """After which they were so."""
    weights: dict[str, Tensor]
    """State of the network, as files take it."""


@dataclass(slots=True, kw_only=True, eq=False)
class State:
    """Where a run stands; together with the learner's tensors it is all that a checkpoint holds."""

    step: int = 0
    """Steps made."""
    losses: list[float] = field(default_factory=list)
    """Of the steps of the epoch that has begun."""
    rate: float = 0.0
    """Learning rate of the last step."""
    waited_s: float = 0.0
    """For windows to be read, in the epoch that has begun."""
    history: list[Epoch] = field(default_factory=list)
    """Epochs that are over."""
    best: Kept | None = None
    """None before the first epoch is over."""


def identity(run: Run, *, threads: int) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had never stopped: plain JSON values."""
    config = run.config.model_dump(mode="json")
    for name in _WITHOUT_EFFECT:
        del config["training"][name]
    areas = (*run.areas, *(area for area, _ in run.validation))
    return {
        "config": config,
        "scenes": {area.scene.name: area.scene.fingerprint for area in areas},
        "labels": _labels(run),
        "device": run.group.device.type,
        "processes": run.group.size,
        "threads": threads,
        "versions": versions("torch", "segmentation-models-pytorch", "numpy"),
    }


def _labels(run: Run) -> str:
    """A hash of what the survey found, class by class, and of all that is validated on."""
    found = hashlib.sha256()
    for array in (run.found.class_px, run.found.mean, run.found.std, *run.found.pixels):
        found.update(array.tobytes())
    for area, window in run.validation:
        found.update(read_labels(area.labels, window).tobytes())
    return found.hexdigest()


class Unfinished:
    """The folder of one run, written by its first process and read by all."""

    def __init__(self, folder: Path, *, who: dict[str, Any], every_s: float | None) -> None:
        self.folder = folder
        self._who = who
        self._every_s = every_s
        self._last = time.monotonic()
        self._best: Kept | None = None

    def restore(self, learner: Learner) -> tuple[State, float] | None:
        """Where the run stands, and the seconds it took so far; the learner is put there. None: at the start.

        Raises:
            OutputError: what lies there belongs to another run, or is damaged.
        """
        path = self.folder / _STATE
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_text("utf-8"))
            self._require_ours(document)
            tensors = load_file(self.folder / document["tensors"])
            state = _state(document, self.folder)
            learner.restore(tensors, document["scale"])
        except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                explain(
                    "the unfinished run cannot be read",
                    at=self.folder,
                    expected=f"{_STATE} and the tensors it names, as an interrupted run left them",
                    found=f"{type(error).__name__}: {error}",
                    change="Start over with --fresh.",
                )
            ) from error
        self._best = state.best
        return state, document["seconds"]

    def offer(self, state: State, learner: Learner, *, seconds: float) -> None:
        """Writes the state if the last time is long enough ago."""
        if self._every_s is not None and time.monotonic() - self._last >= self._every_s:
            self.write(state, learner, seconds=seconds)
            self._last = time.monotonic()

    def write(self, state: State, learner: Learner, *, seconds: float) -> None:
        """Writes the state, and removes the one before."""
        best = state.best
        names = {"tensors": f"tensors-{state.step}-{len(state.history)}.safetensors"}
        _save(self.folder / names["tensors"], learner.tensors())
        if best is not None:
            names["best"] = f"best-{best.epoch.step}.safetensors"
            if best is not self._best:
                _save(self.folder / names["best"], best.weights)
        document = {
            "version": _VERSION,
            "run": self._who,
            "step": state.step,
            "losses": state.losses,
            "rate": state.rate,
            "waited_s": state.waited_s,
            "history": [e.document for e in state.history],
            "best_epoch": best.epoch.epoch if best else None,
            "scale": learner.scale,
            "seconds": seconds,
            **names,
        }
        write_text(self.folder / _STATE, json.dumps(document))
        self._best = best
        for path in self.folder.iterdir():
            if path.name not in {_STATE, _LOCK, *names.values()}:
                path.unlink()

    def _require_ours(self, document: Mapping[str, Any]) -> None:
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        known = json.loads(json.dumps(self._who))
        differing = _differences(known, document["run"])
        if differing:
            more = f", and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            raise OutputError(
                explain(
                    "an unfinished run of something else is in the way",
                    at=self.folder,
                    expected="the same configuration, data, machine set-up and versions",
                    found="; ".join(differing[:_SHOWN]) + more,
                    change="Start over with --fresh, or go back to what it was started with.",
                )
            )


def _state(document: Mapping[str, Any], folder: Path) -> State:
    history = [Epoch.of(d) for d in document["history"]]
    best = None
    if document["best_epoch"] is not None:
        weights = load_file(folder / document["best"])
        best = Kept(epoch=history[document["best_epoch"] - 1], weights=weights)
    return State(
        step=document["step"],
        losses=document["losses"],
        rate=document["rate"],
        waited_s=document["waited_s"],
        history=history,
        best=best,
    )


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary)


def _differences(now: Any, then: Any, where: str = "") -> list[str]:
    """`key: then, now` for everything that is not the same."""
    if now == then:
        return []
    if isinstance(now, dict) and isinstance(then, dict):
        keys = sorted({*now, *then})
        return [
            d for k in keys for d in _differences(now.get(k), then.get(k), f"{where}.{k}" if where else k)
        ]
    return [f"{where} {_short(then)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "..."  # noqa: PLR2004 - a third of a line


@contextmanager
def kept_beside(out: Path, *, fresh: bool, reads_only: bool = False) -> Iterator[Path]:
    """The folder for the unfinished run of the package `out`, for this process alone; goes when that is done.

    Where the block ends with an error, the folder stays if there is a state to go on from. A process that
    `reads_only` leaves all that to another one.

    Raises:
        OutputError: another process is at work there.
    """
    folder = out.absolute().with_name(f"{out.absolute().name}.unfinished")
    if reads_only:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        _hold(lock.fileno(), folder)
        if fresh:
            for path in folder.iterdir():
                if path.name != _LOCK:
                    path.unlink()
        done = False
        try:
            yield folder
            done = True
        finally:
            if done or not (folder / _STATE).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            explain(
                "another process is training this model",
                at=folder,
                expected="no other run with the same output",
                found="its folder is locked",
                change="Wait for it, or choose another output.",
            )
        ) from error
    except OSError:  # a file system without locks
        return


def discard(folder: Path) -> None:
    """Forgets the state: going on from it would end where it ended."""
    (folder / _STATE).unlink(missing_ok=True)
