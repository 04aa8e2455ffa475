"""Polygons in degrees, cut where they cross longitude 180, as RFC 7946 asks.

Few regions of few scenes cross it: these go through shapely one by one. The point in which a line crosses
is computed from its western end for both neighbours, so they still share it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from geoseg.errors import UsageError, explain
from geoseg.vector.wkb import Placed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALF = 180.0
_TURN = 360.0
_POLE = 90.0
_GRAIN = 2.0**40
"""Parts of a degree to which coordinates are rounded, 0.1 micrometres: turns are then added and taken away
without a rest."""


def cut_at_date_line(placed: Placed) -> Placed:
    """The same regions with longitudes of -180..180; what crosses is in several polygons.

    Raises:
        UsageError: lines that are apart in the scene cross each other in degrees, as they may beside a pole.
    """
    points = np.rint(placed.points * _GRAIN) / _GRAIN
    outside = np.abs(points[:, 0]) > _HALF
    points[outside, 0] -= _TURN * np.floor((points[outside, 0] + _HALF) / _TURN)
    points[:, 1] = np.clip(points[:, 1], -_POLE, _POLE)
    points, ring_offsets = _opened_at_poles(points, placed.ring_offsets)
    wrapped = Placed(
        points=points,
        ring_offsets=ring_offsets,
        polygon_offsets=placed.polygon_offsets,
        region_offsets=placed.region_offsets,
    )
    crossing = _crossing(wrapped)
    if not len(crossing):
        return wrapped
    try:
        cut = [_cut_region(wrapped, r) for r in crossing.tolist()]
    except shapely.GEOSException as error:
        raise UsageError(
            explain(
                "polygons cannot be cut at the date line",
                at="scene",
                expected="lines that stay apart in degrees",
                found=error,
                change="Choose a CRS made for this place, or simplify less.",
            )
        ) from error
    return _replaced(wrapped, crossing, cut)


def _opened_at_poles(
    points: NDArray[np.float64], ring_offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rings whose corners at a pole are lines along it, and their offsets.

    A pole has every longitude. A corner there becomes a line from the meridian on which the ring comes to the
    one on which it goes, so that what is in between belongs to the region.
    """
    polar = np.abs(points[:, 1]) == _POLE
    if not polar.any():
        return points, ring_offsets
    rings = np.split(points, ring_offsets[1:-1])
    for ring in np.unique(np.searchsorted(ring_offsets, np.flatnonzero(polar), side="right") - 1).tolist():
        rings[ring] = _opened(rings[ring])
    return np.concatenate(rings), np.cumsum([0, *map(len, rings)])


def _opened(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """One ring; what runs along a pole, as the edge of a world map does, stays as it is."""
    corners = ring[:-1]
    at_pole = np.abs(corners[:, 1]) == _POLE
    opened: list[NDArray[np.float64]] = []
    for i, corner in enumerate(corners):
        before, after = corners[i - 1], corners[(i + 1) % len(corners)]
        if at_pole[i] and not at_pole[i - 1] and not at_pole[(i + 1) % len(corners)]:
            opened.append(_along_pole(before[0], after[0], corner[1]))
        else:
            opened.append(corner[None])
    line = np.concatenate(opened)
    return np.concatenate([line, line[:1]])


def _along_pole(start: float, stop: float, pole: float) -> NDArray[np.float64]:
    """Points from one meridian to another; the region lies to the left, so westwards in the north."""
    way = -((start - stop) % _TURN) if pole > 0 else (stop - start) % _TURN
    lon = start + np.linspace(0, way, 2 + int(abs(way) // (_HALF / 2)))
    lon = np.rint(lon * _GRAIN) / _GRAIN
    outside = np.abs(lon) > _HALF
    lon[outside] -= _TURN * np.floor((lon[outside] + _HALF) / _TURN)
    lon[-1] = stop
    return np.stack([lon, np.full(len(lon), pole)], axis=1)


def _crossing(placed: Placed) -> NDArray[np.intp]:
    """Regions of which a segment jumps from one end of the world to the other."""
    jumps = np.abs(np.diff(placed.points[:, 0])) > _HALF
    jumps[placed.ring_offsets[1:-1] - 1] = False
    at = np.flatnonzero(jumps)
    stops = placed.ring_offsets[placed.polygon_offsets[placed.region_offsets]]
    return np.unique(np.searchsorted(stops, at, side="right") - 1)


def _cut_region(placed: Placed, region: int) -> Any:
    """The region as a multipolygon within -180..180."""
    pieces: list[Any] = []
    for polygon in range(placed.region_offsets[region], placed.region_offsets[region + 1]):
        first, stop = placed.polygon_offsets[polygon : polygon + 2].tolist()
        rings = [
            placed.points[placed.ring_offsets[r] : placed.ring_offsets[r + 1]] for r in range(first, stop)
        ]
        whole = _cut_ring(rings[0], outer=True)
        holes = [_cut_ring(ring, outer=False) for ring in rings[1:]]
        pieces.append(shapely.difference(whole, shapely.union_all(holes)) if holes else whole)
    parts = [p for p in shapely.get_parts(pieces) if p.geom_type == "Polygon" and not p.is_empty]
    return shapely.orient_polygons(shapely.multipolygons(parts))


def _cut_ring(ring: NDArray[np.float64], *, outer: bool) -> Any:
    """What a ring encloses, within -180..180."""
    line, turns = _unrolled(ring)
    if turns:  # around a pole: along it back to where the ring began
        pole = _POLE if (turns > 0) == outer else -_POLE
        nearest = int(np.abs(pole - ring[:-1, 1]).argmin())  # from there, no other line is in the way
        line, _ = _unrolled(np.concatenate([ring[nearest:-1], ring[: nearest + 1]]))
        line = np.concatenate([line, [[line[-1, 0], pole], [line[0, 0], pole], line[0]]])
    area = shapely.polygons(line)
    first = int(np.floor((line[:, 0].min() + _HALF) / _TURN))
    last = int(np.ceil((line[:, 0].max() + _HALF) / _TURN))
    strips = []
    for turn in range(first, last):
        strip = shapely.box(turn * _TURN - _HALF, -90, turn * _TURN + _HALF, 90)
        part = shapely.intersection(area, strip)
        shifted = shapely.transform(part, lambda xy, west=turn * _TURN: xy - [west, 0])
        strips += [p for p in shapely.get_parts(shifted) if p.geom_type == "Polygon" and not p.is_empty]
    return shapely.union_all(strips) if turns else shapely.multipolygons(strips)


def _unrolled(ring: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """The ring without jumps, and how many times it runs around the Earth eastwards.

    Longitudes run on beyond 180; there is a vertex wherever the ring crosses.
    """
    points, turn = [ring[0]], 0
    for before, after in pairwise(ring):
        jump = after[0] - before[0]
        if abs(jump) > _HALF:
            east = jump < 0  # from 179 to -179
            west_end, east_end = (before, after) if east else (after, before)
            edge = (_HALF if east else -_HALF) + turn * _TURN
            points.append(np.array([edge, _latitude_of_crossing(west_end, east_end)]))
            turn += 1 if east else -1
        points.append(np.array([after[0] + turn * _TURN, after[1]]))
    return np.array(points), turn


def _latitude_of_crossing(west_end: NDArray[np.float64], east_end: NDArray[np.float64]) -> float:
    """Where the line from 179 to -179, say, crosses 180."""
    before, after = _HALF - west_end[0], east_end[0] + _HALF
    share = before / (before + after) if before + after else 0.0
    return float(np.rint((west_end[1] + share * (east_end[1] - west_end[1])) * _GRAIN) / _GRAIN)


def _replaced(placed: Placed, index: NDArray[np.intp], regions: list[Any]) -> Placed:
    """The same with other geometries, multipolygons, at `index`."""
    _, points, (rings, polygons, whole) = shapely.to_ragged_array(np.array(regions, object))
    count = len(placed)
    order = np.arange(count)
    order[index] = np.arange(len(index)) + count
    both = Placed(
        points=np.concatenate([placed.points, points]),
        ring_offsets=_stacked(placed.ring_offsets, rings),
        polygon_offsets=_stacked(placed.polygon_offsets, polygons),
        region_offsets=_stacked(placed.region_offsets, whole),
    )
    return both.take(order)


def _stacked(offsets: NDArray[np.int64], more: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([offsets, offsets[-1] + more[1:].astype(np.int64)])
