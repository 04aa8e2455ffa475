"""The compiled loops by hand-made examples; how they work together, test_merge.py says."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.vector.join import BARE, BORDER, FIXED, LOOSE, NODE, cut_rings, follow, take_outlines

NO_SEAM = np.empty(0, np.uint8)
OPEN, SHUT = 0, BORDER
# A region of 2 x 2 pixels that fills the tile at row 4, column 6; every lattice point is a vertex.
RING = [[6, 4], [6, 5], [6, 6], [7, 6], [8, 6], [8, 5], [8, 4], [7, 4], [6, 4]]
BOX = (4, 6, 6, 8)


def cut(ring=RING, *, top=NO_SEAM, bottom=NO_SEAM, left=NO_SEAM, right=NO_SEAM, scale=1, keep=False):
    box = tuple(scale * at for at in BOX)
    sides = tuple(np.asarray(side, np.uint8) for side in (top, bottom, left, right))
    coords = scale * np.array(ring, np.int32)
    offsets = np.array([0, len(ring)])
    chains, gates = cut_rings(
        coords, np.zeros(len(ring), bool), offsets, box, sides, scale=scale, keep_outline=keep
    )
    return {name: array.tolist() for name, array in (chains._asdict() | {"gates": gates.at}).items()}


def test_a_ring_without_open_edges_stays_whole():
    found = cut(right=[SHUT, SHUT, SHUT])
    assert found["points"] == RING[:-1]
    assert found["offsets"] == [0, 8]
    assert found["ends"] == [RING[0]]
    assert found["gates"] == []


@pytest.mark.parametrize("scale", [1, 2])
def test_open_edges_are_left_out_and_the_chain_goes_from_one_end_of_them_to_the_other(scale):
    found = cut(right=[OPEN, OPEN, SHUT], scale=scale)
    assert found["points"] == (scale * np.array([[8, 4], [7, 4], [6, 4], [6, 5], [6, 6], [7, 6]])).tolist()
    assert found["ends"] == [[8 * scale, 6 * scale]]
    assert found["gates"] == [[1, 8 * scale, 4 * scale]]


def test_every_run_of_open_edges_parts_a_ring():
    found = cut(right=[OPEN, SHUT, SHUT], left=[SHUT, OPEN, SHUT])
    chains = [found["points"][a:b] for a, b in pairwise(found["offsets"])]
    assert sorted(chains) == [[[6, 6], [7, 6], [8, 6]], [[8, 4], [7, 4], [6, 4]]]
    assert sorted(found["ends"]) == [[6, 5], [8, 5]]
    assert sorted(found["gates"]) == [[1, 6, 5], [1, 8, 4]]


def test_a_tile_inside_a_region_has_a_gate_on_every_side_and_no_chain():
    whole = [OPEN, OPEN, SHUT]
    found = cut(top=whole, bottom=whole, left=whole, right=whole)
    assert found["offsets"] == [0]
    assert found["points"] == []
    assert sorted(found["gates"]) == [[0, 6, 4], [0, 6, 6], [1, 6, 4], [1, 8, 4]]


def test_both_sides_of_a_seam_have_the_same_gate():
    shifted = [[col + 2, row] for col, row in RING]
    here = cut(right=[SHUT, OPEN, SHUT])["gates"]
    coords, offsets = np.array(shifted, np.int32), np.array([0, len(RING)])
    flags = np.array([SHUT, OPEN, SHUT], np.uint8)
    sides, box = (NO_SEAM, NO_SEAM, flags, NO_SEAM), (4, 8, 6, 10)
    _, gates = cut_rings(coords, np.zeros(len(RING), bool), offsets, box, sides, scale=1, keep_outline=False)
    assert here == gates.at.tolist() == [[1, 8, 5]]


def test_vertices_on_seams_are_fixed_at_nodes_and_loose_elsewhere():
    found = cut(left=[SHUT, NODE | SHUT, BARE | SHUT], top=[SHUT, SHUT, SHUT])
    flags = dict(zip(map(tuple, found["points"]), found["flags"], strict=True))
    assert flags[6, 5] == FIXED
    assert flags[6, 6] == flags[7, 4] == LOOSE
    assert flags[7, 6] == flags[8, 5] == 0
    kept = cut(left=[SHUT, SHUT, BARE | SHUT], keep=True)
    assert dict(zip(map(tuple, kept["points"]), kept["flags"], strict=True))[6, 6] == FIXED | LOOSE


def test_following_leaves_out_loose_points_where_the_ring_is_straight():
    points = np.array(RING[:-1], np.int32)
    flags = np.full(8, LOOSE, np.uint8)
    flags[3] = 0
    order, offsets, first = follow(points, flags, np.roll(np.arange(8), -1))
    assert sorted(points[order].tolist()) == [[6, 4], [6, 6], [7, 6], [8, 4], [8, 6]]
    assert offsets.tolist() == [0, 5]
    assert first.tolist() == [0]


@settings(deadline=None, max_examples=50)
@given(following=st.permutations(range(9)))
def test_following_visits_every_point_once_ring_by_ring(following):
    order, offsets, first = follow(np.zeros((9, 2), np.int32), np.zeros(9, np.uint8), np.array(following))
    assert sorted(order.tolist()) == list(range(9))
    rings = [order[a:b].tolist() for a, b in pairwise(offsets)]
    for ring, start in zip(rings, first.tolist(), strict=True):
        assert start in ring
        assert [following[i] for i in ring] == [*ring[1:], ring[0]]


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_taken_outlines_are_those_at_the_index(data):
    regions = data.draw(st.lists(st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=3), max_size=4))
    rings = [n for region in regions for polygon in region for n in polygon]
    coords = np.arange(2 * sum(rings), dtype=np.int32).reshape(-1, 2)
    arrays = (
        coords,
        coords[:, 0] % 4 == 0,
        np.cumsum([0, *rings]),
        np.cumsum([0, *(len(polygon) for region in regions for polygon in region)]),
        np.cumsum([0, *map(len, regions)]),
    )
    index = np.array(
        data.draw(st.lists(st.integers(0, len(regions) - 1)) if regions else st.just([])), np.intp
    )
    assert nested(*take_outlines(*arrays, index)) == [nested(*arrays)[i] for i in index]


def nested(coords, fixed, ring_offsets, polygon_offsets, region_offsets):
    points = [(*point, stays) for point, stays in zip(coords.tolist(), fixed.tolist(), strict=True)]
    for offsets in (ring_offsets, polygon_offsets, region_offsets):
        points = [points[a:b] for a, b in pairwise(offsets.tolist())]
    return points
