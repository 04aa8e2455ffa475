"""Parts of regions that touch seams, cut open there, and how they become whole regions.

The work in arrays between the compiled loops of `join` and `rings`; only what needs them imports this.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.errors import ExecutionError, explain
from geoseg.regions import RegionTable
from geoseg.vector.join import FIXED, Sides, cut_rings, follow
from geoseg.vector.rings import arrange, split_rings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geoseg.vector.outlines import Outlines
    from geoseg.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Regions of tiles without the borders that are none, where the region goes on in the next tile."""

    key: NDArray[np.int64]
    """One per piece: pieces with equal keys are one region."""
    table: RegionTable
    """One entry per piece."""
    piece: NDArray[np.int64]
    """Piece of each polygon."""
    points: NDArray[np.int32]
    """Shape (points, 2): column and row of the vertices of all chains, without the point each ends on."""
    flags: NDArray[np.uint8]
    """FIXED and LOOSE of each vertex."""
    offsets: NDArray[np.int64]
    """Shape (chains + 1,): of the chains into the points."""
    ends: NDArray[np.int32]
    """Shape (chains, 2): column and row each chain ends on."""
    polygon: NDArray[np.int64]
    """Polygon of each chain."""
    gate_polygon: NDArray[np.int64]
    """Polygon of each gate."""
    gates: NDArray[np.int32]
    """Shape (gates, 3): where a polygon goes on in the next tile, the same there: direction, column, row."""
    scale: int
    """Units of the coordinates per pixel."""


def cut(
    outlines: Outlines,
    table: RegionTable,
    key: NDArray[np.int64],
    *,
    core: Window,
    sides: Sides,
    keep_outline: bool,
) -> Pieces:
    """The pieces that regions of one tile are.

    Args:
        outlines: of the regions, with a vertex at every lattice point on seam lines.
        table: of the regions.
        key: of the regions.
        core: the tile's.
        sides: what is known of its seam lines.
        keep_outline: whether vertices beside nodata stay when lines are generalised.
    """
    scale = outlines.scale
    box = (scale * core.row, scale * core.col, scale * core.stop_row, scale * core.stop_col)
    chains, gates = cut_rings(
        outlines.coords,
        outlines.fixed,
        outlines.ring_offsets,
        box,
        sides,
        scale=scale,
        keep_outline=keep_outline,
    )
    polygons = np.diff(outlines.polygon_offsets)
    polygon_of_ring = np.repeat(np.arange(len(polygons)), polygons)
    return Pieces(
        key=key,
        table=table,
        piece=np.repeat(np.arange(len(outlines)), np.diff(outlines.region_offsets)),
        points=chains.points,
        flags=chains.flags,
        offsets=chains.offsets,
        ends=chains.ends,
        polygon=polygon_of_ring[chains.ring],
        gate_polygon=polygon_of_ring[gates.ring],
        gates=gates.at,
        scale=scale,
    )


def join(parts: Sequence[Pieces]) -> tuple[RegionTable, Outlines]:
    """Whole regions, from all of their pieces: sums, and outlines in their one spelling.

    Vertices on seam lines are where an outline turns or three borders meet, as everywhere.

    Raises:
        ExecutionError: pieces are missing, or are not of one class map.
    """
    whole = _put_together(parts)
    _, region_of_piece = np.unique(whole.key, return_inverse=True)
    region_of_polygon = region_of_piece[whole.piece]
    body, region_of_body = _bodies(whole, region_of_polygon)
    coords, fixed, offsets, polygon = _rings(whole, _following(whole, region_of_polygon))
    outlines = arrange(
        coords, fixed, offsets, polygon=body[polygon], region=region_of_body, scale=whole.scale
    )
    return add_up(whole.table, region_of_piece), outlines


def _rings(
    pieces: Pieces, following: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Points, flags and offsets of the rings that chains make, and a polygon of which each is a ring."""
    order, offsets, first = follow(pieces.points, pieces.flags, following)
    coords, fixed = pieces.points[order], pieces.flags[order] & FIXED != 0
    chain = np.searchsorted(pieces.offsets, first, side="right") - 1
    polygon = pieces.polygon[chain]
    # Rings of one tile meet themselves nowhere; only others have to be looked at.
    mended = _is_open(pieces)[chain]
    sizes = np.diff(offsets)
    of_mended = np.repeat(mended, sizes)
    split = split_rings(coords[of_mended], fixed[of_mended], np.append(0, np.cumsum(sizes[mended])))
    return (
        np.concatenate([coords[~of_mended], split[0]]),
        np.concatenate([fixed[~of_mended], split[1]]),
        np.cumsum(np.concatenate([[0], sizes[~mended], np.diff(split[2])])),
        np.concatenate([polygon[~mended], polygon[mended][split[3]]]),
    )


def _put_together(parts: Sequence[Pieces]) -> Pieces:
    """All pieces as one value."""
    return Pieces(
        key=np.concatenate([p.key for p in parts]),
        table=put_together([p.table for p in parts]),
        piece=_shifted([p.piece for p in parts], [len(p.key) for p in parts]),
        points=np.concatenate([p.points for p in parts]),
        flags=np.concatenate([p.flags for p in parts]),
        offsets=np.append(
            _shifted([p.offsets[:-1] for p in parts], [len(p.points) for p in parts]),
            sum(len(p.points) for p in parts),
        ),
        ends=np.concatenate([p.ends for p in parts]),
        polygon=_shifted([p.polygon for p in parts], [len(p.piece) for p in parts]),
        gate_polygon=_shifted([p.gate_polygon for p in parts], [len(p.piece) for p in parts]),
        gates=np.concatenate([p.gates for p in parts]),
        scale=parts[0].scale,
    )


def _shifted(numbers: Sequence[NDArray[np.int64]], counts: Sequence[int]) -> NDArray[np.int64]:
    """Numbers of things, part by part, when the things of all parts are put one after the other."""
    before = np.cumsum([0, *counts])
    return np.concatenate([part + n for part, n in zip(numbers, before, strict=False)])


def _following(pieces: Pieces, region_of_polygon: NDArray[np.int64]) -> NDArray[np.int64]:
    """The point after each point: in its chain, or the first of the chain that begins where this one ends."""
    starts, stops = pieces.offsets[:-1], pieces.offsets[1:]
    following = np.arange(1, len(pieces.points) + 1)
    following[stops - 1] = starts
    is_open = _is_open(pieces)
    starts, stops, ends = starts[is_open], stops[is_open], pieces.ends[is_open]
    region = region_of_polygon[pieces.polygon[is_open]]
    begins = np.column_stack([region, pieces.points[starts]])
    finishes = np.column_stack([region, ends])
    before, after = np.lexsort(finishes.T), np.lexsort(begins.T)
    _require_equal(finishes[before], begins[after])
    following[stops[before] - 1] = starts[after]
    return following


def _is_open(pieces: Pieces) -> NDArray[np.bool_]:
    """Which chains are no whole rings."""
    is_open: NDArray[np.bool_] = (pieces.points[pieces.offsets[:-1]] != pieces.ends).any(axis=1)
    return is_open


def _bodies(
    pieces: Pieces, region_of_polygon: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The 4-connected body that each polygon is part of, and the region of each body.

    A body in the middle of which a whole tile lies has no chain there, but gates on all its sides.
    """
    order = np.lexsort(pieces.gates.T)
    one, other = order[::2], order[1::2]
    _require_equal(pieces.gates[one], pieces.gates[other])
    pairs = (pieces.gate_polygon[one], pieces.gate_polygon[other])
    count = len(region_of_polygon)
    links = coo_array((np.ones(len(one), np.int8), pairs), (count, count))
    _, body = connected_components(links, directed=False)
    _, first, body = np.unique(body, return_index=True, return_inverse=True)
    return body, region_of_polygon[first]


def _require_equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
    if not np.array_equal(found, expected):
        raise ExecutionError(
            explain(
                "outlines of neighbouring tiles do not fit together",
                at="a seam between tiles",
                expected="lines that go on in the next tile",
                found=f"{len(found)} ends for {len(expected)} beginnings, or others",
                change="The parts are not of one run: remove the work folder and run again.",
            )
        )


def put_together(tables: Sequence[RegionTable]) -> RegionTable:
    """The entries of all tables, in order."""
    columns: dict[str, Any] = {}
    for name in (f.name for f in fields(RegionTable)):
        parts = [getattr(table, name) for table in tables]
        columns[name] = None if parts[0] is None else np.concatenate(parts)
    return RegionTable(**columns)


def add_up(table: RegionTable, region: NDArray[np.intp]) -> RegionTable:
    """One entry per region 0..n - 1 from those of its pieces; `region` says whose each is, all occur."""
    order = np.lexsort((table.first_pixel[:, 1], table.first_pixel[:, 0], region))
    starts = np.flatnonzero(np.diff(region[order], prepend=-1))
    first = order[starts]

    def reduced(how: np.ufunc, values: NDArray[Any]) -> Any:
        return how.reduceat(values[order], starts, axis=0)

    return RegionTable(
        class_id=table.class_id[first],
        pixels=reduced(np.add, table.pixels),
        confidence_sum=reduced(np.add, table.confidence_sum),
        confidence_count=reduced(np.add, table.confidence_count),
        confidence_min=reduced(np.minimum, table.confidence_min),  # 255, for none, is the highest
        area_m2=reduced(np.add, table.area_m2),  # pixel areas are rounded so that sums are exact
        first_pixel=table.first_pixel[first],
        box=np.concatenate(
            [reduced(np.minimum, table.box[:, :2]), reduced(np.maximum, table.box[:, 2:])], axis=1
        ),
        mix=None if table.mix is None else reduced(np.add, table.mix),
    )
