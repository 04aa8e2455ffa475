"""Scenes from command line arguments, and the options that say how they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.errors import UsageError
from geoseg.matching import Mapping
from geoseg.raster.mosaic import open_mosaic
from geoseg.raster.scene import open_scene, open_stack
from geoseg.raster.stac import is_item, open_item

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Mapping as Map

    from geoseg.raster.scene import Resample, Scene

SceneSource = str | dict[str, str] | tuple[str, ...]
"""A raster file or STAC item, band name to single-band file, or the files of a mosaic, the last on top."""

SCENE_OPTIONS = (
    click.option("--mosaic", is_flag=True, help="All SCENE files together are one scene."),
    click.option(
        "--bands", metavar="NAME,...", help="Names of the file's bands in order, '_' leaves one out."
    ),
    click.option("--nodata", type=float, help="Value without data, where the file does not say so."),
    click.option("--scale", type=float, help="Value * SCALE + OFFSET is in the model's units."),
    click.option("--offset", type=float, default=0.0, show_default=True, help="Added after scaling."),
    click.option("--any-gsd", is_flag=True, help="Accept any pixel size."),
    click.option("--name", help="Name of the scene: the start of its files' names. [default: the file's]"),
    click.option(
        "--resampling",
        type=click.Choice(["nearest", "bilinear", "cubic"]),
        default="bilinear",
        show_default=True,
        help="How band files of coarser pixels are brought to the finest ones.",
    ),
)
"""How a scene is read and held against a model: what `open_given` and `mapping_of` want."""


def scene_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say how scenes are read."""
    for option in reversed(SCENE_OPTIONS):
        function = option(function)
    return function


def mapping_of(given: Map[str, Any]) -> Mapping:
    """What the user declares about values and resolution, from click's dictionary."""
    return Mapping(scale=given["scale"], offset=given["offset"], any_gsd=given["any_gsd"])


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
