"""Options that predict and plan share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geoseg.jobs import PredictOptions
from geoseg.matching import Mapping
from geoseg.tiling import TILE_PX

if TYPE_CHECKING:
    from collections.abc import Callable


if TYPE_CHECKING:
    _ParamType = click.ParamType[int | None]
else:
    _ParamType = click.ParamType  # generic only in recent versions of click


class _PxOrAuto(_ParamType):
    """A number of pixels, or "auto", which becomes None."""

    name = "pixels"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | None:
        if value == "auto":
            return None
        return int(click.IntRange(0).convert(value, param, ctx))


_SCENE_OPTIONS = (
    click.argument("scenes", nargs=-1, required=True, metavar="SCENE..."),
    click.option(
        "-m", "--model", required=True, type=click.Path(), metavar="MODEL", help="Model package: a folder."
    ),
    click.option(
        "--bands", metavar="NAME,...", help="Names of the file's bands in order, '_' leaves one out."
    ),
    click.option("--nodata", type=float, help="Value without data, where the file does not say so."),
    click.option("--scale", type=float, help="Value * SCALE + OFFSET is in the model's units."),
    click.option("--offset", type=float, default=0.0, show_default=True, help="Added after scaling."),
    click.option("--any-gsd", is_flag=True, help="Accept any pixel size."),
    click.option("--name", help="Name of a scene of band files (NAME=PATH arguments)."),
    click.option("--patch-size", type=click.IntRange(1), metavar="PX", help="Side of what the network sees."),
    click.option(
        "--overlap",
        type=_PxOrAuto(),
        default="auto",
        show_default=True,
        metavar="PX|auto",
        help="Pixels neighbouring patches share; auto takes the package's own value.",
    ),
    click.option(
        "--tile-size",
        type=click.IntRange(1),
        default=TILE_PX,
        show_default=True,
        metavar="PX",
        help="Side of a tile.",
    ),
    click.option(
        "--stitch",
        type=click.Choice(["auto", "centre", "blend"]),
        default="auto",
        show_default=True,
        help="Split overlaps at their midpoint, or weigh all patches; auto asks the architecture.",
    ),
    click.option("--no-confidence", is_flag=True, help="Leave the confidence raster out."),
    click.option("--no-polygons", is_flag=True, help="Leave the GeoPackage out."),
)


def prediction_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the scene argument and every option that shapes the product."""
    for option in reversed(_SCENE_OPTIONS):
        function = option(function)
    return function


def predict_options(given: dict[str, Any]) -> PredictOptions:
    """The options as a value, from click's dictionary."""
    return PredictOptions(
        patch_px=given["patch_size"],
        overlap_px=given["overlap"],
        tile_px=given["tile_size"],
        blend=None if given["stitch"] == "auto" else given["stitch"] == "blend",
        confidence=not given["no_confidence"],
        polygons=not given["no_polygons"],
        mapping=Mapping(scale=given["scale"], offset=given["offset"], any_gsd=given["any_gsd"]),
    )
