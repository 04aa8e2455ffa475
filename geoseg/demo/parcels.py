"""Fields: rectangles in rows, turned to run along the nearest road, with a number for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.demo.noise import STEP, mix, nodes, refine, smooth, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.demo.noise import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Farmland:
    """A patchwork of regions; in each, fields have one direction and one typical size."""

    cell_px: float
    """Spacing of the regions."""
    site: NDArray[np.float32]
    """Centre of each region (cells, cells, 2) in pixels; the outer ring of cells lies outside the scene."""
    turn: NDArray[np.float32]
    """Cosine and sine of its direction (cells, cells, 2)."""
    length_px: NDArray[np.float32]
    """Length of its fields (cells, cells)."""
    width_px: NDArray[np.float32]
    """Width of its fields (cells, cells)."""
    warp: NDArray[np.float32]
    """Coarse displacement of field borders in pixels (2, nodes, nodes), so that none is quite straight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The field each pixel of some rows belongs to; arrays have the shape of the rows."""

    number: NDArray[np.uint32]
    """Hash of the field: the same for all its pixels, unrelated between fields."""
    along_px: NDArray[np.float32]
    """Position along the region's direction."""
    across_px: NDArray[np.float32]
    """Position across it."""
    edge_px: NDArray[np.float32]
    """Distance to the field's nearest long side."""
    end_px: NDArray[np.float32]
    """Distance to the field's nearest short side."""
    node: tuple[NDArray[np.int32], NDArray[np.int32]]
    """Coarse node (row, column) at the centre of the field."""


def farmland(size: int, rng: np.random.Generator, heading: NDArray[np.float32]) -> Farmland:
    """Regions of fields for a scene of `size` pixels, each along the nearest road (`heading`, coarse)."""
    cell = float(np.clip(size / 6, 90, 330))
    cells = int(size / cell) + 4
    corner = np.stack(np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij"), axis=-1) - 1
    site = (corner + rng.uniform(0.05, 0.95, (cells, cells, 2))) * cell
    near = np.clip((site / STEP).astype(np.int64), 0, heading.shape[0] - 1)
    angle = heading[near[..., 0], near[..., 1]] + rng.normal(0, 0.12, (cells, cells))
    warp = np.stack([smooth(rng, nodes(size), 45) * 5, smooth(rng, nodes(size), 45) * 5])
    return Farmland(
        cell_px=cell,
        site=site.astype(np.float32),
        turn=np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32),
        length_px=rng.uniform(32, 75, (cells, cells)).astype(np.float32),
        width_px=rng.uniform(11, 27, (cells, cells)).astype(np.float32),
        warp=warp,
    )


def _region(
    land: Farmland, row: NDArray[np.float32], col: NDArray[np.float32]
) -> tuple[NDArray[np.int32], ...]:
    """Row and column, in the table of regions, of the region whose centre is nearest to each pixel."""
    home_row = (row / land.cell_px + 1).astype(np.int32)
    home_col = (col / land.cell_px + 1).astype(np.int32)
    limit = land.site.shape[0] - 1
    best = np.full(row.shape, np.inf, np.float32)
    found = np.zeros(row.shape, np.int32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            index = np.clip(home_row + down, 0, limit) * (limit + 1) + np.clip(home_col + right, 0, limit)
            distance = (row - land.site[..., 0].ravel()[index]) ** 2 + (
                col - land.site[..., 1].ravel()[index]
            ) ** 2
            closer = distance < best
            np.copyto(best, distance, where=closer)
            np.copyto(found, index, where=closer)
    return found // (limit + 1), found % (limit + 1)


def fields(land: Farmland, rows: Rows) -> Fields:
    """The fields of some rows. Depends on the pixel's place only, never on which rows are asked for."""
    row = rows.row + refine(land.warp[0], rows)
    col = rows.col + refine(land.warp[1], rows)
    where = _region(land, row, col)
    cos, sin = land.turn[..., 0][where], land.turn[..., 1][where]
    down, right = row - land.site[..., 0][where], col - land.site[..., 1][where]
    along, across = right * cos + down * sin, down * cos - right * sin
    width, length = land.width_px[where], land.length_px[where]
    strip = across / width
    strip += np.float32(0.28) * np.sin(strip * np.float32(2.4))  # strips of unequal width
    lane = np.floor(strip).astype(np.int32)
    key = where[0] * 4096 + where[1]
    row_hash = mix(key, lane)
    length = length * (np.float32(0.7) + np.float32(0.8) * unit(row_hash, 0))
    place = along / length + unit(row_hash, 10)
    slot = np.floor(place).astype(np.int32)
    middle = (slot + np.float32(0.5) - unit(row_hash, 10)) * length - along
    aside = (lane + np.float32(0.5) - strip) * width
    centre = (row + middle * sin + aside * cos, col + middle * cos - aside * sin)
    limit = land.warp.shape[1] - 1
    part, rest = strip - lane, place - slot
    return Fields(
        number=mix(key, lane, slot),
        along_px=along,
        across_px=across,
        edge_px=np.minimum(part, 1 - part) * width,
        end_px=np.minimum(rest, 1 - rest) * length,
        node=tuple(np.clip((c / STEP).astype(np.int32), 0, limit) for c in centre),  # type: ignore[arg-type]
    )
