"""What covers each pixel of the demo landscape, decided for a run of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.demo.landscape import HIGHWAY, RIVER, Landscape
from geoseg.demo.noise import fractal, mix, nodes, refine, smooth, standardise, unit
from geoseg.demo.parcels import Farmland, Fields, farmland, fields
from geoseg.demo.spectra import CODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.demo.noise import Rows

_FOREST_SHARE = 0.27
_FINE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """Coarse fields that decide what grows where; see `Landscape` for their grid."""

    land: Landscape
    """The landscape they belong to."""
    farmland: Farmland
    """Its fields."""
    forest: NDArray[np.float32]
    """Positive where forest grows."""
    stand: NDArray[np.float32]
    """Kind of trees: conifers where high."""
    pasture: NDArray[np.float32]
    """Share of fields that are grass, 0 to 1."""
    patch: NDArray[np.float32]
    """Variation between places, about 20 pixels across, of unit variance."""
    fine: NDArray[np.float32]
    """Variation over a few pixels, a node every `_FINE` pixels, of unit variance."""
    salt: int
    """Makes hashes differ between seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """The cover of some rows; arrays have the shape of the rows."""

    code: NDArray[np.uint8]
    """Surface code, see `spectra.CODES`."""
    patch: NDArray[np.float32]
    """-1 to 1, one number per field, stand or roof."""
    fine: NDArray[np.float32]
    """Noise over a few pixels, unit variance."""
    furrow: NDArray[np.float32]
    """-1 to 1, stripes along the rows of a field, 0 elsewhere."""


def cover(land: Landscape, rng: np.random.Generator) -> Cover:
    """The fields that decide the cover of `land`."""
    count = nodes(land.size)
    ragged = fractal(rng, count, [50, 30, 16, 8, 4])
    score = 0.6 * land.height + 0.6 * np.clip(land.steep, 0, 2) + ragged
    score = score - 1.2 * (land.town < 1.6)  # noqa: PLR2004 - villages stand in the open
    dry = fractal(rng, count, [80, 40, 20])
    likes_grass = 0.30 * land.height + 0.35 * dry + 0.4 * np.clip(land.steep, 0, 2) - 0.2
    return Cover(
        land=land,
        farmland=farmland(land.size, rng, land.heading),
        forest=(score - np.quantile(score, 1 - _FOREST_SHARE)).astype(np.float32),
        stand=(fractal(rng, count, [40, 16, 8]) + 0.8 * land.height).astype(np.float32),
        pasture=np.clip(0.22 + 0.24 * likes_grass, 0.03, 0.75).astype(np.float32),
        patch=smooth(rng, count, 5),
        fine=standardise(rng.standard_normal((nodes(land.size, _FINE),) * 2, dtype=np.float32))
        * np.float32(1.5),
        salt=int(rng.integers(1 << 30)),
    )


def paint_rows(cover: Cover, rows: Rows) -> Painted:
    """What covers each pixel of `rows`; independent of which rows are asked for together.

    Later steps cover earlier ones: fields, then grass and trees, rock and quarries, villages, water, roads.
    """
    grid = fields(cover.farmland, rows)
    fine = refine(cover.fine, rows, _FINE)
    patch = refine(cover.patch, rows)
    code, mood, furrow = _crops(cover, grid, patch)
    _trees(cover, rows, code, grid=grid, fine=fine, patch=patch)
    _bare(cover, rows, code, fine, patch)
    _villages(cover, rows, code, mood, grid)
    _water(cover, rows, code, fine)
    _roads(cover, rows, code)
    wild = ~np.isin(code, _FIELD_CODES)
    furrow[wild] = 0
    keeps_mood = ~wild | np.isin(code, _TOWN_CODES)
    mood = np.where(keeps_mood, mood, np.tanh(0.8 * patch)).astype(np.float32)
    return Painted(code=code, patch=mood, fine=fine, furrow=furrow)


_FIELD_CODES = [CODES[name] for name in ("green_crop", "stubble", "ploughed", "meadow")]
_TOWN_CODES = [CODES[name] for name in ("red_roof", "dark_roof", "hall", "street", "garden", "town_tree")]


def _crops(
    cover: Cover, grid: Fields, patch: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Surface, mood and furrows of farmland: each field one crop, some fields grass, edges unkempt."""
    number = mix(grid.number.view(np.int32), cover.salt)
    kind, use = unit(number, 0), unit(number, 10)
    code = np.full(number.shape, CODES["stubble"], np.uint8)
    code[kind < 0.34] = CODES["ploughed"]  # noqa: PLR2004
    code[kind < 0.14] = CODES["green_crop"]  # noqa: PLR2004
    code[use < cover.pasture[grid.node]] = CODES["meadow"]
    code[grid.edge_px < 0.55] = CODES["margin"]  # noqa: PLR2004
    track = (grid.end_px < 0.6) & (kind < 0.6)  # noqa: PLR2004
    code[track & (code != CODES["margin"])] = CODES["track"]
    mood = 2 * unit(number, 20) - 1 + np.float32(0.18) * patch
    period = 3 + 3 * use
    furrow = np.sin(grid.across_px * (2 * np.pi / period))
    return code, np.clip(mood, -1, 1).astype(np.float32), furrow.astype(np.float32)


def _trees(
    cover: Cover,
    rows: Rows,
    code: NDArray[np.uint8],
    *,
    grid: Fields,
    fine: NDArray[np.float32],
    patch: NDArray[np.float32],
) -> None:
    """Floodplain meadows, rough grass at the forest's edge, forest, and trees along the water."""
    shore = refine(cover.land.shore_px, rows)
    code[(shore + 7 * patch < 20) & (code != CODES["green_crop"])] = CODES["meadow"]  # noqa: PLR2004
    score = np.float32(0.5) * (refine(cover.forest, rows) + cover.forest[grid.node]) + np.float32(0.02) * fine
    code[score > -0.10] = CODES["rough_grass"]  # noqa: PLR2004
    stand = refine(cover.stand, rows) + np.float32(0.25) * fine
    wood = score > 0
    code[wood] = np.where(stand[wood] > 0.75, CODES["conifer"], CODES["broadleaf"])  # noqa: PLR2004
    code[wood & (patch + np.float32(0.2) * fine > 2.0)] = CODES["young_trees"]  # noqa: PLR2004
    code[(shore < 5 + 2 * fine) & (patch > 0)] = CODES["broadleaf"]


def _bare(
    cover: Cover, rows: Rows, code: NDArray[np.uint8], fine: NDArray[np.float32], patch: NDArray[np.float32]
) -> None:
    """Rock on the highest steep ground, gravel bars along the main river, quarries with a floor and faces."""
    high = refine(cover.land.height, rows) + np.float32(0.5) * refine(cover.land.steep, rows)
    code[high + 0.25 * patch + 0.1 * fine > 3.1] = CODES["rock"]  # noqa: PLR2004
    beyond = refine(cover.land.river_px, rows) - cover.land.river_width_px / 2
    code[(beyond < 2.5) & (patch + 0.5 * fine > 1.2)] = CODES["gravel_bar"]  # noqa: PLR2004
    pit = refine(cover.land.quarry, rows)
    bench = pit + np.float32(0.10) * patch
    code[pit < 1] = CODES["quarry_face"]
    code[(pit < 1) & ((bench < 0.55) | ((bench > 0.72) & (bench < 0.84)))] = CODES["quarry_floor"]  # noqa: PLR2004


def _villages(
    cover: Cover, rows: Rows, code: NDArray[np.uint8], mood: NDArray[np.float32], grid: Fields
) -> None:
    """Streets, roofs and gardens, denser towards the middle, with halls and parks in some blocks of towns."""
    town = refine(cover.land.town, rows) + np.float32(0.07) * refine(cover.patch, rows)
    inside = np.nonzero(town < 1)
    depth = 1 - town[inside]
    along, across = grid.along_px[inside], grid.across_px[inside]
    block = mix(np.floor(along / 14).astype(np.int32), np.floor(across / 9).astype(np.int32), cover.salt)
    pixel = mix((rows.start + inside[0]).astype(np.int32), inside[1].astype(np.int32), cover.salt)
    house, tint = unit(pixel, 0), unit(pixel, 10)
    made = np.full(len(depth), CODES["garden"], np.uint8)
    made[tint > 0.72] = CODES["town_tree"]  # noqa: PLR2004
    built = house < 0.46 + 0.36 * depth
    made[built] = np.where(tint[built] < 0.68, CODES["red_roof"], CODES["dark_roof"])  # noqa: PLR2004
    kind = unit(block, 0)
    made[(kind < 0.08) & (depth < 0.75)] = CODES["hall"]  # noqa: PLR2004
    green = (kind > 0.95) & (house < 0.85)  # noqa: PLR2004
    made[green] = np.where(tint[green] < 0.5, CODES["garden"], CODES["town_tree"])  # noqa: PLR2004
    made[(np.mod(along, 14) < 1.1) | (np.mod(across, 9) < 1.1)] = CODES["street"]  # noqa: PLR2004
    code[inside] = made
    whole = np.isin(made, [CODES["hall"], CODES["street"]])
    mood[inside] = 2 * np.where(whole, unit(block, 10), unit(pixel, 20)) - 1


def _water(cover: Cover, rows: Rows, code: NDArray[np.uint8], fine: NDArray[np.float32]) -> None:
    """The river and its streams, then lakes, which they end in."""
    code[cover.land.lines[rows.start : rows.stop] == RIVER] = CODES["river"]
    code[refine(cover.land.lake, rows) + 0.004 * fine < 0] = CODES["lake"]


def _roads(cover: Cover, rows: Rows, code: NDArray[np.uint8]) -> None:
    """Roads, over everything: bridges come by themselves."""
    code[cover.land.lines[rows.start : rows.stop] == HIGHWAY] = CODES["road"]
