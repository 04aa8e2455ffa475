"""What all modes share: where things are kept, who takes part, and how a job is made of that."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks import jobs, maps, scenes
from benchmarks.jobs import FailedError, Job, Result
from benchmarks.worker import PEERS, WARM_PX, measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_CALIBRATED_ON_PX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One call of the benchmarks."""

    work: Path
    """Scenes, networks, packages and maps; may be kept from call to call."""
    results: Path
    """The Markdown file."""
    rounds: int
    cores: int
    networks: tuple[str, ...]
    sizes: tuple[int, ...]
    runtimes: tuple[str, ...]
    contenders: tuple[str, ...] | None = None
    """Only these; None: all."""
    device: str = "cpu"
    pythons: dict[str, str] = field(default_factory=dict)
    """Interpreter of each peer that does not run in ours."""
    timeout_s: float = 3600.0
    own_maps: tuple[Path, ...] = ()
    """Class maps of one's own (mode polygons)."""
    in_process: bool = False
    """Run all in this process, one after the other, for a quick trial: costs are then not to be compared."""

    def scene(self, size: int, *, noise: bool = True) -> Path:
        """The scene of that size, made if need be."""
        name = f"scene_{size}.tif" if noise else f"flat_{size}.tif"
        return scenes.make_scene(self.work / "scenes" / name, size=size, noise=noise)

    def class_map(self, kind: str, size: int) -> Path:
        """The class map of that kind and size, made if need be."""
        return maps.make_map(self.work / "scenes" / f"{kind}_{size}.tif", kind=kind, size=size)

    def require(self, networks: Iterable[str]) -> None:
        """Makes what jobs on these networks need.

        The card's measurements are made in a process of its own, so that this one stays small.
        """
        self.scene(WARM_PX)
        sample = self.scene(min(_CALIBRATED_ON_PX, *self.sizes))
        for name in networks:
            for make in ("make_network", "make_package"):
                if self.in_process:
                    getattr(import_module("benchmarks.tool"), make)(name, sample, self.work)
                    continue
                code = "import sys, pathlib; from benchmarks import tool; name, *paths = sys.argv[1:]\n"
                code += f"tool.{make}(name, *map(pathlib.Path, paths))"
                jobs.check_call([sys.executable, "-c", code, name, str(sample), str(self.work)])

    def job(self, contender: str, network: str, scene: Path, **more: object) -> Job:
        """A job of this call."""
        made = Job(
            contender=contender,
            network=network,
            scene=scene,
            out=self.work / "maps" / "unnamed.tif",
            work=self.work,
            cores=self.cores,
            device=self.device,
            **more,  # type: ignore[arg-type]
        )
        name = f"{network}_{scene.stem}_{made.label.replace(' ', '_')}.tif"
        path = self.work / "maps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return jobs.replace(made, out=path)

    def run(self, job: Job) -> Result:
        """The result of a job, in a process of its contender's interpreter."""
        job.out.unlink(missing_ok=True)
        if self.in_process:
            return measure(job, warm=False)
        return jobs.run(job, python=self.pythons.get(job.contender, sys.executable), timeout_s=self.timeout_s)

    def peers(self) -> tuple[list[str], dict[str, str]]:
        """Those that can be imported, and why the others cannot."""
        here, missing = [], {}
        for name, module in PEERS.items():
            if self.contenders is not None and name not in self.contenders:
                continue
            try:
                jobs.check_call([self.pythons.get(name, sys.executable), "-c", f"import {module}"])
            except FailedError as error:
                missing[name] = str(error)
            else:
                here.append(name)
        return here, missing

    def keep(self, mode: str, results: Sequence[Result]) -> None:
        """Adds raw results to a file beside the scenes: every round of every run stays readable."""
        path = self.work / f"{mode}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(result.to_json() + "\n" for result in results)


def pythons(named: Iterable[str]) -> dict[str, str]:
    """Interpreters by peer from NAME=PYTHON texts and the environment variable PEERS.

    Raises:
        ValueError: for a text that is not of that form, or a peer nobody knows.
    """
    found = {}
    for text in (*os.environ.get("PEERS", "").split(), *named):
        name, sign, python = text.partition("=")
        if not sign or name not in PEERS:
            raise ValueError(f"{text!r} is not NAME=PYTHON with NAME one of {', '.join(PEERS)}")
        found[name] = python
    return found
