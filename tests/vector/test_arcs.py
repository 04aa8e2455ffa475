from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from geoseg.vector import arcs
from geoseg.vector.obstacles import index_points, is_free, near_lines
from geoseg.vector.runs import (
    CLOSED,
    RAW,
    REVERSED,
    Line,
    collect_points,
    join_runs,
    number_arcs,
    room_for_lines,
    split_runs,
)
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

NOWHERE = (-9, -9, -9, -9)
"""No seams."""


@njit
def is_free_(points, corners, own, index):
    return is_free(points, corners, own, index)


@njit
def deviation_(line, arc, tolerance, work, a, c):
    arcs._sum_up(line.points, arc, work.sums)
    return arcs._deviation(line, arc, tolerance, work, a, c)


def outlines_of(classes):
    """Raw outlines in half pixels: coords, fixed, ring offsets."""
    classes = np.asarray(classes, np.uint8)
    core = Window(0, 0, *classes.shape)
    found = trace_tile(
        classes, confidence=None, pixel_area=np.ones((1, 1)), core=core, scene=core, nodata=255
    ).outlines
    return found.coords * np.int32(2), found.fixed, found.ring_offsets


def random_map(seed, size=14):
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 3, (size // 2, size // 2)), np.ones((2, 2), int))
    return np.where(rng.random(blocks.shape) < 0.15, 1 - blocks % 2, blocks)


def chain(coords, runs, run):
    """A run's vertices in the direction of its arc."""
    start, edges, ring, size = (int(a[run]) for a in (runs.start, runs.edges, runs.ring, runs.size))
    at = [ring + (start - ring + k) % size for k in range(edges + 1)]
    return coords[at[::-1] if runs.kind[run] & REVERSED else at]


def index_of(points, arc=None, rank=None):
    points = np.asarray(points, np.int32).reshape(-1, 2)
    arc = np.full(len(points), -1) if arc is None else arc
    rank = np.full(len(points), -1) if rank is None else rank
    return index_points(points, np.asarray(arc, np.int32), np.asarray(rank, np.int32))


def positions(index):
    rows = index.row + np.repeat(np.arange(len(index.offsets) - 1), np.diff(index.offsets))
    return np.stack([index.col, rows], axis=1)


def simplified(coords, fixed, offsets, tolerance, *, smooth=False):
    runs = split_runs(coords, fixed, offsets, NOWHERE)
    leader, line = number_arcs(coords, runs), room_for_lines(runs)
    index = index_points(*collect_points(coords, fixed, runs, leader, line, NOWHERE, smooth, False))
    kept, kept_offsets = arcs.simplify_arcs(coords, runs, leader, index, line, (tolerance, tolerance), smooth)
    return runs, leader, kept, kept_offsets


def winding(points, curve):
    """How often a closed curve goes around each point that is not on it."""
    (x0, y0), (x1, y1) = curve.T[:, :, None], np.roll(curve, -1, axis=0).T[:, :, None]
    x, y = points.T
    side = np.sign((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0))
    return ((y0 <= y) & (y < y1) & (side > 0)).sum(axis=0) - ((y1 <= y) & (y < y0) & (side < 0)).sum(axis=0)


def test_a_ring_is_cut_at_its_fixed_vertices_and_runs_from_the_lower_end():
    coords = np.array([(0, 0), (0, 4), (2, 4), (2, 6), (4, 6), (4, 0), (0, 0)], np.int32)
    fixed = np.array([False, True, False, False, True, False, False])
    runs = split_runs(coords, fixed, np.array([0, 7]), NOWHERE)
    assert [chain(coords, runs, run).tolist() for run in range(2)] == [
        [[0, 4], [2, 4], [2, 6], [4, 6]],
        [[0, 4], [0, 0], [4, 0], [4, 6]],
    ]
    assert runs.kind.tolist() == [0, REVERSED]
    assert number_arcs(coords, runs).tolist() == [0, 1]
    touching = split_runs(coords, fixed, np.array([0, 7]), (0, -9, -9, -9))
    assert touching.kind.tolist() == [0, REVERSED | RAW]
    assert number_arcs(coords, touching).tolist() == [0]


def test_a_ring_without_fixed_vertices_is_one_run_from_its_lowest():
    coords = np.array([(4, 0), (0, 0), (0, 4), (4, 4), (4, 0)], np.int32)
    runs = split_runs(coords, np.zeros(5, bool), np.array([0, 5]), NOWHERE)
    assert runs.kind.tolist() == [CLOSED]
    assert chain(coords, runs, 0).tolist() == [[0, 0], [0, 4], [4, 4], [4, 0], [0, 0]]


@pytest.mark.parametrize("seed", range(8))
def test_both_sides_of_a_border_have_the_same_arc(seed):
    coords, fixed, offsets = outlines_of(random_map(seed))
    runs = split_runs(coords, fixed, offsets, NOWHERE)
    leader = number_arcs(coords, runs)
    same = {}
    for run in np.flatnonzero((runs.edges > 1) | (runs.kind & CLOSED > 0)):
        same.setdefault(tuple(map(tuple, chain(coords, runs, run).tolist())), set()).add(int(runs.arc[run]))
    assert sorted(same.values(), key=min) == [{arc} for arc in range(len(leader))]
    assert (runs.arc[leader] == np.arange(len(leader))).all()


@pytest.mark.parametrize("seed", range(8))
def test_runs_join_to_the_rings_they_come_from(seed):
    coords, fixed, offsets = outlines_of(random_map(seed))
    runs = split_runs(coords, fixed, offsets, NOWHERE)
    leader = number_arcs(coords, runs)
    inside = [chain(coords, runs, run)[0 if runs.kind[run] & CLOSED else 1 : -1] for run in leader]
    kept_offsets = np.cumsum([0, *map(len, inside)])
    joined, stays, again = join_runs(coords, fixed, runs, np.concatenate(inside), kept_offsets)
    assert stays.all()
    assert again.tolist() == offsets.tolist()
    for start, stop in pairwise(offsets):
        ring, before = joined[start:stop], coords[start : stop - 1]
        shift = int(np.flatnonzero((before == ring[0]).all(axis=1))[0])
        assert ring.tolist() == [*np.roll(before, -shift, axis=0).tolist(), before[shift].tolist()]


def test_the_index_has_each_position_once_and_knows_whose_it_is():
    points = [(5, 1), (2, 1), (2, 1), (2, 1), (7, -3), (7, -3), (0, 0)]
    index = index_of(points, arc=[-1, -1, 4, 4, 6, -1, 2], rank=[-1, -1, -1, 8, -1, -1, 0])
    assert positions(index).tolist() == [[0, 0], [2, 1], [5, 1]]  # (7, -3) is on arc 6, but no place there
    assert index.arc.tolist() == [2, 4, -1]
    assert index.rank.tolist() == [0, 8, -1]


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**6))
def test_a_triangle_is_free_when_no_obstacle_meets_it(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 12))
    corners = rng.integers(0, size, (3, 2))
    obstacles = rng.integers(0, size, (int(rng.integers(1, 12)), 2))
    triangle = shapely.Polygon(corners)
    if triangle.area == 0:
        return
    met = shapely.intersects(triangle, shapely.points(obstacles))
    met &= ~(obstacles[:, None] == corners).all(axis=2).any(axis=1)
    found = is_free_(corners, (0, 1, 2), (0, 0, 2, 3), index_of(obstacles))
    assert found == (not met.any())


def test_own_points_do_not_count_between_the_corners_only():
    points = np.array([(0, 0), (3, 3), (6, 0)])
    for rank, free in ((2, False), (3, True), (7, True), (9, True), (10, False)):
        index = index_of([(3, 1)], arc=[5], rank=[rank])
        assert is_free_(points, (0, 1, 2), (5, 3, 9, 12), index) == free
        assert not is_free_(points, (0, 1, 2), (4, 3, 9, 12), index)
    around = index_of([(3, 1)], arc=[5], rank=[1])
    assert is_free_(points, (0, 1, 2), (5, 9, 3, 12), around)  # from 9 past the start to 3


@pytest.mark.parametrize("closed", [False, True])
def test_the_deviation_is_the_squared_distance_along_the_line(closed):
    points = np.array([(10, 10), (10, 14), (16, 14), (16, 20), (30, 20), (30, 10)])
    arc = arcs.Arc(0, len(points), 0, closed)
    work = arcs.Work(*(np.zeros(1, np.int64),) * 7)._replace(sums=np.zeros((7, 6), np.int64))
    line = Line(points, np.zeros(6, np.int64), points)
    for a, c in [(0, 2), (0, 4), (1, 5), (2, 4)] + [(4, 1), (5, 2)] * closed:
        places = [(a + k) % 6 for k in range((c - a) % 6 + 1)]
        direction = (points[c] - points[a]) / (2.0, 3.0)
        total = 0.0
        for one, other in pairwise(places):
            t = (np.arange(2000) + 0.5) / 2000
            at = (points[one] + t[:, None] * (points[other] - points[one]) - points[a]) / (2.0, 3.0)
            aside = (at[:, 0] * direction[1] - at[:, 1] * direction[0]) / np.hypot(*direction)
            total += (aside**2).mean() * abs(points[other] - points[one]).sum()
        assert deviation_(line, arc, (2.0, 3.0), work, a, c) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("tolerance", [1.5, 4.0, 15.0])
@pytest.mark.parametrize("seed", range(6))
def test_no_line_sweeps_over_a_vertex_of_another(seed, tolerance, smooth):
    coords, fixed, offsets = outlines_of(random_map(seed, size=20))
    runs, leader, kept, kept_offsets = simplified(coords, fixed, offsets, tolerance, smooth=smooth)
    everything = np.unique(coords[fixed] if smooth else coords, axis=0)
    fewer = 0
    for arc, run in enumerate(leader):
        before, after = chain(coords, runs, run), kept[kept_offsets[arc] : kept_offsets[arc + 1]]
        others = everything[~(everything[:, None] == before).all(axis=2).any(axis=1)]
        if runs.kind[run] & CLOSED:
            swept = winding(others, before[:-1]) - winding(others, after)
        else:
            swept = winding(others, np.concatenate([before, after[::-1]]))
        assert not swept.any()
        fewer += len(after) < len(before) - 2
    assert fewer or tolerance < 2


def test_points_near_raw_lines_and_seams_are_all_found():
    classes = random_map(3, size=60)
    coords, fixed, offsets = outlines_of(classes)
    seams, box, reach = (-9, -9, -9, 120), (0, 0, 120, 120), 5
    runs = split_runs(coords, fixed, offsets, seams)
    leader, line = number_arcs(coords, runs), room_for_lines(runs)
    index = index_points(*collect_points(coords, fixed, runs, leader, line, seams, False, False))
    found = set(map(tuple, near_lines(index, coords, runs, seams, box, reach).tolist()))
    raw = [chain(coords, runs, run) for run in np.flatnonzero(runs.kind & RAW)]
    lines = shapely.union_all([*map(shapely.LineString, raw), shapely.LineString([(120, 0), (120, 120)])])
    points = positions(index)
    near = points[shapely.distance(shapely.points(points), lines) <= reach]
    assert set(map(tuple, near.tolist())) <= found < set(map(tuple, points.tolist()))
    assert not any(col == 120 for col, _ in found)
