"""Does a scene fit a model package? Refuses rather than guesses, and says which mapping would help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.errors import MismatchError, explain

if TYPE_CHECKING:
    from geoseg.package import Card


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFacts:
    """What a scene offers, as far as a package cares."""

    name: str
    """Shown in messages."""
    band_names: tuple[str, ...]
    """In file order."""
    dtype: str
    """Numpy type name."""
    gsd_m: float
    """Ground sampling distance in metres at the scene's centre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """What the user declares about a scene's values and resolution."""

    scale: float | None = None
    """Factor from the scene's values to the model's; None: not declared, types must be equal."""
    offset: float = 0.0
    """Added after scaling, in the model's units."""
    any_gsd: bool = False
    """True: the ground sampling distance has been considered and is fine."""


def mismatches(card: Card, facts: SceneFacts, mapping: Mapping) -> list[str]:
    """Every reason why the scene does not fit the package, each with its remedy; empty when it fits."""
    return [
        reason
        for reason in (
            _band_mismatch(card, facts),
            _dtype_mismatch(card, facts, mapping),
            _gsd_mismatch(card, facts, mapping),
        )
        if reason
    ]


def require_match(card: Card, facts: SceneFacts, mapping: Mapping) -> None:
    """Returns when the scene fits the package.

    Raises:
        MismatchError: with all reasons and what would map the scene to the package.
    """
    reasons = mismatches(card, facts, mapping)
    if reasons:
        raise MismatchError(f"the scene does not fit the model: {facts.name}. " + " ".join(reasons))


def _band_mismatch(card: Card, facts: SceneFacts) -> str | None:
    missing = [n for n in card.band_names if n not in facts.band_names]
    if not missing:
        return None
    wanted, there = ", ".join(card.band_names), ", ".join(facts.band_names)
    if len(facts.band_names) < len(card.band_names):
        change = f"The scene has too few bands: give one with {wanted}."
    else:
        change = (
            f"Name the file's {len(facts.band_names)} bands in order with --bands, "
            "using the model's names and '_' for a band it does not need."
        )
    return f"Expected bands {wanted}; found {there}. {change}"


def _dtype_mismatch(card: Card, facts: SceneFacts, mapping: Mapping) -> str | None:
    if facts.dtype == card.dtype or mapping.scale is not None:
        return None
    return (
        f"Expected {card.dtype} values; found {facts.dtype}. If they are in other units, give --scale "
        "(and --offset) so that value * scale + offset is in the model's units; if only the type differs, "
        "--scale 1."
    )


def _gsd_mismatch(card: Card, facts: SceneFacts, mapping: Mapping) -> str | None:
    if card.gsd is None or mapping.any_gsd or card.gsd.min_m <= facts.gsd_m <= card.gsd.max_m:
        return None
    return explain(
        "The pixel size is outside what the model was made for",
        at=facts.name,
        expected=f"{card.gsd.min_m:.3g} to {card.gsd.max_m:.3g} m",
        found=f"{facts.gsd_m:.3g} m",
        change="Resample the scene (gdalwarp -tr), or say --any-gsd if you know that it does not matter.",
    )
