"""The grid-artefact score of a class raster on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import rasterio

from geoseg.errors import SceneError, explain
from geoseg.raster.read import rio_window
from geoseg.seams import GridScore, Tally, panes, tally

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from geoseg.seams import Grid
    from geoseg.windows import Window


def score_grid(path: Path, grid: Grid, *, nodata: int, threads: int = 1) -> GridScore | None:
    """The score of the class raster at `path`; None where no line has data on both sides and beside it.

    Holds one pane of blocks per thread at most.

    Args:
        path: a single-band raster of class ids.
        grid: where patches meet in it.
        nodata: the value that is no class.
        threads: panes looked at at once.

    Raises:
        SceneError: the raster cannot be read.
    """
    try:
        with rasterio.open(path) as dataset:
            shape = dataset.shape
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(lambda pane: _tally(path, pane, grid, shape, nodata), panes(shape))
            return sum(parts, Tally()).score()
    except rasterio.errors.RasterioError as error:
        raise SceneError(
            explain(
                "the class raster cannot be read",
                at=path,
                expected="readable pixels",
                found=str(error.__cause__ or error),
                change="The file looks damaged: predict again with --overwrite.",
            )
        ) from error


def _tally(path: Path, pane: Window, grid: Grid, shape: tuple[int, int], nodata: int) -> Tally:
    """Opened for each pane: closing it is what frees the blocks GDAL has read."""
    with rasterio.open(path) as dataset:

        def read(window: Window) -> NDArray[np.uint8]:
            pixels: NDArray[np.uint8] = dataset.read(1, window=rio_window(window))
            return pixels

        return tally(read, pane, grid, shape=shape, nodata=nodata)
