"""Mode `memory`: whether peak memory depends on the size of the scene or the number of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report import Verdict, table, verdict_table, write_section

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.jobs import Job, Result
    from benchmarks.setting import Setting

FEW, MANY = "light-4", "light-40"
GROWTH, LIGHT_GROWTH, LIGHT_MB = 1.1, 1.2, 1200.0
MEMORY = 1_200_000_000
"""What the real networks are given (`--memory 1.2GB`): with it, more classes mean smaller patches."""
_SMALL_PX, _LARGE_PX = 2048, 8192
_REAL_MOST_PX = 8192
"""Larger scenes take a real network too long."""


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it."""
    setting.require({*setting.networks, FEW, MANY})
    large = max((s for s in setting.sizes if s <= _REAL_MOST_PX), default=min(setting.sizes))
    results = [_measured(setting, job) for job in _jobs(setting, large)]
    setting.keep("memory", results)
    head = [
        "network",
        "what",
        "scene px a side",
        "Mpx",
        "classes raster only",
        "peak MB",
        "before MB",
        "wall s",
        "cpu s",
    ]
    note = (
        f"All with `--memory {MEMORY / 1e9:g}GB`, otherwise the default plan. `by-value`: in place of the "
        "network, the class follows from the pixel's value, on scenes without noise; so scenes of a billion "
        "pixels end in minutes."
    )
    return write_section(
        setting.results, "memory", [note, verdict_table(verdicts(results)), table(head, map(_row, results))]
    )


def _jobs(setting: Setting, large: int) -> list[Job]:
    sizes = sorted(setting.sizes)
    runtime = setting.runtimes[0]
    by_value = [
        setting.job(contender, FEW, _flat(setting, size), runtime=runtime, memory=MEMORY)
        for contender in ("geoseg-by-value", "geoseg-all-by-value")
        for size in sizes
    ]
    classes = [
        setting.job("geoseg-all-by-value", MANY, _flat(setting, large), runtime=runtime, memory=MEMORY)
    ]
    real = [
        setting.job("geoseg-all", network, setting.scene(size), runtime=runtime, memory=MEMORY)
        for network in (*setting.networks, FEW, MANY)
        for size in sizes
        if size in ({sizes[0], large} if network in setting.networks else {large})
    ]
    return [*by_value, *classes, *real]


def _flat(setting: Setting, size: int) -> Path:
    return setting.scene(size, noise=False)


def _measured(setting: Setting, job: Job) -> Result:
    result = setting.run(job)
    print(f"{job.label}, {job.network}, {job.scene.name}: {result.cost.peak_mb:.0f} MB", flush=True)
    return result


def verdicts(results: list[Result]) -> list[Verdict]:
    """Growth with the scene, with the classes, and what the light network takes."""
    peak = {(r.job.label, r.job.network, _size(r)): r.cost.peak_mb for r in results}
    by_kind: dict[tuple[str, str], dict[int, float]] = {}
    for (label, network, size), one in peak.items():
        by_kind.setdefault((label, network), {})[size] = one
    lines = []
    for (label, network), mb in by_kind.items():
        real = "by-value" not in label
        sizes = sorted(size for size in mb if real or size >= _LARGE_PX or len(mb) < 3)  # noqa: PLR2004 - a range
        if len(sizes) > 1:
            lines.append(
                Verdict(
                    what=f"{label}, {network}: peak memory at {sizes[-1]} px over {sizes[0]} px",
                    required=LIGHT_GROWTH if real else GROWTH,
                    found=(mb[sizes[-1]] / mb[sizes[0]],),
                    at_most=True,
                )
            )
        if real and network == "light":
            lines.append(
                Verdict(
                    what=f"{label}, light: peak memory at {sizes[-1]} px",
                    required=LIGHT_MB,
                    found=(mb[sizes[-1]],),
                    at_most=True,
                    unit=" MB",
                )
            )
    return lines + _of_classes(peak)


def _of_classes(peak: dict[tuple[str, str, int], float]) -> list[Verdict]:
    return [
        Verdict(
            what=f"{label}: peak memory with 40 classes over 4, {size} px",
            required=GROWTH,
            found=(peak[label, MANY, size] / mb,),
            at_most=True,
        )
        for (label, network, size), mb in peak.items()
        if network == FEW and (label, MANY, size) in peak
    ]


def _size(result: Result) -> int:
    return int(result.job.scene.stem.rpartition("_")[2])


def _row(result: Result) -> list[str]:
    size, cost = _size(result), result.cost
    return [
        result.job.network,
        result.job.label,
        f"{size}",
        f"{size**2 / 1e6:.0f}",
        "no" if "-all" in result.job.contender else "yes",
        f"{cost.peak_mb:.0f}",
        f"{cost.start_mb:.0f}",
        f"{cost.wall_s:.1f}",
        f"{cost.cpu_s:.1f}",
    ]
