"""Scenes from command line arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import UsageError
from geoseg.raster.mosaic import open_mosaic
from geoseg.raster.scene import open_scene, open_stack
from geoseg.raster.stac import is_item, open_item

if TYPE_CHECKING:
    from collections.abc import Mapping as Map
    from collections.abc import Sequence

    from geoseg.raster.scene import Resample, Scene

SceneSource = str | dict[str, str] | tuple[str, ...]
"""A raster file or STAC item, band name to single-band file, or the files of a mosaic, the last on top."""


def sources(arguments: Sequence[str], *, mosaic: bool = False) -> list[SceneSource]:
    """One source per file, or one of all files for a mosaic; all NAME=PATH arguments together make one more.

    Raises:
        UsageError: a band is named twice, or band files are mixed with those of a mosaic.
    """
    bands: dict[str, str] = {}
    files: list[str] = []
    for argument in arguments:
        name, sign, path = argument.partition("=")
        if not sign or "/" in name or "." in name or Path(argument).exists():
            files.append(argument)
        elif name in bands:
            raise UsageError(f"band {name} is given twice: {bands[name]} and {path}")
        else:
            bands[name] = path
    if mosaic and bands:
        raise UsageError(
            f"--mosaic joins files that have all bands, {next(iter(bands))}=PATH is one band: leave one out"
        )
    found: list[SceneSource] = [tuple(files)] if mosaic else [*files]
    return [*found, bands] if bands else found


def open_source(
    source: SceneSource,
    *,
    bands: str | None,
    nodata: float | None,
    name: str | None,
    resampling: Resample = "bilinear",
) -> Scene:
    """The scene of a source; `bands` as given to --bands, `name` for a mosaic or a scene of band files.

    `resampling` is for bands with larger pixels than the scene's.
    """
    names = None if bands is None else [b.strip() for b in bands.split(",")]
    if isinstance(source, dict):
        if bands is not None:
            raise UsageError("--bands names the bands of one file; NAME=PATH arguments name theirs already")
        return open_stack(source, name=name or "scene", nodata=nodata, resampling=resampling)
    if isinstance(source, tuple):
        return open_mosaic(source, name=name or "mosaic", bands=names, nodata=nodata)
    if is_item(source):
        return open_item(source, bands=names, name=name, nodata=nodata, resampling=resampling)
    scene = open_scene(source, bands=names, nodata=nodata)
    return scene if name is None else replace(scene, name=name)


def open_given(source: SceneSource, given: Map[str, Any]) -> Scene:
    """The scene of a source, from click's dictionary."""
    return open_source(
        source,
        bands=given["bands"],
        nodata=given["nodata"],
        name=given["name"],
        resampling=given["resampling"],
    )
