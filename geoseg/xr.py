"""Segmentation of xarray DataArrays: lazy and dask-backed, by the same tiles and the same code as files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from geoseg.errors import SceneError, UsageError, explain
from geoseg.inference import Member, Request, segment_tile
from geoseg.matching import Mapping, SceneFacts, require_match
from geoseg.package import read_card
from geoseg.planning import Demands, plan_tiles
from geoseg.prediction import has_global_context
from geoseg.raster.read import has_data
from geoseg.tasks import Runtime
from geoseg.tiling import TILE_PX, Tile, TilePlan
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.api import Model


def segment(
    array: xr.DataArray,
    model: Model,
    *,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
    mapping: Mapping | None = None,
    tile_px: int = TILE_PX,
    runtime: str = "torch",
    cores: int = 1,
) -> xr.Dataset:
    """Class ids and confidence of every pixel, computed tile by tile when asked for.

    Args:
        array: dimensions (band, y, x) under any names; NaN, or its `_FillValue`/`nodata` attribute, is no
            data. Chunks need not fit the tiles.
        model: from `geoseg.load_model`.
        bands: names of the bands in order; None takes the first coordinate.
        gsd_m: pixel size in metres, checked against the package; None skips that check.
        mapping: what the caller declares about values (scale, offset).
        tile_px: side of a tile, which is a chunk of the result.
        runtime: what runs the network.
        cores: CPU cores for networks in each process.

    Returns:
        `classes` (uint8, nodata as in the legend) and `confidence` (uint8 percent, 255 for none), with the
        array's spatial coordinates and attributes that name the classes.

    Raises:
        UsageError: `bands` are not as many as the array has.
        MismatchError: the array is not what the package was made for.
        SceneError: the array does not have three dimensions.
    """
    if array.ndim != 3:  # noqa: PLR2004 - band, y, x
        raise SceneError(
            explain(
                "the array cannot be segmented",
                at=array.name or "DataArray",
                expected="three dimensions: band, y, x",
                found=f"{array.ndim}: {', '.join(map(str, array.dims))}",
                change="Select one time, and keep the band dimension.",
            )
        )
    card = read_card(model.path)
    declared = mapping or Mapping()
    if gsd_m is None:
        declared = replace(declared, any_gsd=True)
    names = tuple(bands) if bands is not None else _band_names(array)
    if len(names) != array.shape[0]:
        raise UsageError(
            explain(
                "band names do not fit the array",
                at=array.name or "DataArray",
                expected=f"{array.shape[0]} names",
                found=", ".join(names),
                change="Give one name per band, in order.",
            )
        )
    facts = SceneFacts(
        name=str(array.name or "DataArray"), band_names=names, dtype=str(array.dtype), gsd_m=gsd_m or 0.0
    )
    require_match(card, facts, declared)
    cube = array.isel({array.dims[0]: [names.index(n) for n in card.band_names]})
    height, width = cube.shape[1:]
    demands = Demands.of([card], blend=has_global_context(card))
    plan = plan_tiles((height, width), demands, tile_px=tile_px)
    request = Request(
        classes=len(card.legend),
        blend=plan.blend,
        scale=1.0 if declared.scale is None else declared.scale,
        offset=declared.offset,
        temperature=card.temperature,
    )
    network = Runtime(name=runtime, cores=cores)
    both = _lazy(cube, plan, request, model.path.absolute(), network)
    dims = array.dims[1:]
    coords = {k: v for k, v in array.coords.items() if array.dims[0] not in v.dims}
    classes = xr.DataArray(both[0], dims=dims, coords=coords, attrs=_class_attributes(card.legend))
    confidence = xr.DataArray(
        both[1], dims=dims, coords=coords, attrs={"units": "percent", "_FillValue": 255}
    )
    return xr.Dataset({"classes": classes, "confidence": confidence})


def _class_attributes(legend: Any) -> dict[str, Any]:
    """CF's way to name classes."""
    return {
        "_FillValue": legend.nodata,
        "flag_values": legend.ids.tolist(),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in legend.names),
    }


def _band_names(array: xr.DataArray) -> tuple[str, ...]:
    dimension = array.dims[0]
    described = array.attrs.get("long_name")
    if isinstance(described, tuple | list) and len(described) == array.shape[0]:
        return tuple(map(str, described))
    if dimension in array.coords:
        return tuple(map(str, array.coords[dimension].to_numpy().tolist()))
    return tuple(f"band_{i + 1}" for i in range(array.shape[0]))


def _lazy(cube: xr.DataArray, plan: TilePlan, request: Request, package: Path, runtime: Runtime) -> da.Array:
    """(2, height, width) uint8: classes and confidence; one chunk per tile."""
    source = cube.data if dask.is_dask_collection(cube.data) else da.from_array(cube.data)
    nodata = cube.attrs.get("_FillValue", cube.attrs.get("nodata"))
    whole = Window(0, 0, *map(int, cube.shape[1:]))
    compute = dask.delayed(_compute, pure=False)
    rows: list[list[da.Array]] = [[] for _ in range(plan.shape[0])]
    for tile in plan:
        reach = tile.reach.intersect(whole)
        # One chunk: the function is given the pixels of its reach, whatever the chunks of the source are.
        pixels = source[(slice(None), *reach.slices())].rechunk(-1)
        result = compute(pixels, tile, reach, request, package, runtime, nodata)
        rows[tile.row].append(da.from_delayed(result, shape=(2, *tile.core.shape), dtype=np.uint8))
    return da.concatenate([da.concatenate(row, axis=2) for row in rows], axis=1)


def _compute(  # noqa: PLR0917 - dask.delayed passes them by position
    values: NDArray[Any],
    tile: Tile,
    reach: Window,
    request: Request,
    package: Path,
    runtime: Runtime,
    nodata: float | None,
) -> NDArray[np.uint8]:
    from geoseg.models.runtime import load_predictor

    card, predictor = load_predictor(
        package, runtime=runtime.name, device=runtime.device, cores=runtime.cores
    )
    member = Member(predictor=predictor, bands=card.bands, where=tuple(range(len(card.bands))))
    found = segment_tile(values, has_data(values, nodata), tile, [member], request, origin=reach)
    if found.confidence is None:
        raise AssertionError("confidence was asked for")
    return np.stack([card.legend.decode(found.index), found.confidence])
