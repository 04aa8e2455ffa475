"""`geoseg info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.scenes import SceneSource, mapping_of, open_given, scene_options, sources
from geoseg.errors import MismatchError, UsageError
from geoseg.facts import facts_of
from geoseg.matching import mismatches
from geoseg.package import read_card
from geoseg.prediction import require_one_legend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.matching import Mapping
    from geoseg.package import Band, Card, Context
    from geoseg.raster.scene import Scene


@click.command("info")
@click.argument("targets", nargs=-1, required=True, metavar="SCENE...|MODEL")
@click.option(
    "-m",
    "--model",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Say whether SCENE fits MODEL; several are to vote.",
)
@scene_options
@command_options
def command(*, console: Console, targets: tuple[str, ...], model: tuple[Path, ...], **given: Any) -> None:
    """Say what a raster or a model package is, what it needs, and whether they fit together.

    SCENE is given as to predict: a raster file or STAC item, NAME=PATH arguments for band files, or several
    files and --mosaic; but it is one. With --model, the exit code is 1 when they do not fit.
    """
    packages = [target for target in targets if _is_package(target)]
    if packages:
        _require_alone(packages[0], targets, model)
        facts = _card_facts(read_card(Path(packages[0])))
        console.result(facts, console.facts(packages[0], facts))
        return
    scene = open_given(_one_source(targets, mosaic=given["mosaic"]), given)
    facts = _scene_facts(scene) | _fit(scene, model, mapping_of(given))
    console.result(facts, console.facts(targets[0] if len(targets) == 1 else scene.name, facts))
    if not facts.get("fits", True):
        raise click.exceptions.Exit(1)


def _is_package(target: str) -> bool:
    return Path(target).is_dir() or target.endswith(".onnx")


def _require_alone(package: str, targets: Sequence[str], models: Sequence[Path]) -> None:
    if len(targets) > 1 or models:
        other = models[0] if models else next(t for t in targets if t != package)
        raise UsageError(
            f"{package} is a model, and info tells of one thing at a time: leave out {other}; whether a "
            "scene fits a model says `geoseg info SCENE -m MODEL`"
        )


def _one_source(targets: Sequence[str], *, mosaic: bool) -> SceneSource:
    found = sources(targets, mosaic=mosaic)
    if len(found) > 1:
        raise UsageError(
            f"these are {len(found)} scenes, and info tells of one at a time: with --mosaic they are one"
        )
    return found[0]


def _fit(scene: Scene, models: Sequence[Path], mapping: Mapping) -> dict[str, Any]:
    """Whether the scene fits all models, and they each other, and every reason why not; empty without any."""
    if not models:
        return {}
    cards = [read_card(path) for path in models]
    facts = facts_of(scene)
    of = [f"{path}: " if len(models) > 1 else "" for path in models]
    reasons = [
        f"{which}{reason}"
        for which, card in zip(of, cards, strict=True)
        for reason in mismatches(card, facts, mapping)
    ]
    try:
        require_one_legend(models, cards)
    except MismatchError as error:
        reasons.append(str(error))
    return {"fits": not reasons, **({"why_not": reasons} if reasons else {})}


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
    given = [] if scene.nodata is None else [f"nodata {scene.nodata:g}, as given"]
    return {
        "size_px": f"{height} x {width} (rows x columns)",
        "bands": list(scene.band_names),
        "dtype": scene.dtype,
        "no_data": [*scene.masks, *given] or ["nothing declared: every pixel is taken for data"],
        "crs": f"EPSG:{crs.epsg}" if crs.epsg else str(crs),
        "gsd_m": round(facts_of(scene).gsd_m, 4),
        "transform": [float(v) for v in list(scene.geobox.affine)[:6]],
        "fingerprint": scene.fingerprint,
    }
