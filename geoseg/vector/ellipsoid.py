"""The ellipsoid under a pixel plane: where its points are in space, whatever the CRS.

Earth-centred coordinates know no date line and no poles, and projections that take the Earth for a sphere
(web Mercator) are seen as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyproj import Geod, Transformer

from geoseg.errors import SceneError, explain

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray
    from pyproj import CRS

DIFFERENCE_M = 1000.0
"""Half the base of difference quotients: errs by 1e-8, and tolerances of inverse projections by 1e-7."""


def horizontal(crs: CRS) -> CRS:
    """The part of a CRS that speaks of east and north: heights and datum shifts left out."""
    if crs.is_bound and crs.source_crs is not None:
        return horizontal(crs.source_crs)
    return horizontal(crs.sub_crs_list[0]) if crs.is_compound else crs


def unit_of(crs: CRS) -> float:
    """What one unit of the first axis is, in metres or radians."""
    return float(crs.axis_info[0].unit_conversion_factor) if crs.axis_info else 1.0


def geod_of(crs: CRS) -> Geod:
    """The ellipsoid of a CRS that is tied to one.

    Raises:
        SceneError: it has none.
    """
    geod = crs.get_geod()
    if geod is None:
        raise SceneError(
            explain(
                "pixel areas cannot be computed",
                at=crs.name,
                expected="a CRS with an ellipsoid",
                found="none",
                change="Correct the scene's CRS, or leave polygons out with --no-polygons.",
            )
        )
    return geod


class Surface:
    """Places in the pixel plane as places in space."""

    def __init__(self, crs: CRS, transform: Affine) -> None:
        base = crs.geodetic_crs or crs
        self._to_base = Transformer.from_crs(crs, base, always_xy=True)
        self._radian = float(base.axis_info[0].unit_conversion_factor)
        self._geod = geod_of(crs)
        self._transform = transform

    def at(self, col: NDArray[np.float64], row: NDArray[np.float64]) -> NDArray[np.float64]:
        """Earth-centred metres, shape (..., 3); NaN where there is no such place."""
        t, a, es = self._transform, self._geod.a, self._geod.es
        angles = self._to_base.transform(t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f)
        lon, lat = (np.where(np.isfinite(v), v, np.nan) * self._radian for v in angles)
        normal = a / np.sqrt(1 - es * np.sin(lat) ** 2)
        ring = normal * np.cos(lat)
        return np.stack([ring * np.cos(lon), ring * np.sin(lon), normal * (1 - es) * np.sin(lat)], axis=-1)

    def tangents(
        self, rows: NDArray[np.intp], cols: NDArray[np.intp], *, reach_px: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Metres in space of one pixel along a row, and along a column, shape (rows, cols, 3) each.

        NaN outside the CRS's domain. `reach_px` is half the base of the difference quotients.
        """
        x, y = np.meshgrid(cols.astype(np.float64), rows.astype(np.float64))
        along_row = self.at(x + reach_px, y) - self.at(x - reach_px, y)
        along_col = self.at(x, y + reach_px) - self.at(x, y - reach_px)
        return along_row / (2 * reach_px), along_col / (2 * reach_px)
