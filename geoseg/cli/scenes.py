"""Scenes from command line arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.errors import UsageError
from geoseg.raster.scene import open_scene, open_stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.raster.scene import Scene

SceneSource = str | dict[str, str]
"""A raster file, or band name to single-band file."""


def sources(arguments: Sequence[str]) -> list[SceneSource]:
    """One source per file; all NAME=PATH arguments together make one more.

    Raises:
        UsageError: a band is named twice.
    """
    files: dict[str, str] = {}
    found: list[SceneSource] = []
    for argument in arguments:
        name, sign, path = argument.partition("=")
        if not sign or "/" in name or "." in name or Path(argument).exists():
            found.append(argument)
        elif name in files:
            raise UsageError(f"band {name} is given twice: {files[name]} and {path}")
        else:
            files[name] = path
    return [*found, files] if files else found


def open_source(source: SceneSource, *, bands: str | None, nodata: float | None, name: str | None) -> Scene:
    """The scene of a source; `bands` as given to --bands, `name` for a scene of band files."""
    if isinstance(source, dict):
        if bands is not None:
            raise UsageError("--bands names the bands of one file; NAME=PATH arguments name theirs already")
        return open_stack(source, name=name or "scene", nodata=nodata)
    names = None if bands is None else [b.strip() for b in bands.split(",")]
    return open_scene(source, bands=names, nodata=nodata)
