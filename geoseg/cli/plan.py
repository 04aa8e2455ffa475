"""`geoseg plan`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from geoseg.cli.console import Console, command_options
from geoseg.cli.options import (
    area_of_interest,
    execution_options,
    predict_options,
    prediction_options,
)
from geoseg.cli.scenes import open_given, sources
from geoseg.execute import Execution
from geoseg.facts import plan_facts
from geoseg.inference import VOTES
from geoseg.prediction import Prediction, prepare
from geoseg.tasks import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.calibrate import Calibration
    from geoseg.choice import Choice

_NOTABLE_MB = 0.1
"""Smaller files are not told of."""
_FEW, _MANY = 10, 100
"""Seconds or megabytes from which no decimals, and seconds or minutes from which the next unit, are shown."""


@click.command("plan")
@prediction_options
@execution_options
@click.option("--no-run", is_flag=True, help="Only what follows from sizes: load no network, take no time.")
@command_options
def command(
    *,
    console: Console,
    scenes: tuple[str, ...],
    model: tuple[Path, ...],
    no_run: bool,
    **given: Any,
) -> None:
    """Say what predicting each SCENE would take: work, time, memory and disk.

    Runs some tiles of the job on this machine for a few seconds, unless told not to, and keeps nothing.
    Takes the options of predict, but for --scheduler: what is measured is this machine, and how long a
    cluster takes depends on how many of its workers are free then, and on their disks and network. To know
    what one worker needs, run this on a machine of the cluster with --threads 1.
    """
    options = predict_options(given)
    execution = Execution(workers=given["workers"], threads=given["threads"])
    runtime = Runtime(name=given["runtime"], device=given["device"], batch_size=given["batch_size"])
    documents: list[dict[str, Any]] = []
    lines: list[str] = []
    for source in sources(scenes, mosaic=given["mosaic"]):
        scene = open_given(source, given)
        prediction = prepare(scene, model, options, aoi=area_of_interest(scene, given))
        facts, rows = arithmetic(prediction), _in_words(prediction, given)
        if not no_run:
            measured, more = _run(prediction, execution, runtime)
            facts, rows = facts | measured, rows | more
        documents.append({"name": scene.name, **facts})
        lines += console.facts(scene.name, rows)
    console.result({"scenes": documents}, lines)


def arithmetic(prediction: Prediction) -> dict[str, Any]:
    """What follows from sizes alone."""
    plan, card = prediction.plan, prediction.card
    context, call_bytes = card.context, prediction.call_bytes
    rate = card.provenance.get("forward_mpx_per_s")
    return {
        "scene_px": prediction.scene.window.size,
        **plan_facts(plan),
        "forwarded_px": plan.forwarded_px,
        "votes": _votes(prediction),
        "context": None if context is None else context.model_dump(mode="json"),
        "call_mb": None if call_bytes is None else round(call_bytes / 1e6),
        "read_mb_per_tile": round(_read_bytes(prediction) / 1e6),
        "network_seconds": round(plan.forwarded_px / 1e6 / rate, 1)
        if isinstance(rate, int | float) and rate > 0
        else None,
    }


def _votes(prediction: Prediction) -> int:
    return len(prediction.cards) * VOTES[prediction.options.views]


def _votes_in_words(prediction: Prediction) -> str:
    votes = _votes(prediction)
    return f", {votes} times: networks and views that vote" if votes > 1 else ""


def _read_bytes(prediction: Prediction) -> int:
    scene = prediction.scene
    per_px = len(scene.bands) * np.dtype(scene.dtype).itemsize + 1
    return prediction.plan.largest_reach_px * per_px


def _run(
    prediction: Prediction, execution: Execution, runtime: Runtime
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a short run says of the whole job, as a document and in words."""
    from geoseg.calibrate import calibrate_apart
    from geoseg.jobs import settle

    settled, choice = settle(prediction, runtime, execution)
    found = calibrate_apart(prediction, execution=execution, runtime=settled)
    document = {
        "runtime": {"name": settled.name, "device": settled.device, "calls": settled.calls},
        "choice": None if choice is None else choice.model_dump(mode="json"),
        "expected": {"seconds": round(found.seconds, 2), **_rounded(asdict(found))},
    }
    return document, _expected(prediction, found, settled, choice)


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {k: _rounded(v) if isinstance(v, dict) else round(v, 3) for k, v in found.items()}


def _in_words(prediction: Prediction, given: dict[str, Any]) -> dict[str, str]:
    plan = prediction.plan
    height, width = plan.window.shape
    lattice = plan.lattice
    return {
        "size": f"{height:,} x {width:,} px" + (", the part that is wanted" if plan.extent else ""),
        "tiles": f"{len(plan):,}, about {plan.tile_px:,} px wide",
        "patches": f"{plan.patches:,} of {lattice.rows.length:,} x {lattice.cols.length:,} px, "
        + _why_patch(prediction, given["patch_size"]),
        "overlap": f"{lattice.rows.overlap_px:,} px, {_why_overlap(prediction, given['overlap'])}",
        "stitching": "all patches over a pixel, weighed"
        if plan.blend
        else "overlaps split at their midpoint",
        "duplicated work": f"x{plan.duplication:.2f}: {plan.forwarded_px / 1e6:,.1f} Mpx through the network "
        f"for {plan.window.size / 1e6:,.1f} Mpx" + _votes_in_words(prediction),
        "a network call": "memory not measured"
        if prediction.call_bytes is None
        else f"takes {_memory(prediction.call_bytes / 1e6)}",
    }


def _why_patch(prediction: Prediction, given: int | None) -> str:
    if given is not None:
        return "as asked for"
    if prediction.plan.blend or prediction.call_bytes is None:
        return "the package's own size"
    return "the smallest that waste little and fit the memory"


def _why_overlap(prediction: Prediction, given: int | None) -> str:
    if given is not None:
        return "as asked for"
    radii = [c.context.radius_px for c in prediction.cards if c.context is not None]
    if len(radii) < len(prediction.cards):
        return "the package's own (no context radius was measured)"
    known = [radius for radius in radii if radius is not None]
    if len(known) < len(radii):
        return "the package's own (the network looks at the whole patch)"
    return f"twice the context radius of {max(known)} px measured"


def _expected(
    prediction: Prediction, found: Calibration, runtime: Runtime, choice: Choice | None
) -> dict[str, str]:
    why = "" if choice is None else f": {choice.reason}"
    files = ", ".join(f"{kind} {_memory(mb)}" for kind, mb in found.output_mb.items() if mb >= _NOTABLE_MB)
    return {
        "runtime": f"{runtime.name}{why}",
        "patches with data": f"{found.patches:,} of {prediction.plan.patches:,}",
        "time": f"about {_duration(found.seconds)}: {_duration(found.start_seconds)} to start, "
        f"{_duration(found.tiles_seconds)} for the tiles, {_duration(found.write_seconds)} for the files",
        "speed": f"{found.mpx_per_s:.3g} Mpx/s through the network and all around it",
        "memory": f"about {_memory(found.memory_mb)}",
        "scratch disk": f"about {_memory(found.scratch_mb)} beside the output",
        "output": f"about {_memory(sum(found.output_mb.values()))}" + (f": {files}" if files else ""),
        "measured on": f"{found.measured_patches} patches in {_duration(found.measured_seconds)}, just now",
    }


def _duration(seconds: float) -> str:
    if seconds < _MANY:
        return f"{seconds:.2g} s" if seconds < _FEW else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < _MANY:
        return f"{minutes:.1f} min" if minutes < _FEW else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def _memory(mb: float) -> str:
    return f"{mb:.2g} MB" if mb < _FEW else f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1000:.2f} GB"  # noqa: PLR2004
