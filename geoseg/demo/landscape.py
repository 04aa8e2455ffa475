"""The plan of the demo landscape: terrain, water, villages, roads and quarries.

Order follows cause: terrain first, water runs down it, villages sit near water on gentle ground, roads join
villages along easy ground, and what grows where is decided later, pixel by pixel, by `geoseg.demo.painter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import Delaunay

from geoseg.demo.noise import STEP, fractal, nodes, smooth, standardise
from geoseg.demo.strokes import LINK_PX, curve, graph, paint, trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIVER, HIGHWAY = 1, 2
"""Values of `Landscape.lines`; 0 is neither."""

_LINK = LINK_PX // STEP
_LAKE_SHARE = 0.016
_SHORT = 5  # graph nodes; a shorter stream is left out
_SUN = (0.55, -0.30, 0.78)  # towards the sun: south, west negative, up; late morning in summer


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """Where everything is. Fields are coarse: one float32 node every `noise.STEP` pixels."""

    size: int
    """Side of the scene in pixels."""
    height: NDArray[np.float32]
    """Terrain, zero mean and unit variance."""
    steep: NDArray[np.float32]
    """Slope; 1 is steeper than nine tenths of the scene."""
    light: NDArray[np.float32]
    """Illumination of the slope, 1 on level ground."""
    lake: NDArray[np.float32]
    """Negative on lakes."""
    shore_px: NDArray[np.float32]
    """Distance to the nearest river, stream or lake."""
    river_px: NDArray[np.float32]
    """Distance to the main river's line."""
    town: NDArray[np.float32]
    """Distance to the nearest village over its radius: below 1 inside."""
    quarry: NDArray[np.float32]
    """Distance to the nearest quarry over its radius: below 1 inside."""
    heading: NDArray[np.float32]
    """Direction of the nearest road, radians."""
    lines: NDArray[np.uint8]
    """Full resolution (size, size): RIVER, HIGHWAY or 0."""
    river_width_px: float
    """Width of the main river."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sites:
    """Points of interest: villages or quarries."""

    at: NDArray[np.float64]
    """Pixel coordinates (n, 2), row first."""
    radius: NDArray[np.float64]
    """Radius of each, pixels."""


def plan(size: int, rng: np.random.Generator) -> Landscape:
    """The landscape of a scene with `size` pixels a side; the same for the same generator state."""
    count = nodes(size)
    longest = np.clip(size * 0.33, 160, 1100) / STEP
    relief = fractal(rng, count, [longest / 2**k for k in range(7)])
    lines = np.zeros((size, size), np.uint8)
    width = float(np.clip(size / 220, 5, 18))
    river = _meander(rng, size, width)
    river_px = _distance(river, count)
    relief = relief - 1.4 * np.exp(-((river_px / (size * 0.06 + 60)) ** 2)).astype(np.float32)
    lake = _lakes(relief, river_px, width)
    streams = _streams(rng, relief, river, lines)
    paint(
        lines,
        river[:: max(1, int(width / 4))],
        _wobble(rng, len(river), width)[:: max(1, int(width / 4))],
        RIVER,
    )
    stream_px = _distance(streams, count)
    height = standardise(relief - 0.35 * np.exp(-((stream_px / 45) ** 2)).astype(np.float32))
    steep, light = _slope(height)
    shore_px = _shore(lines, lake, count)
    villages = _villages(rng, size, height, steep, shore_px)
    ground = 1 + 3 * steep + 80 * (lake < 0) + 8 * (river_px < width)
    heading, road_px = _roads(rng, lines, villages, ground.astype(np.float32))
    quarries = _quarries(rng, size, steep, shore_px)
    return Landscape(
        size=size,
        height=height,
        steep=steep,
        light=light,
        lake=lake,
        shore_px=shore_px,
        river_px=river_px,
        town=_along_roads(_around(rng, villages, count, 0.36), road_px),
        quarry=_around(rng, quarries, count, 0.33),
        heading=heading,
        lines=lines,
        river_width_px=width,
    )


def _meander(rng: np.random.Generator, size: int, width: float) -> NDArray[np.float64]:
    """The main river from west to east, one point per pixel: a sine-generated curve.

    Langbein & Leopold 1966, River meanders: theory of minimum variance, USGS Professional Paper 422-H.
    """
    length = int(size * 3.2) + 400
    along = np.arange(length)
    pace = 1 + 0.45 * _drift(rng, length, width * 16)
    phase = 2 * np.pi * np.cumsum(pace) / (width * 17)
    swing = np.clip(0.95 + 0.45 * _drift(rng, length, width * 25), 0.1, 1.6)
    angle = swing * np.sin(phase) + 0.18 * _drift(rng, length, width * 5)
    col = np.cumsum(np.cos(angle)) - 3 * width
    row = np.cumsum(np.sin(angle))
    row = row - gaussian_filter1d(row, width * 40)
    bend = _drift(rng, length, size * 0.35)
    row = row + size * (0.5 + 0.16 * np.tanh(bend) - 0.08 * np.cos(along / size * 2.2 + rng.uniform(0, 6)))
    inside = col < size + 3 * width
    return np.stack([row[inside], col[inside]], axis=1)


def _drift(rng: np.random.Generator, length: int, wavelength: float) -> NDArray[np.float64]:
    """Smooth unit-variance noise along a line."""
    knots = int(length / wavelength) + 4
    value = np.interp(np.arange(length) / wavelength, np.arange(knots), rng.standard_normal(knots))
    return np.asarray(gaussian_filter1d(value, wavelength / 3) * 1.4)


def _wobble(rng: np.random.Generator, length: int, width: float) -> NDArray[np.float64]:
    """Half the width of the river at each of its points."""
    return width / 2 * np.clip(1 + 0.22 * _drift(rng, length, width * 6), 0.6, 1.7)


def _distance(line: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """Distance in pixels from every coarse node to the nearest point of `line` (n, 2)."""
    free = np.ones((count, count), bool)
    at = np.round(line / STEP).astype(np.int64)
    at = at[((at >= 0) & (at < count)).all(axis=1)]
    free[at[:, 0], at[:, 1]] = False
    return np.asarray(distance_transform_edt(free) * STEP, np.float32)


def _lakes(relief: NDArray[np.float32], river_px: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """Height above the lakes' level: the lowest ground away from the river, which would have drained it."""
    dry = relief + 2.5 * np.exp(-((river_px / (width * 8)) ** 2)).astype(np.float32)
    return np.asarray(gaussian_filter(dry - np.quantile(dry, _LAKE_SHARE), 1.0), np.float32)


def _streams(
    rng: np.random.Generator,
    relief: NDArray[np.float32],
    river: NDArray[np.float64],
    lines: NDArray[np.uint8],
) -> NDArray[np.float64]:
    """Paint tributaries that follow low ground to the river and join on the way; all their points (n, 2)."""
    cost = np.exp(1.3 * relief[::_LINK, ::_LINK])
    side = cost.shape[0]
    cost *= np.exp(rng.normal(0, 0.7, cost.shape)).astype(
        np.float32
    )  # else streams run straight on flat ground
    mouths = np.unique(np.clip(np.round(river / LINK_PX), 0, side - 1).astype(np.int64) @ [side, 1])
    _, before, _ = dijkstra(graph(cost), indices=mouths, min_only=True, return_predecessors=True)
    springs = _springs(rng, cost, lines.shape[0])
    paths = [path for node in springs if len(path := trace(before, int(node))) > _SHORT]
    flow = np.bincount(np.concatenate([mouths, *paths]), minlength=side * side)
    drawn = np.zeros(side * side, bool)
    painted = [river]
    for path in sorted(paths, key=len, reverse=True):
        fresh = int(np.argmax(np.append(drawn[path], True)))
        line = curve(path, side)[: fresh * LINK_PX + 1]
        drawn[path] = True
        volume = np.repeat(flow[path], LINK_PX)[: len(line)]
        volume = np.pad(volume, (0, len(line) - len(volume)), mode="edge")
        paint(lines, line, np.clip(0.55 + 0.28 * np.sqrt(volume), 0.8, 3.2), RIVER)
        painted.append(line)
    return np.concatenate(painted)


def _springs(rng: np.random.Generator, cost: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Graph nodes where streams begin: one in each cell, on its highest ground."""
    side, cells = cost.shape[0], max(2, round(size / 420))
    cell = side / cells
    found = []
    for row in range(cells):
        for col in range(cells):
            tries = (rng.uniform(0, 1, (5, 2)) + np.array([row, col])) * cell
            node = np.minimum(tries.astype(np.int64), side - 1) @ [side, 1]
            found.append(node[np.argmax(cost.ravel()[node])])
    return np.array(found)


def _slope(height: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Steepness (1 at the ninth decile) and illumination (1 on level ground) of the terrain."""
    south, east = np.gradient(gaussian_filter(height, 1.0))
    steep = np.hypot(south, east)
    scale = float(np.quantile(steep, 0.9)) + 1e-9
    down, right = south / scale * 0.32, east / scale * 0.32
    light = (-down * _SUN[0] - right * _SUN[1] + _SUN[2]) / np.sqrt(1 + down**2 + right**2) / _SUN[2]
    return (steep / scale).astype(np.float32), np.clip(light, 0.4, 1.5).astype(np.float32)


def _shore(lines: NDArray[np.uint8], lake: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Distance in pixels from every coarse node to the nearest water."""
    dry = lake >= 0
    row, col = np.nonzero(lines == RIVER)
    dry[np.minimum((row + 2) // STEP, count - 1), np.minimum((col + 2) // STEP, count - 1)] = False
    return np.asarray(distance_transform_edt(dry) * STEP, np.float32)


def _scatter(
    rng: np.random.Generator, size: int, spacing: int, dislike: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """One point per square cell, the least disliked of a few tries, and the side of a cell in pixels."""
    cells = max(2, round(size / spacing))
    cell = size / cells
    corner = np.stack(np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij"), axis=-1).reshape(
        -1, 1, 2
    )
    tries = (corner + rng.uniform(0.3, 0.8, (cells * cells, 9, 2))) * cell
    at = (tries / STEP).astype(np.int64)
    best = dislike[at[..., 0], at[..., 1]].argmin(axis=1)
    return tries[np.arange(len(tries)), best], cell


def _villages(
    rng: np.random.Generator,
    size: int,
    height: NDArray[np.float32],
    steep: NDArray[np.float32],
    shore_px: NDArray[np.float32],
) -> _Sites:
    """Villages and a few towns on low, gentle ground that is near water but not in it."""
    dislike = height + steep + 4 * (shore_px < 24) + np.clip(shore_px / 300, 0, 1)  # noqa: PLR2004 - pixels
    at, cell = _scatter(rng, size, 400, dislike)
    radius = cell * rng.uniform(0.05, 0.10, len(at))
    towns = rng.permutation(len(at))[: max(1, len(at) // 9)]
    radius[towns] = cell * rng.uniform(0.17, 0.27, len(towns))
    return _Sites(at=at, radius=radius)


def _quarries(
    rng: np.random.Generator, size: int, steep: NDArray[np.float32], shore_px: NDArray[np.float32]
) -> _Sites:
    """Quarries on steep ground away from water."""
    at, cell = _scatter(rng, size, 760, 4 * (shore_px < 40) - steep)  # noqa: PLR2004 - pixels
    return _Sites(at=at, radius=cell * rng.uniform(0.025, 0.055, len(at)))


def _around(rng: np.random.Generator, sites: _Sites, count: int, ragged: float) -> NDArray[np.float32]:
    """Distance to the nearest site over its radius, frayed by noise; at most 4."""
    field = np.full((count, count), 4, np.float32)
    for (row, col), radius in zip(sites.at / STEP, sites.radius / STEP, strict=True):
        reach = int(radius * 3) + 2
        top, left = max(0, int(row) - reach), max(0, int(col) - reach)
        part = field[top : int(row) + reach, left : int(col) + reach]
        down, right = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        np.minimum(part, (np.hypot(down - row, right - col) / radius).astype(np.float32), out=part)
    fray = smooth(rng, count, 9) + 0.6 * smooth(rng, count, 4)
    return (field + ragged * fray).astype(np.float32)


def _along_roads(town: NDArray[np.float32], road_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Villages stretched along roads and drawn in elsewhere."""
    return np.asarray(town - 0.5 * np.exp(-((road_px / 11) ** 2)) + 0.15, np.float32)


def _roads(
    rng: np.random.Generator, lines: NDArray[np.uint8], villages: _Sites, cost: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Paint roads between neighbouring villages and out of the scene.

    Returns the heading (radians) of the nearest road and the distance to it (pixels), as coarse fields.
    """
    cost = cost.copy()
    cost[:8], cost[-8:], cost[:, :8], cost[:, -8:] = 9, 9, 9, 9  # leave the scene, do not follow its border
    grid = graph(cost[::_LINK, ::_LINK])
    side, size = cost[::_LINK, ::_LINK].shape[0], lines.shape[0]
    gates = _gates(rng, size)
    at = np.concatenate([villages.at, gates])
    weight = np.concatenate([villages.radius, np.full(len(gates), villages.radius.max())])
    node = np.clip(np.round(at / LINK_PX), 0, side - 1).astype(np.int64) @ [side, 1]
    major = float(np.quantile(weight, 0.7))
    marks = []
    for start, ends in _neighbours(at).items():
        reach = 6 * np.hypot(*(at[ends] - at[start]).T).max() / LINK_PX
        _, before = dijkstra(grid, indices=node[start], limit=reach, return_predecessors=True)
        for end in ends:
            line = curve(trace(before, int(node[end])), side)
            importance = int(np.sum(weight[[start, end]] >= major))
            paint(lines, line, np.full(len(line), (1.0, 1.3, 1.9)[importance]), HIGHWAY)
            marks.append(line)
    return _heading(marks, cost.shape[0])


def _gates(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Points on the border where roads leave: one or more on each side."""
    count = max(1, round(size / 1400))
    along = (np.arange(count) + rng.uniform(0.2, 0.8, (4, count))) * size / count
    zero, full = np.zeros(count), np.full(count, size - 1.0)
    pairs = [(zero, along[0]), (full, along[1]), (along[2], zero), (along[3], full)]
    return np.concatenate([np.stack(pair, axis=1) for pair in pairs])


def _neighbours(at: NDArray[np.float64]) -> dict[int, list[int]]:
    """Pairs with no third point in the circle between them (the Gabriel graph), by the lower index."""
    triangles = Delaunay(at).simplices
    pairs = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]])), axis=0
    )
    links: dict[int, list[int]] = {}
    for a, b in pairs.tolist():
        middle, radius = (at[a] + at[b]) / 2, np.hypot(*(at[a] - at[b])) / 2
        others = np.delete(at, [a, b], axis=0)
        if (np.hypot(*(others - middle).T) > radius).all():
            links.setdefault(a, []).append(b)
    return links


def _heading(lines: list[NDArray[np.float64]], count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Direction in radians of the nearest line, and distance to it in pixels, at every coarse node."""
    angle = np.zeros((count, count), np.float32)
    free = np.ones((count, count), bool)
    for line in lines:
        step = (
            np.gradient(gaussian_filter1d(line, 20, axis=0, mode="nearest"), axis=0)
            if len(line) > 1
            else line * 0
        )
        at = np.clip(np.round(line / STEP).astype(np.int64), 0, count - 1)
        angle[at[:, 0], at[:, 1]] = np.arctan2(step[:, 0], step[:, 1])
        free[at[:, 0], at[:, 1]] = False
    distance, nearest = distance_transform_edt(free, return_indices=True)
    return angle[tuple(nearest)], (distance * STEP).astype(np.float32)
