"""Options that commands share, and what they mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.scenes import SCENE_OPTIONS, mapping_of
from geoseg.errors import UsageError
from geoseg.execute import default_threads
from geoseg.inference import VIEWS
from geoseg.models.catalogue import RUNTIMES
from geoseg.prediction import PredictOptions
from geoseg.raster.aoi import read_aoi
from geoseg.sieve import parse_area
from geoseg.stitch import CONFIDENCES
from geoseg.tiling import TILE_PX
from geoseg.vector.options import FORMATS, PolygonOptions, parse_distance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from geoseg.raster.aoi import Aoi
    from geoseg.raster.scene import Scene

_LEAST_MEMORY = 10**6
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


if TYPE_CHECKING:
    _ParamType = click.ParamType[int | None]
else:
    _ParamType = click.ParamType  # generic only in recent versions of click


class _Memory(_ParamType):
    """Bytes, from a number with a unit."""

    name = "size"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | None:
        if isinstance(value, int):
            return value
        parts = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", str(value).lower())
        if parts is None or parts[2] not in _UNITS:
            self.fail(f"{value!r} is no size; write 800MB, 2.5GB or 2GiB", param, ctx)
        size = int(float(parts[1]) * _UNITS[parts[2]])
        if size < _LEAST_MEMORY:
            self.fail(
                f"{value!r} is {size} bytes, too little for any network; write 800MB or 2.5GB", param, ctx
            )
        return size


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


class _Measure(click.ParamType):  # type: ignore[type-arg] # generic only in recent versions of click
    """A number with a unit, as `parse` reads it."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


_POLYGON_OPTIONS = (
    click.option(
        "--min-area",
        type=_Measure("area", parse_area),
        metavar="AREA",
        help="Dissolve smaller regions, e.g. 0.5ha, 400m2, 1km2 or 20px, into the class next to them with "
        "the longest shared border.",
    ),
    click.option(
        "--simplify",
        type=_Measure("distance", parse_distance),
        metavar="DISTANCE",
        help="Leave out vertices as long as no line moves further than, e.g., 10m or 2px. Shared borders "
        "stay shared.",
    ),
    click.option("--smooth", is_flag=True, help="Cut the corners of the pixels' staircase by half a pixel."),
    click.option(
        "--keep-outline",
        is_flag=True,
        help="Leave borders with nodata as they are when lines are simplified or smoothed.",
    ),
    click.option(
        "--connectivity",
        type=click.Choice(["4", "8"]),
        default="4",
        show_default=True,
        help="8: pixels that touch at a corner only belong together, too.",
    ),
    click.option(
        "--class-fractions",
        is_flag=True,
        help="With --min-area: what part of each polygon was of which class before.",
    ),
    click.option("--crs", metavar="EPSG:...", help="CRS of the polygons. [default: the raster's]"),
    click.option(
        "--format",
        "formats",
        multiple=True,
        type=click.Choice(FORMATS),
        help="File of the polygons; may be given several times. [default: gpkg]",
    ),
)

_SCENE_OPTIONS = (
    click.argument("scenes", nargs=-1, required=True, metavar="SCENE..."),
    click.option(
        "-m",
        "--model",
        required=True,
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="MODEL",
        help="Model package: a folder, or an exported ONNX file. Several vote.",
    ),
    *SCENE_OPTIONS,
    click.option("--aoi", type=click.Path(), metavar="FILE", help="Map only what lies in these polygons."),
    click.option("--aoi-layer", metavar="NAME", help="Layer of the --aoi file, where it has several."),
    click.option(
        "--bbox",
        type=float,
        nargs=4,
        metavar="XMIN YMIN XMAX YMAX",
        help="Map only this box, in the scene's CRS or that of --bbox-crs.",
    ),
    click.option("--bbox-crs", metavar="EPSG:...", help="CRS of --bbox."),
    click.option(
        "--patch-size",
        type=click.IntRange(1),
        metavar="PX",
        help="Side of what the network sees. [default: what wastes little and fits the memory]",
    ),
    click.option(
        "--memory",
        type=_Memory(),
        metavar="SIZE",
        help="For a process in all, e.g. 2GB. [default: 3GB for each network call]",
    ),
    click.option(
        "--overlap",
        type=_PxOrAuto(),
        default="auto",
        show_default=True,
        metavar="PX|auto",
        help="Pixels neighbouring patches share; auto: twice the distance the network looks.",
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
        help="Split overlaps at their midpoint, or weigh all patches; auto asks the package.",
    ),
    click.option(
        "--tta",
        type=click.Choice(VIEWS),
        default="one",
        show_default=True,
        help="Views of each patch that vote: mirrored ones (4 times the work), or all eight.",
    ),
    click.option(
        "--confidence",
        type=click.Choice(CONFIDENCES),
        default="probability",
        show_default=True,
        help="Of the class; its lead over the next; 1 - entropy.",
    ),
    click.option("--no-confidence", is_flag=True, help="Leave the confidence raster out."),
    click.option("--probabilities", is_flag=True, help="Write the probability of every class, too."),
    click.option("--no-polygons", is_flag=True, help="Leave the polygons out."),
    *_POLYGON_OPTIONS,
)


_EXECUTION_OPTIONS = (
    click.option(
        "--runtime",
        type=click.Choice(["auto", *RUNTIMES]),
        default="auto",
        show_default=True,
        help="What runs the network; auto: the fastest here that labels a sample as torch does.",
    ),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto."),
    click.option(
        "--batch-size", type=click.IntRange(1), help="Patches at once. [default: 1, on a GPU what fits]"
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        default=default_threads,
        show_default="one per core, at most 8",
        help="Cores this process uses.",
    ),
    click.option("--workers", type=click.IntRange(0), default=0, help="Dask worker processes of our own."),
)


def execution_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say what runs the network, and where."""
    return _with(_EXECUTION_OPTIONS, function)


def prediction_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the scene argument and every option that shapes the product."""
    return _with(_SCENE_OPTIONS, function)


def polygon_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that shape polygons; `prediction_options` has them already."""
    return _with(_POLYGON_OPTIONS, function)


def _with(options: Sequence[Callable[..., Any]], function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        function = option(function)
    return function


def polygons(given: dict[str, Any]) -> PolygonOptions:
    """The options of polygons as a value, from click's dictionary."""
    return PolygonOptions(
        connectivity=8 if given["connectivity"] == "8" else 4,
        min_area=given["min_area"],
        simplify=given["simplify"],
        smooth=given["smooth"],
        keep_outline=given["keep_outline"],
        class_fractions=given["class_fractions"],
        crs=given["crs"],
        formats=tuple(dict.fromkeys(given["formats"])) or None,
    )


def predict_options(given: dict[str, Any]) -> PredictOptions:
    """The options as a value, from click's dictionary."""
    return PredictOptions(
        patch_px=given["patch_size"],
        overlap_px=given["overlap"],
        tile_px=given["tile_size"],
        blend=None if given["stitch"] == "auto" else given["stitch"] == "blend",
        memory=given["memory"],
        views=given["tta"],
        confidence=None if given["no_confidence"] else given["confidence"],
        probabilities=given["probabilities"],
        polygons=None if given["no_polygons"] else polygons(given),
        mapping=mapping_of(given),
    )


def area_of_interest(scene: Scene, given: dict[str, Any]) -> Aoi | None:
    """The area wanted of a scene, from click's dictionary; None: all of it."""
    path, bbox, crs = given["aoi"], given["bbox"], given["bbox_crs"]
    if path is None and bbox is None:
        if crs is not None:
            raise UsageError("--bbox-crs says of what CRS --bbox is: give that, too")
        return None
    return read_aoi(path, bbox, scene, layer=given["aoi_layer"], bbox_crs=crs)
