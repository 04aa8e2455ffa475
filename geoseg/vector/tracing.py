"""What a tile's part holds for its polygons, with and without a minimum mapping unit.

Without one, a tile is traced at once. With one, tiles first say which of their regions are too small
(`find_small`); what becomes of these is settled for the whole scene (`geoseg.sieve.solve`); then each tile is
cleaned and traced (`clean_and_trace`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.regions import find_regions, seam_sides
from geoseg.vector.trace import trace_tile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from geoseg.vector.options import Tracing
    from geoseg.windows import Window


def trace_or_find_small(
    classes: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
    how: Tracing,
) -> dict[str, NDArray[Any]]:
    """The arrays of a tile's part that its polygons are made of later.

    Args:
        classes: class ids, of the core's shape.
        confidence: percent 0..100 or 255 for none, of the core's shape; None when there is none at all.
        pixel_area: m2 of each pixel, broadcastable to the core's shape.
        core: where the tile is in the product.
        how: the product's polygons.
    """
    if how.minimum is not None:
        return _find_small(classes, pixel_area=pixel_area, core=core, how=how)
    regions = trace_tile(
        classes,
        confidence=confidence,
        pixel_area=pixel_area,
        core=core,
        scene=how.scene,
        nodata=how.nodata,
        connectivity=how.connectivity,
        generalise=how.generalise,
    )
    return regions.to_arrays()


def _find_small(
    classes: NDArray[np.uint8], *, pixel_area: NDArray[np.floating], core: Window, how: Tracing
) -> dict[str, NDArray[Any]]:
    """The tile's regions that may be below the minimum, and what they border on."""
    from geoseg.sieve import reduce_tile

    labels, table = find_regions(
        classes,
        confidence=None,
        pixel_area=pixel_area,
        core=core,
        nodata=how.nodata,
        connectivity=how.connectivity,
    )
    if how.minimum is None:
        raise ValueError("there is no minimum mapping unit")
    graph = reduce_tile(
        labels,
        table,
        minimum=how.minimum,
        seams=seam_sides(core, how.scene),
        weights=how.weights,
        connectivity=how.connectivity,
    )
    return graph.to_arrays()


def clean_and_trace(
    classes: NDArray[np.uint8],
    small: Mapping[str, NDArray[Any]],
    solution: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
    how: Tracing,
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """The classes after the minimum mapping unit, and the arrays of their regions.

    Args:
        classes: class ids before it, of the core's shape.
        small: what `trace_or_find_small` found in them.
        solution: class of each node of the tile's graph, as `solve` says.
        confidence: as for `trace_or_find_small`.
        pixel_area: as there.
        core: as there.
        how: as there.
    """
    from geoseg.sieve import TileGraph, recode

    labels, _ = find_regions(
        classes,
        confidence=None,
        pixel_area=pixel_area,
        core=core,
        nodata=how.nodata,
        connectivity=how.connectivity,
    )
    recoding = TileGraph.from_arrays(small).recoding(solution, nodata=how.nodata)
    cleaned = recode(labels, recoding)
    regions = trace_tile(
        cleaned,
        confidence=confidence,
        pixel_area=pixel_area,
        core=core,
        scene=how.scene,
        nodata=how.nodata,
        connectivity=how.connectivity,
        generalise=how.generalise,
        original=None if how.mixed is None else classes,
        original_ids=None if how.mixed is None else np.array(how.mixed, np.uint8),
    )
    return cleaned, regions.to_arrays()
