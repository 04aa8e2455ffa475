from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.accuracy.layers import blocks
from geoseg.accuracy.objects import ObjectCounter, ObjectScores
from geoseg.legend import IGNORE_INDEX
from geoseg.windows import Window

CLASSES = 3
EDGES = (2, 5, 20)


def counted(reference: np.ndarray, predicted: np.ndarray, side: int) -> ObjectScores:
    counter = ObjectCounter(CLASSES, EDGES)
    for block in blocks(Window(3, 2, *reference.shape), side):
        here = block.slices(origin=Window(3, 2, *reference.shape))
        counter.add(block, reference[here], predicted[here])
    return counter.finish(pixel_m2=4.0)


def by_hand(reference: np.ndarray, predicted: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """(class, group): objects, found, pixels, hits."""
    found: dict[tuple[int, int], list[int]] = {}
    for index in range(CLASSES):
        labels, count = ndimage.label(reference == index)
        for number in range(1, count + 1):
            own = labels == number
            size, hits = int(own.sum()), int((predicted[own] == index).sum())
            group = sum(size >= edge for edge in EDGES)
            row = found.setdefault((index, group), [0, 0, 0, 0])
            for i, value in enumerate((1, int(hits >= size / 2), size, hits)):
                row[i] += value
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([1, 2, 5]), st.integers(1, 26))
def test_blocks_of_any_size_against_the_whole(seed: int, side: int, grain: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (23, width)
    values = [*range(CLASSES), IGNORE_INDEX]
    reference = rng.choice(values, (23, 26), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    reference = reference.repeat(grain, 0).repeat(grain, 1)[: shape[0], : shape[1]]
    predicted = np.where(rng.random(shape) < 0.5, reference, rng.choice(values, shape)).astype(np.uint8)
    scores, expected = counted(reference, predicted, side), by_hand(reference, predicted)
    for index, groups in enumerate(scores.classes):
        for k, group in enumerate(groups):
            objects, found, pixels, hits = expected.get((index, k), [0, 0, 0, 0])
            assert (group.objects, group.found, group.pixels) == (objects, found, pixels)
            assert group.recall == (found / objects if objects else None)
            assert group.pixel_recall == (pytest.approx(hits / pixels) if pixels else None)


def test_a_spiral_across_blocks_is_one_object() -> None:
    """Its arms meet blocks apart, long after the blocks they began in are forgotten."""
    reference = np.zeros((41, 41), np.uint8)
    for ring in range(0, 20, 2):
        reference[ring : 41 - ring, ring : 41 - ring] = 1
        reference[ring + 1 : 40 - ring, ring + 1 : 40 - ring] = 0
        reference[ring + 1, ring + 1] = 1
        reference[ring + 2, ring + 1] = 1
    _, count = ndimage.label(reference == 1)
    assert count < 10
    for side in (3, 7, 41):
        groups = counted(reference, reference, side).classes[1]
        assert sum(g.objects for g in groups) == sum(g.found for g in groups) == count


def test_groups_say_where_they_begin_and_end() -> None:
    reference = np.zeros((4, 5), np.uint8)
    first, *_, last = counted(reference, reference, 2).classes[0]
    assert (first.from_px, first.to_px, first.from_m2, first.to_m2) == (1, 2, 4.0, 8.0)
    assert (last.from_px, last.to_px, last.to_m2, last.objects, last.pixels) == (20, None, None, 1, 20)


def test_half_is_found() -> None:
    reference, predicted = np.zeros((1, 4), np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    assert counted(reference, predicted, 9).classes[0][1].found == 1
    predicted[0, 0] = 1
    assert counted(reference, predicted, 9).classes[0][1].found == 0


@pytest.mark.parametrize("edges", [(1, 5), (5, 5), (0,)])
def test_sizes_must_ascend(edges) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        ObjectCounter(2, edges)
