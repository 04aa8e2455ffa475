"""Mode `run`: geoseg against the bare network, a naive loop and other tools, in alternated rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.compare import Difference, difference
from benchmarks.measure import available_mb
from benchmarks.report import Verdict, share, table, verdict_table, write_section
from benchmarks.rounds import Rounds
from benchmarks.worker import PEERS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.jobs import Job
    from benchmarks.setting import Setting

ALWAYS = ("read", "naive", "dask_overlap")
OURS = ("forward", "geoseg", "geoseg-all", "geoseg-without-network")
MAPLESS = frozenset({"forward", "read", "geoseg-without-network"})
"""Their map, if there is one, means nothing."""
_BYTES_PER_PX = 700
"""Memory of the whole-image forward of the largest network here, per pixel."""
FORWARD_SHARE = {"resnet18": 0.92, "light": 0.85}
COST_OF_NAIVE = {"resnet18": 0.75, "light": 0.45}
COST_OF_PEER = 0.5
AROUND_SHARE = 0.05


@dataclass(slots=True, kw_only=True)
class Group(Rounds):
    """All results of one network on one scene."""

    network: str
    size: int
    differences: dict[str, Difference] = field(default_factory=dict)
    """From the whole-image forward, by label."""

    @property
    def fastest(self) -> str | None:
        """The runtime in which geoseg takes the least time."""
        ours = [label for label in self.labels if label.split()[0] == "geoseg"]
        if not ours:
            return None
        return min(ours, key=lambda label: median(r.cost.wall_s for r in self.all(label))).split()[1]


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it."""
    setting.require(setting.networks)
    peers, missing = setting.peers()
    for name, why in missing.items():
        print(f"skipped: {name} cannot be imported ({why}); see benchmarks/README.md")
    groups = [
        _measure(setting, network, size, [*ALWAYS, *peers])
        for network in setting.networks
        for size in setting.sizes
    ]
    return write_section(setting.results, "run", [_text(setting, groups, missing)])


def _measure(setting: Setting, network: str, size: int, others: list[str]) -> Group:
    group = Group(network=network, size=size)
    scene = setting.scene(size)
    reference = reference_map(setting, network, size)
    jobs = [job for job in _jobs(setting, network, size, others) if _wanted(setting, job)]
    for result in group.measure(setting, jobs, where=f"{network} {size}"):
        job = result.job
        compared = job.contender not in MAPLESS and job.label not in group.differences
        if reference is not None and compared:
            group.differences[job.label] = difference(reference, job.out, result.facts.cuts)
    setting.keep("run", group.results)
    print(f"{network} on {scene.name}: done", flush=True)
    return group


def _jobs(setting: Setting, network: str, size: int, others: list[str]) -> list[Job]:
    scene = setting.scene(size)
    ours = [
        setting.job(contender, network, scene, runtime=runtime)
        for runtime in setting.runtimes
        for contender in OURS
    ]
    return [*ours, *(setting.job(contender, network, scene) for contender in others)]


def _wanted(setting: Setting, job: Job) -> bool:
    return setting.contenders is None or job.contender in setting.contenders


def reference_map(setting: Setting, network: str, size: int) -> Path | None:
    """The whole-image forward's map, kept beside the scene; None where memory is too small for it."""
    job = setting.job("whole", network, setting.scene(size))
    if job.out.exists():
        return job.out
    free = available_mb()
    if free is not None and size**2 * _BYTES_PER_PX / 1e6 > free:
        print(f"{network}, {size} px: no whole-image forward, it would not fit in {free:.0f} MB", flush=True)
        return None
    setting.run(job)
    return job.out


def _text(setting: Setting, groups: list[Group], missing: dict[str, str]) -> str:
    lines = [verdict for group in groups for verdict in verdicts(group)]
    left_out = "; ".join(f"{name} ({why})" for name, why in missing.items())
    parts = [
        (
            f"Medians of {setting.rounds} alternated rounds, {setting.cores} cores; ratios within a round. "
            f"Left out because they cannot be imported here: {left_out or 'none'}."
        ),
        verdict_table(lines),
        *(part for group in groups for part in _group_text(group)),
    ]
    return "\n\n".join(parts)


def _group_text(group: Group) -> list[str]:
    head = [
        "contender",
        "cpu s",
        "wall s",
        "cpu over naive",
        "peak MB",
        "computed / unique px",
        "differs from the whole-image forward: all",
        "near seams",
        "elsewhere",
    ]
    rows = [_row(group, label) for label in group.labels]
    return [f"### {group.network}, {group.size} x {group.size} px", table(head, rows), *group.failures]


def _row(group: Group, label: str) -> list[str]:
    results = group.all(label)
    forwarded, found = results[0].facts.forwarded_px, group.differences.get(label)
    over_naive = group.ratio(label, "naive")
    return [
        label,
        f"{median(r.cost.cpu_s for r in results):.2f}",
        f"{median(r.cost.wall_s for r in results):.2f}",
        f"{median(over_naive):.2f}" if over_naive else "-",
        f"{median(r.cost.peak_mb for r in results):.0f}",
        f"{forwarded / group.size**2:.2f}" if forwarded else "-",
        share(found.all) if found else "-",
        share(found.near) if found else "-",
        share(found.elsewhere) if found else "-",
    ]


def verdicts(group: Group) -> list[Verdict]:
    """What the results of a group show of what must be shown."""
    found = [
        v
        for label in group.labels
        if label.startswith("geoseg ")
        for v in _of_runtime(group, label.split()[1])
    ]
    best = group.fastest
    return found if best is None else found + _against_others(group, f"geoseg {best}")


def _of_runtime(group: Group, runtime: str) -> list[Verdict]:
    where = f"{group.network} {group.size}, {runtime}"
    bare = group.ratio(f"forward {runtime}", f"geoseg {runtime}")
    around = _around(group, runtime)
    lines = []
    if bare and group.network in FORWARD_SHARE:
        required = FORWARD_SHARE[group.network]
        lines.append(
            Verdict(
                what=f"{where}: bare forward over geoseg, cpu", required=required, found=bare, at_most=False
            )
        )
    if around:
        lines.append(
            Verdict(
                what=f"{where}: normalising, deciding and writing over geoseg, cpu",
                required=AROUND_SHARE,
                found=around,
                at_most=True,
            )
        )
    return lines


def _around(group: Group, runtime: str) -> tuple[float, ...]:
    """What is left without the network and without reading the scene once, over everything."""
    names = ("read", f"geoseg-without-network {runtime}", f"geoseg {runtime}")
    found = []
    for one in group.rounds:
        if all(name in one for name in names):
            read, without, whole = (one[name].cost.cpu_s for name in names)
            found.append((without - read) / whole)
    return tuple(found)


def _against_others(group: Group, ours: str) -> list[Verdict]:
    where, lines = f"{group.network} {group.size}, {ours}", []
    naive = group.ratio(ours, "naive")
    if naive and group.network in COST_OF_NAIVE:
        required = COST_OF_NAIVE[group.network]
        lines.append(
            Verdict(what=f"{where} over naive loop, cpu", required=required, found=naive, at_most=True)
        )
    for peer in ("dask_overlap", *PEERS):
        ratio = group.ratio(ours, peer)
        if ratio:
            lines.append(
                Verdict(what=f"{where} over {peer}, cpu", required=COST_OF_PEER, found=ratio, at_most=True)
            )
        if ratio and {ours, peer} <= set(group.differences):
            mine, theirs = group.differences[ours].all, group.differences[peer].all
            lines.append(
                Verdict(
                    what=f"{where}: differing pixels, against {peer}'s",
                    required=theirs,
                    found=(mine,),
                    at_most=True,
                )
            )
    return lines
