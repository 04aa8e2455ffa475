"""`geoseg info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.scenes import open_source
from geoseg.facts import facts_of
from geoseg.matching import Mapping, mismatches
from geoseg.package import CARD_NAME, Card, read_card

if TYPE_CHECKING:
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
    if (Path(target) / CARD_NAME).exists() or Path(target).is_dir():
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
    gsd = card.gsd
    return {
        "architecture": f"{card.architecture.name} / {card.architecture.encoder}",
        "bands": [f"{b.name} (mean {b.mean:.6g}, std {b.std:.6g})" for b in card.bands],
        "dtype": card.dtype,
        "gsd_m": "any" if gsd is None else f"{gsd.min_m:.3g} to {gsd.max_m:.3g}",
        "classes": [f"{c.id} {c.name}" for c in card.legend.classes],
        "patch_px": card.patch_px,
        "overlap_px": card.overlap_px,
        "stride_px": card.stride_px,
        "licence": card.licence or "not stated",
        "fingerprint": card.fingerprint,
    }


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
