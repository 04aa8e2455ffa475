"""Mode `polygons`: class maps to polygons, against GDAL in C, the usual script and GEOS's simplification."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.jobs import Job, Result, replace
from benchmarks.maps import KINDS
from benchmarks.report import Verdict, table, verdict_table, write_section
from benchmarks.rounds import Rounds
from benchmarks.worker import WARM_MAP_PX

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.setting import Setting

IN_MEMORY, GPKG, SIMPLIFY = "geoseg-in-memory", "geoseg-gpkg", "geoseg-simplify"
C, C_IN_MEMORY, SCRIPT, GEOS = "gdal-c", "gdal-c-in-memory", "script", "coverage-simplify"
IN_MEMORY_OF_C, CPU_OF_C, WALL_OF_C, OVER_SCRIPT, OF_GEOS = 1 / 3, 1.0, 0.65, 5.0, 0.5
PEAK_MB, GROWTH = 400.0, 1.15
CORES = 2
"""What the wall time is to be shown on."""
SCRIPT_MOST_PX, SIMPLIFY_MOST_PX = 4096, 2048
"""Larger maps take the script, and GEOS, too long."""
TOLERANCE_PX = 1.0
LARGER = 4
"""Side of the map on which memory is compared, over that of the largest in the rounds."""
STARTS = {
    "first": "first run ever: loads, compiles",
    "fresh": "first run in a process: loads",
    "warm": "later runs",
}


@dataclass(slots=True, kw_only=True)
class Case(Rounds):
    """All ways to polygons of one map."""

    scene: Path
    connectivity: int
    size: int | None
    """None: a map of somebody's own."""

    @property
    def name(self) -> str:
        """Map and connectivity."""
        return f"{self.scene.stem.replace('_', ' ')}, {self.connectivity}-connected"

    @property
    def contenders(self) -> list[str]:
        """Who takes part: the script where it does not take too long, and only once."""
        with_script = self.connectivity == 8 and (self.size or 0) <= SCRIPT_MOST_PX  # noqa: PLR2004 - its own word
        return [IN_MEMORY, GPKG, C, C_IN_MEMORY, *([SCRIPT] if with_script else [])]


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it."""
    setting.class_map("clean", WARM_MAP_PX)
    cases = [
        Case(scene=setting.class_map(kind, size), connectivity=connectivity, size=size)
        for size in sorted(setting.sizes)
        for kind in KINDS
        for connectivity in (8, 4)
    ]
    cases += [Case(scene=path, connectivity=8, size=None) for path in setting.own_maps]
    for case in cases:
        _measure(setting, case)
    sections = [_simplified, _starts, _memory]
    parts, verdicts = [], [verdict for case in cases for verdict in verdicts_of(case)]
    verdicts += _peaks(cases)
    for section in sections:
        text, found = section(setting)
        parts += text
        verdicts += found
    note = (
        f"Medians of {setting.rounds} alternated rounds; ratios within a round. geoseg writes its GeoPackage "
        f"on {setting.cores} cores; everything else runs on one."
    )
    tables = [part for case in cases for part in _case_text(case)]
    return write_section(setting.results, "polygons", [note, verdict_table(verdicts), *tables, *parts])


def _measure(setting: Setting, case: Case) -> None:
    jobs = [
        _job(setting, name, case.scene, connectivity=case.connectivity)
        for name in case.contenders
        if _wanted(setting, name)
    ]
    _in_turn(setting, case, jobs, where=case.name)


def _in_turn(setting: Setting, rounds: Rounds, jobs: list[Job], *, where: str) -> None:
    for result in rounds.measure(setting, jobs, where=where):
        result.job.out.unlink(missing_ok=True)  # gigabytes
    setting.keep("polygons", rounds.results)


def _job(setting: Setting, contender: str, scene: Path, **more: object) -> Job:
    job = setting.job(contender, "", scene, **more)
    cores = setting.cores if contender == GPKG else 1
    return replace(job, out=job.out.with_suffix(".gpkg"), cores=cores)


def _wanted(setting: Setting, name: str) -> bool:
    return setting.contenders is None or name in setting.contenders


def verdicts_of(case: Case) -> list[Verdict]:
    """What the results of a case show of what must be shown."""
    cores = f"on {CORES} cores"
    lines = [
        _at_most(
            f"{case.name}: in memory over C into a GeoPackage, cpu", IN_MEMORY_OF_C, case.ratio(IN_MEMORY, C)
        ),
        _at_most(f"{case.name}: GeoPackage over C's, cpu", CPU_OF_C, case.ratio(GPKG, C)),
        _at_most(f"{case.name}: GeoPackage over C's, wall, {cores}", WALL_OF_C, _wall(case)),
        _at_most(f"{case.name}: number of polygons, off C's", 0, _miscounted(case)),
    ]
    if case.scene.stem.startswith("noisy"):
        ratio = case.ratio(SCRIPT, GPKG)
        what = f"{case.name}: the script over geoseg's GeoPackage, cpu"
        lines.append(Verdict(what=what, required=OVER_SCRIPT, found=ratio, at_most=False))
    return [line for line in lines if line.found]


def _at_most(what: str, required: float, found: tuple[float, ...], *, unit: str = "") -> Verdict:
    return Verdict(what=what, required=required, found=found, at_most=True, unit=unit)


def _wall(case: Case) -> tuple[float, ...]:
    """Only where it was measured on as many cores as it is to be shown on."""
    ours = case.all(GPKG)
    return case.ratio(GPKG, C, wall=True) if ours and ours[0].job.cores == CORES else ()


def _miscounted(case: Case) -> tuple[float, ...]:
    counts = [case.fact(name, "polygons") for name in (GPKG, C)]
    return () if None in counts else (abs(counts[0] - counts[1]),)


def _peaks(cases: list[Case]) -> list[Verdict]:
    """Peak memory on the map with most polygons."""
    measured = [case for case in cases if case.all(GPKG)]
    if not measured:
        return []
    most = max(measured, key=lambda case: int(case.fact(GPKG, "polygons")))
    what = f"{most.name}: peak memory with {most.fact(GPKG, 'polygons')} polygons in the GeoPackage"
    return [_at_most(what, PEAK_MB, tuple(r.cost.peak_mb for r in most.all(GPKG)), unit=" MB")]


def _case_text(case: Case) -> list[str]:
    head = [
        "contender",
        "polygons",
        "cpu s",
        "wall s",
        "cpu over C",
        "wall over C",
        "peak MB",
        "file MB",
        "in the index",
    ]
    return [f"### {case.name}", table(head, [_row(case, name) for name in case.labels]), *case.failures]


def _row(case: Case, name: str) -> list[str]:
    file_mb, indexed = (case.fact(name, key) for key in ("file_mb", "indexed"))
    return [
        name,
        f"{case.fact(name, 'polygons')}",
        f"{case.median(name, _cpu):.2f}",
        f"{case.median(name, _wall_s):.2f}",
        _ratio(case.ratio(name, C)),
        _ratio(case.ratio(name, C, wall=True)),
        f"{case.median(name, _peak):.0f}",
        "-" if file_mb is None else f"{file_mb:.1f}",
        "-" if indexed is None else f"{indexed}",
    ]


def _cpu(result: Result) -> float:
    return result.cost.cpu_s


def _wall_s(result: Result) -> float:
    return result.cost.wall_s


def _peak(result: Result) -> float:
    return result.cost.peak_mb


def _proof(result: Result) -> float:
    return float(result.facts.more.get("proof_s", 0.0))


def _ratio(found: tuple[float, ...]) -> str:
    return f"{median(found):.2f}" if found else "-"


def _simplified(setting: Setting) -> tuple[list[str], list[Verdict]]:
    """A simplified and validated coverage, against one call of GEOS."""
    size = min(SIMPLIFY_MOST_PX, *setting.sizes)
    names = [name for name in (SIMPLIFY, GEOS) if _wanted(setting, name)]
    if not names:
        return [], []
    scene = setting.class_map("noisy", size)
    rounds, where = Rounds(), f"noisy {size}, simplified by {TOLERANCE_PX:g} px"
    more = {"connectivity": 4, "tolerance_px": TOLERANCE_PX}
    _in_turn(setting, rounds, [_job(setting, name, scene, **more) for name in names], where=where)
    head = ["contender", "polygons", "vertices", "cpu s", "of which proof", "peak MB", *_FLAWS]
    rows = [
        [
            name,
            *(f"{rounds.fact(name, key)}" for key in ("polygons", "vertices")),
            f"{rounds.median(name, _cpu):.2f}",
            f"{rounds.median(name, _proof):.2f}",
            f"{rounds.median(name, _peak):.0f}",
            *(f"{rounds.fact(name, key):g}" for key in _FLAWS),
        ]
        for name in rounds.labels
    ]
    note = (
        f"4-connected. `{GEOS}` is that call alone: polygons with a vertex at every pixel are made before "
        f"that. `{SIMPLIFY}` begins with the class map and ends with a proof that the coverage is valid."
    )
    what = f"{where}: from the map to a validated coverage over `coverage_simplify` alone, cpu"
    found = [_at_most(what, OF_GEOS, rounds.ratio(SIMPLIFY, GEOS))] if rounds.ratio(SIMPLIFY, GEOS) else []
    if rounds.all(SIMPLIFY):
        flaws = [(key, abs(float(rounds.fact(SIMPLIFY, key)))) for key in _FLAWS]
        found += [_at_most(f"{where}: {key}", 0, (count,)) for key, count in flaws]
    return [f"### {where}", note, table(head, rows), *rounds.failures], found


_FLAWS = ("invalid polygons", "unmatched edges", "missing px")
"""What there must be none of; see `benchmarks.vectors.judge`."""


def _starts(setting: Setting) -> tuple[list[str], list[Verdict]]:
    """What the first runs pay for: imports, and compiling for the machine."""
    if not _wanted(setting, GPKG):
        return [], []
    scene = setting.class_map("noisy", min(setting.sizes))
    results = {}
    for start in STARTS:
        job = _job(setting, GPKG, scene, start=start)
        results[start] = setting.run(job)
        job.out.unlink(missing_ok=True)
        print(f"{start}: {results[start].cost.cpu_s:.2f} cpu s", flush=True)
    setting.keep("polygons", list(results.values()))
    rows = [
        [STARTS[start], *(f"{take(result):.2f}" for take in (_cpu, _wall_s)), f"{_peak(result):.0f}"]
        for start, result in results.items()
    ]
    head = [f"{GPKG}, {scene.stem.replace('_', ' ')}", "cpu s", "wall s", "peak MB"]
    return ["### Start-up, once", table(head, rows)], []


def _memory(setting: Setting) -> tuple[list[str], list[Verdict]]:
    """Peak memory on a map sixteen times larger."""
    sizes = [max(setting.sizes), LARGER * max(setting.sizes)]
    names = [name for name in (GPKG, C) if _wanted(setting, name)]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for size in sizes:
        for name in names:
            job = _job(setting, name, setting.class_map("clean", size))
            results[name].append(setting.run(job))
            job.out.unlink(missing_ok=True)
            print(f"{name}, {job.scene.name}: {results[name][-1].cost.peak_mb:.0f} MB", flush=True)
    setting.keep("polygons", [result for group in results.values() for result in group])
    rows = [_memory_row(size, group[at]) for group in results.values() for at, size in enumerate(sizes)]
    head = ["contender", "clean map, px a side", "Mpx", "polygons", "peak MB", "before MB", "cpu s", "wall s"]
    what = f"{GPKG}, clean: peak memory at {sizes[1]} px over {sizes[0]} px"
    found = [
        _at_most(what, GROWTH, (large.cost.peak_mb / small.cost.peak_mb,))
        for small, large in (group for name, group in results.items() if name == GPKG)
    ]
    return (["### Memory, once", table(head, rows)] if rows else []), found


def _memory_row(size: int, result: Result) -> list[str]:
    cost = result.cost
    return [
        result.job.label,
        f"{size}",
        f"{size**2 / 1e6:.0f}",
        f"{result.facts.more['polygons']}",
        f"{cost.peak_mb:.0f}",
        f"{cost.start_mb:.0f}",
        f"{cost.cpu_s:.1f}",
        f"{cost.wall_s:.1f}",
    ]
