"""Outlines in the coordinates of another CRS, neighbours still sharing their borders.

What two regions share are straight segments between the same two lattice points. Long ones are bent by a
projection, so points are put in first: how many depends on the segment and the scene alone, and where they
are is counted from the same end for both neighbours. Every point is then transformed by one operation, the
same for the whole scene. So shared borders stay the same numbers, whatever the tiling.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import CRS
from pyproj.transformer import AreaOfInterest, Transformer, TransformerGroup

from geoseg.errors import SceneError, UsageError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from affine import Affine
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.vector.features import Layer
    from geoseg.vector.outlines import Outlines
    from geoseg.vector.wkb import Placed

_MOST_BENT_PX = 0.05
"""How far a straight line of the scene may leave its bent image: a twentieth of a pixel."""
_LONGEST_PX = 1024
"""Segments of any length are looked at this far apart."""
_PROBES = 2049
"""Points of the lines along which a scene is looked at before work begins."""
_SAMPLES = 33
"""Places along each side of the scene where its bending is measured."""
_HALF = 180.0
"""Degrees of longitude on either side of Greenwich."""
_TORN = 100
"""A step this many times longer than the scene's longest is a tear: the target's plane ends there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """How outlines of a scene become geometries of a layer."""

    place: Callable[[Outlines], Placed]
    """The outlines in the layer's coordinates."""
    multi: bool
    """Whether a region may be in several pieces there."""


def placing(layer: Layer) -> Placing:
    """How outlines become geometries of the layer: in its own CRS, or the scene's where it names none.

    Longitudes that leave -180..180 after a reprojection are cut at the date line.

    Raises:
        UsageError: the scene has no CRS and another is asked for, or the other cannot hold the scene.
    """
    from geoseg.vector.wkb import place

    geobox = layer.geobox
    if layer.crs is None:
        return Placing(place=lambda outlines: place(outlines, geobox.affine), multi=layer.multi)
    warp = _Warp.of(geobox, layer.crs)
    return Placing(place=warp.place, multi=layer.multi or warp.crosses_date_line)


def require_room(geobox: GeoBox, crs: CRS) -> None:
    """Refuse a CRS that cannot hold the scene, before there is anything to write.

    Looks along lines all over the scene; where polygons lie is looked at again when they are placed.

    Raises:
        UsageError: the scene has no CRS, or the other has no room for it; says why.
    """
    warp = _Warp.of(geobox, crs)
    height, width = geobox.shape
    for across in (True, False):
        along = np.linspace(0, width if across else height, _PROBES)
        beside = np.linspace(0, height if across else width, _SAMPLES)
        u, v = np.meshgrid(along, beside)
        col, row, t = (u, v, geobox.affine) if across else (v, u, geobox.affine)
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        warp.require_whole(np.stack(warp.operation.transform(x, y), axis=-1), spacing_px=along[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Warp:
    """From pixel coordinates of a scene to a CRS."""

    transform: Affine
    crs: CRS
    operation: Transformer
    step_px: int
    """Longest segment that stays straight."""
    longest: float
    """Longest image of a pixel's side, in units of the CRS."""
    crosses_date_line: bool

    @classmethod
    def of(cls, geobox: GeoBox, crs: CRS) -> _Warp:
        if geobox.crs is None:
            raise UsageError(
                explain(
                    "polygons cannot be reprojected",
                    at="scene",
                    expected="a scene with a CRS",
                    found="none",
                    change="Assign the scene its CRS (gdal_edit.py -a_srs), or ask for no other.",
                )
            )
        source = CRS.from_user_input(geobox.crs.proj)
        operation = _operation(source, crs, geobox)
        step, longest = _step(operation, geobox)
        if not np.isfinite(longest):
            raise _outside(crs)
        return cls(
            transform=geobox.affine,
            crs=crs,
            operation=operation,
            step_px=step,
            longest=longest,
            crosses_date_line=crs.is_geographic and _comes_near_date_line(operation, geobox),
        )

    def place(self, outlines: Outlines) -> Placed:
        """The outlines in the CRS.

        Raises:
            UsageError: some of them lie where the CRS has no coordinates, or across the edge of its plane.
        """
        from geoseg.vector.dateline import cut_at_date_line
        from geoseg.vector.wkb import Placed, place_rings

        coords, ring_offsets = densified(outlines, self.step_px)
        points = place_rings(coords, ring_offsets, scale=outlines.scale, transform=self.transform)
        points[:, 0], points[:, 1] = self.operation.transform(points[:, 0].copy(), points[:, 1].copy())
        self._require_inside(points)
        placed = Placed(
            points=points,
            ring_offsets=ring_offsets,
            polygon_offsets=outlines.polygon_offsets,
            region_offsets=outlines.region_offsets,
        )
        if self.crs.is_geographic:
            return cut_at_date_line(placed)
        steps = np.abs(np.diff(points, axis=0)).max(axis=1, initial=0)
        steps[ring_offsets[1:-1] - 1] = 0  # from ring to ring
        self._require_short(steps, self.step_px)
        return placed

    def require_whole(self, lines: NDArray[np.float64], *, spacing_px: float) -> None:
        """Refuse images of lines, shape (lines, points, 2), with gaps; points are so many pixels apart."""
        self._require_inside(lines)
        if not self.crs.is_geographic:
            self._require_short(np.abs(np.diff(lines, axis=1)), max(spacing_px, 1))

    def _require_inside(self, points: NDArray[np.float64]) -> None:
        if not np.isfinite(points).all():
            raise _outside(self.crs)

    def _require_short(self, steps: NDArray[np.float64], spacing_px: float) -> None:
        if steps.max(initial=0) > _TORN * spacing_px * self.longest:
            raise UsageError(
                explain(
                    "polygons cannot be reprojected",
                    at=self.crs.name,
                    expected="a CRS whose plane holds the scene in one piece",
                    found="polygons that are torn, as web Mercator tears them at the date line",
                    change="Choose a CRS made for this place.",
                )
            )


def densified(outlines: Outlines, step_px: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Points of the rings with more in between, and the offsets of the rings; in units of the outlines.

    None is further from the next than `step_px` along rows and along columns; both neighbours of a line get
    the same.
    """
    coords, offsets = outlines.coords, outlines.ring_offsets
    if not len(coords):
        return coords, offsets
    start, end = coords.astype(np.int64), np.concatenate([coords[1:], coords[:1]]).astype(np.int64)
    parts = -(-np.abs(end - start).max(axis=1) // (step_px * outlines.scale))
    parts = np.maximum(parts, 1)
    parts[offsets[1:] - 1] = 1
    if parts.max() == 1:
        return coords, offsets
    first = np.concatenate([[0], np.cumsum(parts)])
    segment = np.repeat(np.arange(len(coords)), parts)
    along = np.arange(first[-1]) - first[segment]
    backwards = (end[:, 0] < start[:, 0]) | ((end[:, 0] == start[:, 0]) & (end[:, 1] < start[:, 1]))
    low, high = np.where(backwards[:, None], end, start), np.where(backwards[:, None], start, end)
    along = np.where(backwards[segment], parts[segment] - along, along)
    points = low[segment] + (high - low)[segment] * (along / parts[segment])[:, None]
    last = first[offsets[1:] - 1]
    points[last] = start[offsets[1:] - 1]  # the end of a ring begins no segment
    return points, first[offsets]


def _operation(source: CRS, target: CRS, geobox: GeoBox) -> Transformer:
    """The one best operation: PROJ's own choice may change from point to point, and would tear borders."""
    with warnings.catch_warnings():
        # Without its grids the next best is taken, as everywhere.
        warnings.filterwarnings("ignore", message="Best transformation is not available")
        group = TransformerGroup(source, target, always_xy=True, area_of_interest=_area(source, geobox))
    if not group.transformers:
        raise _outside(target)
    return group.transformers[0]


def _area(source: CRS, geobox: GeoBox) -> AreaOfInterest | None:
    """Where the scene is, for the choice of an operation; None where that cannot be said."""
    if source.geodetic_crs is None:
        return None
    x, y = _lattice(geobox)
    to_angles = Transformer.from_crs(source, source.geodetic_crs, always_xy=True)
    west, south, east, north = _range(*to_angles.transform(x, y))
    if not np.isfinite([west, south, east, north]).all() or east - west > 180:  # noqa: PLR2004 - degrees
        return None
    return AreaOfInterest(west, south, east, north)


def _range(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x, y = x[np.isfinite(x)], y[np.isfinite(y)]
    if not len(x) or not len(y):
        return (np.nan,) * 4
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _lattice(geobox: GeoBox, *, shift: tuple[float, float] = (0, 0)) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coordinates of places all over the scene, its corners among them, shifted by (columns, rows)."""
    height, width = geobox.shape
    col, row = np.meshgrid(np.linspace(0, width, _SAMPLES), np.linspace(0, height, _SAMPLES))
    t, col, row = geobox.affine, col + shift[0], row + shift[1]
    return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f


def _images(
    operation: Transformer, geobox: GeoBox, *, shift: tuple[float, float] = (0, 0)
) -> NDArray[np.float64]:
    """Where the places lie in the target, shape (2, places, places); NaN where there is no such place."""
    images = np.stack(operation.transform(*_lattice(geobox, shift=shift)))
    return np.where(np.isfinite(images), images, np.nan)


def _steps(
    operation: Transformer, start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """From images to images; the short way around the Earth."""
    step = end - start
    if operation.target_crs is not None and operation.target_crs.is_geographic:
        step[0] -= 2 * _HALF * np.round(step[0] / (2 * _HALF))
    return step


def _step(operation: Transformer, geobox: GeoBox) -> tuple[int, float]:
    """Longest segment, in pixels, that is bent by little enough; and the longest image of a pixel's side."""
    at = _images(operation, geobox)
    across, down = (
        np.hypot(*_steps(operation, at, _images(operation, geobox, shift=s))) for s in ((1, 0), (0, 1))
    )
    known = np.isfinite(across) & np.isfinite(down)
    if not known.any():
        return 1, float("nan")
    size = np.where(known, np.minimum(across, down), np.nan)
    step = _LONGEST_PX
    while step > 1 and _bent(operation, geobox, step, size) > _MOST_BENT_PX:
        step //= 2
    return step, float(np.median(np.maximum(across, down)[known]))


def _bent(operation: Transformer, geobox: GeoBox, step: int, size: NDArray[np.float64]) -> float:
    """How far, in pixels, segments of `step` pixels leave straight lines, at most.

    One place in fifty is left out: there the target's plane may be torn.
    """
    height, width = geobox.shape
    most = 0.0
    for across, down in ((1, 0), (0, 1), (1, 1), (1, -1)):
        reach = min(step, width if across else step, height if down else step) / 2
        before, middle, after = (
            _images(operation, geobox, shift=(s * across * reach, s * down * reach)) for s in (-1, 0, 1)
        )
        back, ahead = (_steps(operation, middle, end) for end in (before, after))
        chord = np.hypot(*(ahead - back)) * size
        known = chord > 0  # NaN is not
        off = np.abs(back[0] * ahead[1] - back[1] * ahead[0])[known] / chord[known]
        if len(off):
            most = max(most, float(np.quantile(off, 0.98)))
    return most


def _comes_near_date_line(operation: Transformer, geobox: GeoBox) -> bool:
    """Whether the scene may reach across longitude 180 or a pole."""
    lon, lat = _images(operation, geobox)
    if not np.isfinite(lat).any():
        return True
    (east, north) = (np.concatenate([np.abs(np.diff(v, axis=a)).ravel() for a in (0, 1)]) for v in (lon, lat))
    east, north = east[np.isfinite(east)], north[np.isfinite(north)]
    beside = np.nanmax(np.abs(lon)) > _HALF - 2 * east[east < _HALF].max(initial=0)
    polar = np.nanmax(np.abs(lat)) > _HALF / 2 - 2 * north.max(initial=0)
    return bool((east > _HALF).any() or beside or polar)


def _outside(crs: CRS) -> UsageError | SceneError:
    return UsageError(
        explain(
            "polygons cannot be reprojected",
            at=crs.name,
            expected="coordinates for every place of the scene",
            found="places outside the CRS",
            change="Choose a CRS that is made for this place.",
        )
    )
