"""Options that say what reference labels mean, and which classes a map has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.accuracy.layers import is_vector, polygon_legend
from geoseg.config import load_legend
from geoseg.errors import UsageError
from geoseg.raster.legends import own_legend

if TYPE_CHECKING:
    from collections.abc import Callable

    from geoseg.legend import Legend

_REFERENCE_OPTIONS = (
    click.option("--column", metavar="NAME", help="Polygons: the attribute that says the class."),
    click.option("--layer", metavar="NAME", help="Polygons: the layer, if the file has several."),
    click.option(
        "--class", "classes", multiple=True, metavar="VALUE=CLASS", help="Polygons: attribute value to class."
    ),
    click.option(
        "--remap",
        multiple=True,
        metavar="VALUE=ID",
        help="Raster: value to class id; VALUE= leaves it out.",
    ),
)


def reference_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say what a reference's values mean."""
    for option in reversed(_REFERENCE_OPTIONS):
        function = option(function)
    return function


def reference_facts(given: dict[str, Any]) -> dict[str, Any]:
    """Those options as keyword arguments, from click's dictionary."""
    return {
        "column": given["column"],
        "layer": given["layer"],
        "classes": dict(pair(text) for text in given["classes"]),
        "remap": _remap(given["remap"]),
    }


def legend_of(path: Path, given: str | None) -> Legend:
    """The classes of a map: as the user says, else as it says itself.

    Raises:
        UsageError: nobody says.
    """
    if given is not None:
        return load_legend(Path(given))
    legend = polygon_legend(path) if is_vector(path) else own_legend(path)
    if legend is None:
        raise UsageError(
            f"the map carries no legend: {path}. Say what its values stand for with --legend FILE."
        )
    return legend


def pair(text: str) -> tuple[str, str | None]:
    """VALUE=CLASS in two; nothing after the sign is None.

    Raises:
        UsageError: there is no sign.
    """
    source, sign, target = text.partition("=")
    if not sign:
        raise UsageError(f"expected VALUE=CLASS, found {text!r}; VALUE= leaves those out")
    return source, target or None


def _remap(given: tuple[str, ...]) -> dict[int, int | None]:
    pairs = dict(pair(text) for text in given)
    try:
        return {int(source): None if target is None else int(target) for source, target in pairs.items()}
    except ValueError as error:
        raise UsageError(f"--remap takes VALUE=ID with integers, not {', '.join(given)}") from error
