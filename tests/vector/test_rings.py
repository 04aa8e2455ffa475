from itertools import pairwise

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.regions import find_components
from geoseg.vector.outlines import Outlines
from geoseg.vector.rings import arrange, canonical, split_rings
from geoseg.vector.trace import outline
from geoseg.windows import Window

NAMES = ("coords", "fixed", "ring_offsets", "polygon_offsets", "region_offsets", "scale")


@st.composite
def some_outlines(draw):
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    classes = rng.choice(np.array([0, 1, 255][: draw(st.integers(2, 3))], np.uint8), shape)
    core = Window(3, 5, *shape)
    found = find_components(
        classes, core=core, scene=core, nodata=255, connectivity=draw(st.sampled_from([4, 8]))
    )
    return outline(found, core), rng


def spelled(outlines):
    return {name: np.asarray(getattr(outlines, name)).tolist() for name in NAMES}


def owners(offsets):
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def shuffled(outlines, rng, *, closed):
    """The rings in any order, each from any vertex on, as `arrange` takes them."""
    order = rng.permutation(len(outlines.ring_offsets) - 1)
    coords, fixed, sizes = [], [], []
    for ring in order:
        inside = slice(outlines.ring_offsets[ring], outlines.ring_offsets[ring + 1] - 1)
        turn = rng.integers(0, inside.stop - inside.start)
        index = np.roll(np.arange(inside.start, inside.stop), turn)
        index = np.append(index, index[0]) if closed else index
        coords.append(outlines.coords[index])
        fixed.append(outlines.fixed[index])
        sizes.append(len(index))
    coords = np.concatenate([np.empty((0, 2), np.int32), *coords])
    fixed = np.concatenate([np.empty(0, bool), *fixed])
    # polygons change their numbers too, but not their regions
    renumbered = rng.permutation(len(outlines.polygon_offsets) - 1)
    region = np.empty(len(renumbered), np.int64)
    region[renumbered] = owners(outlines.region_offsets)
    polygon = renumbered[owners(outlines.polygon_offsets)[order]]
    return coords, fixed, np.cumsum([0, *sizes]), {"polygon": polygon, "region": region, "closed": closed}


@settings(deadline=None, max_examples=80)
@given(drawn=some_outlines(), closed=st.booleans())
def test_rings_in_any_order_give_the_same_outlines(drawn, closed):
    outlines, rng = drawn
    coords, fixed, offsets, whose = shuffled(outlines, rng, closed=closed)
    assert spelled(arrange(coords, fixed, offsets, **whose)) == spelled(outlines)
    assert spelled(arrange(coords, fixed, offsets, **whose, scale=2))["scale"] == 2


@settings(deadline=None, max_examples=40)
@given(drawn=some_outlines())
def test_outlines_turned_by_a_right_angle_are_spelled_anew(drawn):
    outlines, rng = drawn
    assert spelled(canonical(outlines)) == spelled(outlines)
    turned = Outlines(
        coords=outlines.coords[:, ::-1] * np.array([-1, 1], np.int32),
        **{name: getattr(outlines, name) for name in NAMES[1:]},
    )
    found, expected = canonical(turned).to_shapely(), turned.to_shapely()
    assert shapely.equals(found, expected).all()
    coords, fixed, offsets, whose = shuffled(turned, rng, closed=True)
    assert spelled(arrange(coords, fixed, offsets, **whose)) == spelled(canonical(turned))


def test_holes_that_start_at_one_node_are_ordered_by_their_next_vertices():
    outer = [[0, 0], [0, 9], [9, 9], [9, 0]]
    holes = [[[2, 4], [6, 2], [6, 4]], [[2, 4], [6, 5], [6, 8]]]  # both start at (2, 4)
    holes = [ring if twice(ring) > 0 else ring[::-1] for ring in holes]
    spellings = []
    for rings in ([outer, *holes], [holes[1], outer, holes[0]], [holes[0], holes[1], outer]):
        points = np.array([p for ring in rings for p in ring], np.int32)
        offsets = np.cumsum([0, *map(len, rings)])
        found = arrange(
            points, np.ones(len(points), bool), offsets, polygon=np.zeros(3, int), region=np.zeros(1, int)
        )
        assert shapely.is_valid(found.to_shapely()).all()
        spellings.append(spelled(found))
    assert spellings[0] == spellings[1] == spellings[2]
    assert spellings[0]["coords"][:5] == [*outer, outer[0]]


def twice(ring):
    col, row = np.array(ring).T
    return (col * np.roll(row, -1) - np.roll(col, -1) * row).sum()


def rings_around(labels, label):
    """The rings of a label as lists of unit steps that at corners stay with their own pixel: turn left."""
    inside = np.pad(labels == label, 1)
    ways = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # down, right, up, left, as (column, row)
    edges = {}
    for row, col in np.argwhere(inside).tolist():
        corners = [(col - 1, row - 1), (col - 1, row), (col, row), (col, row - 1)]
        beside = [(row, col - 1), (row + 1, col), (row, col + 1), (row - 1, col)]
        for way in range(4):
            if not inside[beside[way]]:
                edges[corners[way], way] = True
    while edges:
        (point, way), _ = edges.popitem()
        start, ring = (point, way), []
        while True:
            ring.append(point)
            point = (point[0] + ways[way][0], point[1] + ways[way][1])
            way = next(
                w for w in ((way + 1) % 4, way, (way + 3) % 4) if (point, w) in edges or (point, w) == start
            )
            if (point, way) == start:
                break
            del edges[point, way]
        yield ring


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 9999), shape=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_rings_that_meet_themselves_are_cut_into_those_that_do_not(seed, shape):
    classes = np.random.default_rng(seed).choice(np.array([0, 0, 1], np.uint8), shape)
    core = Window(0, 0, *shape)
    found = find_components(classes, core=core, scene=core, nodata=255)
    labels, expected = found.labels(), outline(found, core)
    rings = [
        (label - 1, ring) for label in range(1, len(expected) + 1) for ring in rings_around(labels, label)
    ]
    points = np.array([point for _, ring in rings for point in ring], np.int32)
    offsets = np.cumsum([0, *(len(ring) for _, ring in rings)])
    flags = np.random.default_rng(seed).random(points.shape).sum(axis=1) > 1
    coords, fixed, cuts, whole = split_rings(points, flags, offsets)
    given_points, kept = (
        sorted((*point, flag) for point, flag in zip(c.tolist(), f.tolist(), strict=True))
        for c, f in ((points, flags), (coords, fixed))
    )
    assert given_points == kept
    polygon = np.array([label for label, _ in rings])[whole]
    put = arrange(coords, fixed, cuts, polygon=polygon, region=np.arange(len(expected)))
    assert shapely.equals(put.to_shapely(), expected.to_shapely()).all()
    assert shapely.is_valid(put.to_shapely()).all()
    assert np.diff(put.polygon_offsets).tolist() == np.diff(expected.polygon_offsets).tolist()
    for start, stop in pairwise(cuts.tolist()):
        assert len({tuple(point) for point in coords[start:stop].tolist()}) == stop - start


def test_a_ring_that_closes_at_a_corner_becomes_an_outer_ring_and_a_hole():
    ring = [[0, 0], [0, 3], [3, 3], [3, 1], [2, 1], [2, 2], [1, 2], [1, 1], [2, 1], [2, 0]]
    coords, fixed, offsets, whole = split_rings(
        np.array(ring, np.int32), np.arange(10) == 4, np.array([0, 10])
    )
    assert whole.tolist() == [0, 0]
    pieces = [coords[a:b].tolist() for a, b in pairwise(offsets.tolist())]
    assert pieces == [[[2, 1], [2, 2], [1, 2], [1, 1]], [[0, 0], [0, 3], [3, 3], [3, 1], [2, 1], [2, 0]]]
    assert fixed.sum() == 1
    assert [len(part) for part in split_rings(coords[:0], fixed[:0], np.zeros(1, np.int64))] == [0, 0, 1, 0]


def test_a_point_that_left_with_a_piece_may_come_again():
    a, b, c, d, p = [0, 0], [4, 1], [5, 5], [2, 8], [3, 3]
    ring = np.array([a, p, b, a, c, p, d], np.int32)
    coords, _, offsets, whole = split_rings(ring, np.ones(7, bool), np.array([0, 7]))
    assert [coords[i:j].tolist() for i, j in pairwise(offsets.tolist())] == [[a, p, b], [a, c, p, d]]
    assert whole.tolist() == [0, 0]


def test_an_outer_ring_comes_before_a_hole_that_starts_at_the_same_node():
    outer, hole = [[0, 5], [9, 9], [9, 1]], [[0, 5], [6, 4], [6, 6]]
    assert twice(outer) < 0 < twice(hole)
    for first, second in ((outer, hole), (hole, outer)):
        points = np.array([*first, *second], np.int32)
        found = arrange(
            points, np.ones(6, bool), np.array([0, 3, 6]), polygon=np.zeros(2, int), region=np.zeros(1, int)
        )
        assert found.coords.tolist() == [*outer, outer[0], *hole, hole[0]]
