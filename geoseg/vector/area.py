"""True areas of pixels, in m2 on the ellipsoid, whatever the CRS.

Planar areas mislead: web Mercator is four times too large at latitude 60, and degrees are no areas at all.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from pyproj import CRS

from geoseg.errors import SceneError, explain
from geoseg.vector.ellipsoid import DIFFERENCE_M, Surface, geod_of, horizontal, unit_of

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.windows import Window

_LATTICE_M = 8000.0
"""Spacing of the lattice: areal scale bends by 1 part in R**2, so linear steps err by less than 1e-6."""

_LATTICE_MAX_PX = 256

_ROWS_AT_ONCE = 256


def pixel_areas(geobox: GeoBox, window: Window) -> NDArray[np.floating]:
    """Area in m2 of each pixel of `window`, in a shape that broadcasts to the window's.

    The area of a pixel does not depend on the window it is asked for with. Areas are rounded to 24 bits
    (6e-8 of their value): sums of up to 2**29 similar pixels are then exact in float64, hence the same in any
    order, hence for any tiling.

    Unrotated geographic grids give (height, 1), planar CRSs without a tie to the Earth (1, 1), others the
    window's shape. Without a CRS nobody can know: NaN, of shape (1, 1).

    Raises:
        SceneError: when no pixel of the window lies where the CRS is defined.
    """
    if geobox.crs is None:
        return np.full((1, 1), np.nan)
    crs, transform = horizontal(CRS.from_user_input(geobox.crs.proj)), geobox.affine
    unit = unit_of(crs)
    if crs.geodetic_crs is None:
        return _round24(np.full((1, 1), abs(transform.determinant) * unit**2))
    if crs.is_geographic and transform.b == transform.d == 0:
        return _of_parallels(crs, transform, window, radian=unit)
    radius = geod_of(crs).a if crs.is_geographic else 1.0
    size_m = math.sqrt(abs(transform.determinant)) * unit * radius
    return _interpolated(crs, transform, window, size_m=size_m)


def _round24(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    return areas.astype(np.float32).astype(np.float64)


def _of_parallels(crs: CRS, transform: Affine, window: Window, *, radian: float) -> NDArray[np.float64]:
    """Areas between parallels, in closed form, one per row: shape (height, 1)."""
    geod = geod_of(crs)
    rows = np.arange(window.row, window.stop_row + 1, dtype=np.float64)
    latitude = np.clip((transform.f + transform.e * rows) * radian, -math.pi / 2, math.pi / 2)
    sine, e = np.sin(latitude), math.sqrt(geod.es)
    # Area from the equator to a parallel, per radian of longitude, over b**2 / 2.
    bent = np.arctanh(e * sine) / e if e else sine
    from_equator = sine / (1 - geod.es * sine**2) + bent
    width = abs(transform.a) * radian
    return _round24((geod.b**2 / 2 * width * np.abs(np.diff(from_equator)))[:, None])


def _interpolated(crs: CRS, transform: Affine, window: Window, *, size_m: float) -> NDArray[np.float32]:
    """Areas interpolated linearly between the nodes of a lattice fixed to the scene."""
    step = int(np.clip(_LATTICE_M / size_m, 1, _LATTICE_MAX_PX))
    node_rows = np.arange(window.row // step, -(-window.stop_row // step) + 1) * step
    node_cols = np.arange(window.col // step, -(-window.stop_col // step) + 1) * step
    nodes = _at_points(crs, transform, node_rows, node_cols, reach_px=DIFFERENCE_M / size_m)
    nodes = _fill_outside(nodes, crs, transform, window)
    areas = np.empty(window.shape, np.float32)
    j, v = _between(window.col, window.stop_col, step)
    cells = [slice(a, b) for a, b in pairwise([0, *(np.flatnonzero(np.diff(j)) + 1).tolist(), len(j)])]
    for start in range(window.row, window.stop_row, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, window.stop_row)
        i, u = _between(start, stop, step)
        i += start // step - window.row // step
        across = nodes[i] * (1 - u)[:, None] + nodes[i + 1] * u[:, None]
        rows = areas[start - window.row : stop - window.row]
        for cell in cells:
            left, right = across[:, j[cell.start]], across[:, j[cell.start] + 1]
            block = np.multiply.outer((right - left).astype(np.float32), v[cell].astype(np.float32))
            np.add(block, left.astype(np.float32)[:, None], out=rows[:, cell])
    return areas


def _between(start: int, stop: int, step: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each pixel centre: the node before it, counted from the first one's, and how far it is past it."""
    pixel = np.arange(start, stop)
    return pixel // step - start // step, (pixel % step + 0.5) / step


def _at_points(
    crs: CRS, transform: Affine, rows: NDArray[np.intp], cols: NDArray[np.intp], *, reach_px: float
) -> NDArray[np.float64]:
    """Area of one pixel at each node, shape (rows, cols); NaN outside the CRS's domain.

    The cross product of the two tangents of the ellipsoid, along a row and along a column of pixels.
    """
    along_row, along_col = Surface(crs, transform).tangents(rows, cols, reach_px=reach_px)
    return np.asarray(np.linalg.norm(np.cross(along_row, along_col), axis=-1), np.float64)


def _fill_outside(
    nodes: NDArray[np.float64], crs: CRS, transform: Affine, window: Window
) -> NDArray[np.float64]:
    """Nodes outside the CRS's domain get the planar area: they only colour pixels along its border."""
    known = np.isfinite(nodes)
    if not known.any():
        raise SceneError(
            explain(
                "pixel areas cannot be computed",
                at=str(window),
                expected=f"places where {crs.name} is defined",
                found=f"none, with the transform {tuple(transform)[:6]}",
                change="Correct the scene's georeference, or leave polygons out with --no-polygons.",
            )
        )
    planar = abs(transform.determinant) * unit_of(crs) ** 2
    return np.where(known, nodes, planar)
