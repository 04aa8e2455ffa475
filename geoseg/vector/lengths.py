"""True lengths of outlines, in m on the ellipsoid, whatever the CRS; and what pixels measure there.

Planar lengths mislead as planar areas do: web Mercator is twice too long at latitude 60, and a degree of
longitude is no length at all. How long a step by one column and one row is, and the angle between the two,
is found at the nodes of a lattice fixed to the grid and interpolated between them; so the length of an
outline is a function of its points alone, never of the tiles it came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pyproj import CRS

from geoseg.vector.ellipsoid import DIFFERENCE_M, Surface, geod_of, horizontal, unit_of

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.vector.outlines import Outlines

_LATTICE_M = 8000.0
"""Spacing of the lattice: linear scale bends by 1 part in R**2, so linear steps err by less than 1e-6."""
_MOST_NODES = 1 << 17
"""Of larger lattices every second node is left out, until there are so few: continents at any pixel size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """What steps between pixel corners measure in a grid."""

    along: NDArray[np.float64]
    """Metres of a step by one column at each node, shape (node rows, node columns), at least 2 x 2."""
    down: NDArray[np.float64]
    """Metres of a step by one row."""
    cosine: NDArray[np.float64]
    """Of the angle between the two; 0 where pixels are upright on the ground."""
    step: tuple[int, int]
    """Rows and columns of pixels between nodes; the first node is the corner of the first pixel."""

    @classmethod
    def of(cls, geobox: GeoBox) -> Ruler:
        """The ruler of a grid; without a CRS every length is NaN, as nobody can know."""
        if geobox.crs is None:
            return _even(math.nan, math.nan, math.nan, geobox)
        crs, transform = horizontal(CRS.from_user_input(geobox.crs.proj)), geobox.affine
        unit = unit_of(crs)
        if crs.geodetic_crs is None:
            return _planar(transform, unit, geobox)
        if crs.is_geographic and transform.b == transform.d == 0:
            return _of_parallels(crs, transform, unit, geobox)
        return _interpolated(crs, transform, unit, geobox)

    @property
    def pixel_size_m(self) -> tuple[float, float]:
        """(row, column): metres between neighbouring rows and between columns in the middle of the grid."""
        row, col = (n // 2 for n in self.along.shape)
        return float(self.down[row, col]), float(self.along[row, col])

    def reach_px(self, metres: float) -> tuple[float, float]:
        """(rows, columns) within which everything, anywhere in the grid, is at most so many metres away.

        The half axes of an ellipse in the pixel plane, rounded down to six digits: the lengths themselves may
        differ in their last bits between machines.
        """
        slant = math.sqrt(1 + float(np.abs(self.cosine).max()))
        return (
            _six_digits(metres / (float(self.down.max()) * slant)),
            _six_digits(metres / (float(self.along.max()) * slant)),
        )

    def measure(self, outlines: Outlines) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Perimeter in metres, holes included, and area in pixels of each region's outline."""
        from geoseg.vector.sides import measure_regions

        rows, cols = self.step
        return measure_regions(
            outlines.coords,
            outlines.ring_offsets,
            outlines.polygon_offsets,
            outlines.region_offsets,
            outlines.scale,
            self.along,
            self.down,
            self.cosine,
            rows,
            cols,
        )


def outlined_area(
    area_m2: NDArray[np.float64], pixels: NDArray[np.int64], area_px: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area in m2 of outlines that have been moved, from that of the pixels they were drawn around.

    What an outline gained or lost is worth as much per pixel as the region is on average; outlines around
    exactly their pixels get exactly their pixels' area.
    """
    return area_m2 + (area_px - pixels) * (area_m2 / pixels)


def _six_digits(value: float) -> float:
    """`value` rounded down to six significant digits."""
    digits = 5 - math.floor(math.log10(value))
    return math.floor(value * 10.0**digits * (1 + 1e-9)) / 10.0**digits


def _even(along: float, down: float, cosine: float, geobox: GeoBox) -> Ruler:
    """The ruler of a grid that is the same everywhere."""
    height, width = geobox.shape
    full = np.ones((2, 2))
    return Ruler(along=along * full, down=down * full, cosine=cosine * full, step=(int(height), int(width)))


def _planar(transform: Affine, unit: float, geobox: GeoBox) -> Ruler:
    t = transform
    along, down = math.hypot(t.a, t.d), math.hypot(t.b, t.e)
    return _even(along * unit, down * unit, (t.a * t.b + t.d * t.e) / (along * down), geobox)


def _of_parallels(crs: CRS, transform: Affine, radian: float, geobox: GeoBox) -> Ruler:
    """In closed form; parallels shrink towards the poles, which are as far as latitudes go."""
    geod, (height, width) = geod_of(crs), geobox.shape
    step = max(1, int(_LATTICE_M / (abs(transform.e) * radian * geod.a)), int(height) // _MOST_NODES)
    rows = np.arange(-(-int(height) // step) + 1) * float(step)
    latitude = np.clip((transform.f + transform.e * rows) * radian, -math.pi / 2, math.pi / 2)
    bent = 1 - geod.es * np.sin(latitude) ** 2
    along = abs(transform.a) * radian * geod.a * np.cos(latitude) / np.sqrt(bent)
    down = abs(transform.e) * radian * geod.a * (1 - geod.es) / bent**1.5
    across = np.ones(2)
    return Ruler(
        along=np.outer(along, across),
        down=np.outer(down, across),
        cosine=np.zeros((len(rows), 2)),
        step=(step, int(width)),
    )


def _interpolated(crs: CRS, transform: Affine, unit: float, geobox: GeoBox) -> Ruler:
    """Found on the ellipsoid at each node; outside the CRS's domain, planar."""
    radius = geod_of(crs).a if crs.is_geographic else 1.0
    size_m = math.sqrt(abs(transform.determinant)) * unit * radius
    height, width = (int(n) for n in geobox.shape)
    step = max(1, int(_LATTICE_M / size_m))
    while (height // step + 2) * (width // step + 2) > _MOST_NODES:
        step *= 2
    rows, cols = (np.arange(-(-size // step) + 1) * step for size in (height, width))
    one, other = Surface(crs, transform).tangents(rows, cols, reach_px=DIFFERENCE_M / size_m)
    along, down = np.linalg.norm(one, axis=-1), np.linalg.norm(other, axis=-1)
    known = np.isfinite(along) & np.isfinite(down) & (along > 0) & (down > 0)
    flat = _planar(transform, unit * radius, geobox)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (one * other).sum(axis=-1) / (along * down)
    return Ruler(
        along=np.where(known, along, flat.along[0, 0]),
        down=np.where(known, down, flat.down[0, 0]),
        cosine=np.where(known, cosine, flat.cosine[0, 0]),
        step=(step, step),
    )
