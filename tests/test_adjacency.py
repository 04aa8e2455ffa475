import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.adjacency import find_adjacency


def pairs_by_brute_force(labels, weights, *, corners):
    """{(label, neighbour): border}, pixel by pixel."""
    steps = [(0, 1, weights[1]), (1, 0, weights[0])] + [(1, 1, 0), (1, -1, 0)] * corners
    found = {}
    for (r, c), here in np.ndenumerate(labels):
        for down, right, length in steps:
            if r + down < labels.shape[0] and 0 <= c + right < labels.shape[1]:
                there = labels[r + down, c + right]
                if here != there and here and there:
                    found[here, there] = found.get((here, there), 0) + length
                    found[there, here] = found.get((there, here), 0) + length
    return found


@settings(deadline=None, max_examples=200)
@given(
    labels=arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 6)),
    weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    connectivity=st.sampled_from([4, 8]),
    wanted=arrays(bool, 6),
)
def test_borders_are_those_counted_pixel_by_pixel(labels, weights, connectivity, wanted):
    found = find_adjacency(labels, wanted=wanted, weights=weights, connectivity=connectivity)
    assert len(found.offsets) == 7
    owner = np.repeat(np.arange(6), np.diff(found.offsets))
    keys = list(zip((owner + 1).tolist(), (found.neighbour + 1).tolist(), strict=True))
    assert len(set(keys)) == len(keys), "each neighbour is listed once"
    expected = pairs_by_brute_force(labels, weights, corners=connectivity == 8)
    assert dict(zip(keys, found.border.tolist(), strict=True)) == {
        pair: length for pair, length in expected.items() if wanted[pair[0] - 1]
    }


@pytest.mark.parametrize(("connectivity", "expected"), [(4, [[2, 3], [3, 3]]), (8, [[2, 3, 4], [3, 3, 0]])])
def test_regions_that_meet_at_a_corner_have_no_border(connectivity, expected):
    labels = np.array([[1, 2], [3, 4]], np.int32)
    found = find_adjacency(
        labels, wanted=np.array([True, False, False, False]), weights=(3, 3), connectivity=connectivity
    )
    assert [(found.neighbour + 1).tolist(), found.border.tolist()] == expected


def test_a_border_through_several_rows_is_one_entry():
    labels = np.array([[1, 2, 1], [1, 2, 1], [1, 2, 3]], np.int32)
    found = find_adjacency(labels, wanted=np.array([False, True, False]), weights=(100, 1))
    assert found.offsets.tolist() == [0, 0, 2, 2]
    assert found.neighbour.tolist() == [0, 2]
    assert found.border.tolist() == [5, 1]


def test_labels_without_regions_have_no_neighbours():
    found = find_adjacency(np.zeros((3, 4), np.int32), wanted=np.zeros(0, bool))
    assert found.offsets.tolist() == [0]
    assert len(found.neighbour) == len(found.border) == 0
