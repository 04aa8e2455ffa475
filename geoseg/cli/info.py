"""`geoseg info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.scenes import open_source
from geoseg.facts import facts_of
from geoseg.matching import Mapping, mismatches
from geoseg.package import read_card

if TYPE_CHECKING:
    from geoseg.package import Band, Card, Context
    from geoseg.raster.scene import Scene


@click.command("info")
@click.argument("target", type=click.Path(), metavar="FILE|MODEL")
@click.option("-m", "--model", type=click.Path(), metavar="MODEL", help="Say whether FILE fits MODEL.")
@click.option("--bands", metavar="NAME,...", help="Names of FILE's bands in order, as for predict.")
@click.option("--nodata", type=float, help="Value without data, where FILE does not say so.")
@command_options
def command(
    *, console: Console, target: str, model: str | None, bands: str | None, nodata: float | None
) -> None:
    """Say what a raster or a model package is, what it needs, and whether they fit together.

    With --model, the exit code is 1 when they do not fit.
    """
    if Path(target).is_dir() or target.endswith(".onnx"):
        facts = _card_facts(read_card(Path(target)))
        console.result(facts, console.facts(target, facts))
        return
    scene = open_source(target, bands=bands, nodata=nodata, name=None)
    facts = _scene_facts(scene)
    if model is not None:
        reasons = mismatches(read_card(Path(model)), facts_of(scene), Mapping())
        facts["fits"] = not reasons
        if reasons:
            facts["why_not"] = reasons
    console.result(facts, console.facts(target, facts))
    if not facts.get("fits", True):
        raise click.exceptions.Exit(1)


def _card_facts(card: Card) -> dict[str, Any]:
    gsd, network = card.gsd, card.architecture
    return {
        "architecture": f"{network.name} / {network.encoder}" if network else "an ONNX graph",
        "bands": [_band_text(band) for band in card.bands],
        "dtype": card.dtype,
        "gsd_m": "any" if gsd is None else f"{gsd.min_m:.3g} to {gsd.max_m:.3g}",
        "classes": [f"{c.id} {c.name}" for c in card.legend.classes],
        "patch_px": card.patch_px,
        "overlap_px": card.overlap_px,
        "stride_px": card.stride_px,
        "context": _context_text(card.context),
        "memory_per_call": "not measured"
        if card.call_bytes_per_px is None
        else f"{card.call_bytes_per_px} bytes per pixel of a patch",
        "licence": card.licence or "not stated",
        "fingerprint": card.fingerprint,
    }


def _band_text(band: Band) -> str:
    steps = "".join(f"{step.step}, " for step in band.steps)
    return f"{band.name} ({steps}mean {band.mean:.6g}, std {band.std:.6g})"


def _context_text(context: Context | None) -> str:
    if context is None:
        return "not measured"
    if context.radius_px is None:
        return f"the whole patch (changes by {context.change:.2g} even {context.searched_px} px away)"
    return f"{context.radius_px} px (beyond: less than {context.tolerance:g} of a probability)"


def _scene_facts(scene: Scene) -> dict[str, Any]:
    height, width = scene.window.shape
    crs = scene.geobox.crs
    return {
        "size_px": f"{height} x {width} (rows x columns)",
        "bands": list(scene.band_names),
        "dtype": scene.dtype,
        "no_data": list(scene.masks) or ["nothing declared: every pixel is taken for data"],
        "crs": f"EPSG:{crs.epsg}" if crs.epsg else str(crs),
        "gsd_m": round(facts_of(scene).gsd_m, 4),
        "transform": [float(v) for v in list(scene.geobox.affine)[:6]],
        "fingerprint": scene.fingerprint,
    }
