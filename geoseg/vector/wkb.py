"""Outlines as well-known binary: all geometries of a batch in one buffer, written by compiled loops.

Importing this module loads numba: do it where geometries are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from geoseg.vector.outlines import gather

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray

    from geoseg.vector.outlines import Outlines

_HEADER_BYTES = 40
"""Of a GeoPackage geometry: magic, version, flags, SRS id, and the envelope."""

_POLYGON, _MULTIPOLYGON = 3, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Outlines in the coordinates of a CRS; outer rings run anticlockwise, holes clockwise."""

    points: NDArray[np.float64]
    """Shape (points, 2): x and y; each ring ends on its first point."""
    ring_offsets: NDArray[np.int64]
    """Shape (rings + 1,): ring i is points[ring_offsets[i]:ring_offsets[i + 1]]."""
    polygon_offsets: NDArray[np.int64]
    """Shape (polygons + 1,): polygon i is the rings from polygon_offsets[i], its outer one first."""
    region_offsets: NDArray[np.int64]
    """Shape (regions + 1,): region i is the polygons from region_offsets[i]."""

    def __len__(self) -> int:
        return len(self.region_offsets) - 1

    def take(self, index: NDArray[np.intp]) -> Placed:
        """The regions at `index`, in that order."""
        polygons, region_offsets = gather(self.region_offsets, index)
        rings, polygon_offsets = gather(self.polygon_offsets, polygons)
        points, ring_offsets = gather(self.ring_offsets, rings)
        return Placed(
            points=self.points[points],
            ring_offsets=ring_offsets,
            polygon_offsets=polygon_offsets,
            region_offsets=region_offsets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Geometries one after the other in one buffer."""

    data: NDArray[np.uint8]
    """The bytes of all."""
    offsets: NDArray[np.int64]
    """Shape (geometries + 1,): geometry i is data[offsets[i]:offsets[i + 1]]."""
    boxes: NDArray[np.float64]
    """Shape (geometries, 4): least x, least y, greatest x, greatest y."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to_list(self) -> list[bytes]:
        """The geometries as Python values."""
        data = self.data.tobytes()
        return [data[a:b] for a, b in pairwise(self.offsets.tolist())]


def place(outlines: Outlines, transform: Affine) -> Placed:
    """The outlines under an affine map."""
    points = place_rings(outlines.coords, outlines.ring_offsets, scale=outlines.scale, transform=transform)
    return Placed(
        points=points,
        ring_offsets=outlines.ring_offsets,
        polygon_offsets=outlines.polygon_offsets,
        region_offsets=outlines.region_offsets,
    )


def place_rings(
    coords: NDArray[Any], ring_offsets: NDArray[np.int64], *, scale: int, transform: Affine
) -> NDArray[np.float64]:
    """Points of rings under an affine map, outer rings anticlockwise.

    Canonical rings run anticlockwise where rows count downwards; a map that does not flip turns them round.
    """
    points = np.empty(coords.shape, np.float64)
    a, b, c, d, e, f = (float(v) for v in tuple(transform)[:6])
    _place(coords, ring_offsets, float(scale), a, b, c, d, e, f, transform.determinant > 0, points)
    return points


def encode(placed: Placed, *, multi: bool, srs_id: int | None = None) -> Encoded:
    """Little-endian WKB of each region: polygons, or multipolygons for all.

    Args:
        placed: the regions; of several polygons each only when `multi`.
        multi: write multipolygons, also of one polygon.
        srs_id: write GeoPackage blobs that say so: a header with this id and the envelope comes first.
    """
    if not multi and len(placed.polygon_offsets) != len(placed.region_offsets):
        raise ValueError("regions of several polygons are multipolygons")
    header = 0 if srs_id is None else _HEADER_BYTES
    offsets = _offsets(placed, header=header, multi=multi)
    data, boxes = np.empty(offsets[-1], np.uint8), np.empty((len(placed), 4), np.float64)
    points = np.ascontiguousarray(placed.points)
    _write(
        points,
        points.reshape(-1).view(np.uint8),
        placed.ring_offsets,
        placed.polygon_offsets,
        placed.region_offsets,
        offsets,
        header,
        srs_id or 0,
        multi,
        data,
        boxes,
    )
    return Encoded(data=data, offsets=offsets, boxes=boxes)


def _offsets(placed: Placed, *, header: int, multi: bool) -> NDArray[np.int64]:
    """Where each geometry begins, and where the last one ends."""
    rings = placed.polygon_offsets[placed.region_offsets]
    points = placed.ring_offsets[rings]
    polygons = placed.region_offsets
    ends = 16 * points + 4 * rings + 9 * polygons + (header + (9 if multi else 0)) * np.arange(len(points))
    offsets: NDArray[np.int64] = (ends - ends[0]).astype(np.int64)
    return offsets


@numba.njit(cache=True, nogil=True)
def _place(
    coords: Any,
    ring_offsets: Any,
    scale: float,
    a: float,
    b: float,
    c: float,
    d: float,
    e: float,
    f: float,
    turn: bool,  # noqa: FBT001
    points: Any,
) -> None:
    for ring in range(len(ring_offsets) - 1):
        first, stop = ring_offsets[ring], ring_offsets[ring + 1]
        for i in range(first, stop):
            col, row = coords[i, 0] / scale, coords[i, 1] / scale
            at = first + stop - 1 - i if turn else i
            points[at, 0] = a * col + b * row + c
            points[at, 1] = d * col + e * row + f


@numba.njit(cache=True, nogil=True)
def _put_int(data: Any, at: int, value: int) -> int:
    """Write 4 bytes; returns where the next one goes."""
    for i in range(4):
        data[at + i] = (value >> (8 * i)) & 255
    return at + 4


@numba.njit(cache=True, nogil=True)
def _put_head(data: Any, at: int, kind: int, count: int) -> int:
    """Write byte order, type and number of parts."""
    data[at] = 1
    return _put_int(data, _put_int(data, at + 1, kind), count)


@numba.njit(cache=True, nogil=True)
def _write(
    points: Any,
    raw: Any,
    ring_offsets: Any,
    polygon_offsets: Any,
    region_offsets: Any,
    offsets: Any,
    header: int,
    srs_id: int,
    multi: bool,  # noqa: FBT001
    data: Any,
    boxes: Any,
) -> None:
    envelope = np.empty(4, np.float64)
    envelope_bytes = envelope.view(np.uint8)
    for region in range(len(region_offsets) - 1):
        first_polygon, stop_polygon = region_offsets[region], region_offsets[region + 1]
        x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
        at = offsets[region] + header
        if multi:
            at = _put_head(data, at, _MULTIPOLYGON, stop_polygon - first_polygon)
        for polygon in range(first_polygon, stop_polygon):
            first_ring, stop_ring = polygon_offsets[polygon], polygon_offsets[polygon + 1]
            at = _put_head(data, at, _POLYGON, stop_ring - first_ring)
            for i in range(ring_offsets[first_ring], ring_offsets[first_ring + 1]):
                x0, x1 = min(x0, points[i, 0]), max(x1, points[i, 0])
                y0, y1 = min(y0, points[i, 1]), max(y1, points[i, 1])
            for ring in range(first_ring, stop_ring):
                first, stop = ring_offsets[ring], ring_offsets[ring + 1]
                at = _put_int(data, at, stop - first)
                size = 16 * (stop - first)
                data[at : at + size] = raw[16 * first : 16 * stop]
                at += size
        boxes[region, 0], boxes[region, 1], boxes[region, 2], boxes[region, 3] = x0, y0, x1, y1
        if header:
            at = offsets[region]
            data[at], data[at + 1], data[at + 2], data[at + 3] = 0x47, 0x50, 0, 3
            _put_int(data, at + 4, srs_id)
            envelope[0], envelope[1], envelope[2], envelope[3] = x0, x1, y0, y1
            data[at + 8 : at + 40] = envelope_bytes
