"""`geoseg plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from geoseg import jobs
from geoseg.cli.console import Console, command_options
from geoseg.cli.options import predict_options, prediction_options
from geoseg.cli.scenes import open_source, sources
from geoseg.execute import default_threads
from geoseg.facts import plan_facts

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command("plan")
@prediction_options
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=default_threads,
    show_default="one per core, at most 8",
    help="Tiles at once.",
)
@command_options
def command(*, console: Console, scenes: tuple[str, ...], model: str, threads: int, **given: Any) -> None:
    """Say what predicting each SCENE would take. Computes nothing, loads no network."""
    options = predict_options(given)
    found: list[tuple[str, dict[str, Any]]] = []
    for source in sources(scenes):
        scene = open_source(source, bands=given["bands"], nodata=given["nodata"], name=given["name"])
        prediction = jobs.prepare(scene, Path(model), options)
        found.append((scene.name, describe(prediction, threads)))
    lines = [
        line
        for name, facts in found
        for line in console.facts(name, {key: _plain(value) for key, value in facts.items()})
    ]
    console.result({"scenes": [{"name": name, **facts} for name, facts in found]}, lines)


def describe(prediction: jobs.Prediction, threads: int) -> dict[str, Any]:
    """The plan in numbers: work, memory of the tiles' arrays, disk, and time where a rate is known."""
    plan, card, scene = prediction.plan, prediction.card, prediction.scene
    pixels = scene.window.size
    per_px = len(card.bands) * (np.dtype(scene.dtype).itemsize + 4) + 1
    core_px = min(pixels, plan.largest_reach_px)
    per_core = 2 + 8 + 4 + (4 * (len(card.legend) + 1) if plan.blend else 0)
    tile_bytes = plan.largest_reach_px * per_px + core_px * per_core
    rate = _rate(card.provenance)
    return {
        "scene_px": pixels,
        **plan_facts(plan),
        "forwarded_px": plan.forwarded_px,
        "memory_for_tiles_mb": round(threads * tile_bytes / 1e6),
        "disk_scratch_mb": round(4 * pixels / 1e6),
        "network_seconds": round(plan.forwarded_px / 1e6 / rate / threads, 1) if rate else None,
        "rate_mpx_per_s_and_thread": rate,
    }


def _rate(provenance: Mapping[str, Any]) -> float | None:
    """Mpx/s of one thread, measured where and when the package was made; None if it was not."""
    rate = provenance.get("forward_mpx_per_s")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def _plain(value: object) -> str:
    if value is None:
        return "unknown: the package carries no measured speed"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
