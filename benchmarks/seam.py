"""Mode `seam`: how many pixels differ from the whole-image forward, by overlap, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import tool
from benchmarks.compare import Difference, difference
from benchmarks.jobs import Job, replace
from benchmarks.report import Verdict, share, table, verdict_table, write_section
from benchmarks.whole_run import reference_map

if TYPE_CHECKING:
    from benchmarks.setting import Setting

PATCH_PX = 1024
"""Small enough that a scene of 2048 px has seams, whatever patch would be chosen for it."""
OVERLAPS_PX = (0, 32, 64, 128, 256, 384, 512, 640)
BIG_PX = 8192
EQUAL, DUPLICATION = 1e-4, 1.3


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it."""
    setting.require(setting.networks)
    parts, verdicts = [], []
    for network in setting.networks:
        for size in setting.sizes:
            rows, found = _sweep(setting, network, size)
            verdicts += found
            head = ["overlap px", "computed / unique px", "differs: all", "near seams", "elsewhere"]
            parts += [
                f"### {network}, {size} x {size} px, patches of {_patch(size)} px",
                table([*head, f"computed / unique px at {BIG_PX} px, default patch"], rows),
            ]
    return write_section(setting.results, "seam", [verdict_table(verdicts), *parts])


def _sweep(setting: Setting, network: str, size: int) -> tuple[list[list[str]], list[Verdict]]:
    """A row for each overlap, and what the least overlap without differences costs."""
    scene, patch = setting.scene(size), _patch(size)
    reference = reference_map(setting, network, size)
    if reference is None:
        return [], []
    chosen = tool.plan(setting.job("geoseg", network, scene, runtime=setting.runtimes[0])).overlap_px
    rows, enough = [], None
    for overlap in sorted({*OVERLAPS_PX, chosen}):
        if overlap >= patch:
            continue
        job = setting.job(
            "geoseg", network, scene, runtime=setting.runtimes[0], patch_px=patch, overlap_px=overlap
        )
        result = setting.run(job)
        found = difference(reference, job.out, result.facts.cuts)
        at_scale = tool.plan_of_size(replace(job, patch_px=None), BIG_PX).duplication
        rows.append(_row(result.facts.forwarded_px or 0, size, job, found, at_scale, auto=overlap == chosen))
        print(" ".join(rows[-1]), flush=True)
        if enough is None and found.all <= EQUAL:
            enough = at_scale
    what = (
        f"{network}: computed over unique px, {BIG_PX} px, least overlap with {EQUAL:.2%} of labels changed"
    )
    if enough is None:
        return rows, []
    return rows, [Verdict(what=what, required=DUPLICATION, found=(enough,), at_most=True)]


def _patch(size: int) -> int:
    return min(PATCH_PX, size // 2 // 32 * 32)


def _row(forwarded: int, size: int, job: Job, found: Difference, at_scale: float, *, auto: bool) -> list[str]:
    return [
        f"{job.overlap_px}{' (auto)' if auto else ''}",
        f"{forwarded / size**2:.2f}",
        share(found.all),
        share(found.near),
        share(found.elsewhere),
        f"{at_scale:.3f}",
    ]
