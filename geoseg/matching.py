"""Does a scene fit a model package? Refuses rather than guesses, and says which mapping would help."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.errors import MismatchError, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from geoseg.package import Card

_SIMILAR = 0.66
"""Share of two names' letters that must agree: of three, one may be wrong, or two may have changed places."""


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
    return f"Expected bands {wanted}; found {there}. {suggest(card.band_names, facts.band_names)}{change}"


def suggest(wanted: Sequence[str], there: Sequence[str]) -> str:
    """A sentence, and a space, on what may be meant by the wanted names that are missing; empty: nothing."""
    missing = [name for name in wanted if name not in there]
    found = similar(missing, [name for name in there if name not in wanted])
    pairs = ", ".join(f"{other} for {name}" for name, other in found.items())
    return f"The nearest there is {pairs}. " if pairs else ""


def similar(missing: Sequence[str], there: Iterable[str]) -> dict[str, str]:
    """For missing names, the nearest of those there: another spelling or a typo, and each for one name only.

    Numbers are no typos: `B02` and `b2` are one name, `B2` and `B12` are two. Nor are single letters: `B8A`
    is not `B8`.
    """
    pairs = [(_alike(m, t), m, t) for m in missing for t in there]
    found: dict[str, str] = {}
    for score, wanted, name in sorted(pairs, key=lambda pair: -pair[0]):
        if score >= _SIMILAR and wanted not in found and name not in found.values():
            found[wanted] = name
    return {wanted: found[wanted] for wanted in missing if wanted in found}


def _alike(one: str, other: str) -> float:
    """0 to 1: how much of two names' letters agree; 0 where their numbers do not."""
    (letters, numbers), (others, other_numbers) = map(_spelling, (one, other))
    if numbers != other_numbers:
        return 0.0
    if letters == others:
        return 1.0
    if min(len(letters), len(others)) == 1:
        return 0.0
    return difflib.SequenceMatcher(None, letters, others).ratio()


def _spelling(name: str) -> tuple[str, list[int]]:
    """The letters and the numbers of a name, without case, signs between them and leading zeros."""
    plain = name.casefold()
    return "".join(c for c in plain if c.isalpha()), [int(n) for n in re.findall(r"[0-9]+", plain)]


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
