from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoseg.accuracy.boundary as module
from geoseg.accuracy.boundary import BoundaryCounts, BoundaryScores, Disc, count_boundaries
from geoseg.accuracy.layers import blocks
from geoseg.legend import IGNORE_INDEX
from geoseg.windows import Window

CLASSES = 3


def fields_of(seed: int, shape: tuple[int, int], *, holes: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A patchy reference and a map that is much like it, both with unknown pixels."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, CLASSES, (-(-shape[0] // 4), -(-shape[1] // 4)))
    reference = reference.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]].astype(np.uint8)
    predicted = np.roll(reference, tuple(rng.integers(-2, 3, 2)), (0, 1))
    predicted[rng.random(shape) < 0.05] = rng.integers(0, CLASSES)
    if holes:
        reference[rng.random(shape) < 0.1] = IGNORE_INDEX
        predicted[rng.random(shape) < 0.1] = IGNORE_INDEX
    return reference, predicted


def by_hand(reference: np.ndarray, predicted: np.ndarray, disc: Disc) -> dict[str, list[int]]:
    """Every pixel against every other one."""
    known = reference != IGNORE_INDEX
    truth = np.where(known, reference.astype(int), -1)
    claim = np.where(known, np.where(predicted == IGNORE_INDEX, CLASSES, predicted.astype(int)), -1)
    at = list(np.ndindex(reference.shape))

    def near(a, b) -> bool:
        apart = np.hypot((a[0] - b[0]) * disc.row_m, (a[1] - b[1]) * disc.col_m)
        return apart <= disc.radius_m + 1e-6

    def band(labels):
        inside = [p for p in at if labels[p] >= 0]
        return {p for p in inside if any(labels[q] != labels[p] and near(p, q) for q in inside)}

    def outline(labels):
        beside = [(0, 1), (1, 0), (0, -1), (-1, 0)]
        inside = {p for p in at if labels[p] >= 0}
        return {
            p
            for p in inside
            if any(
                (p[0] + r, p[1] + c) in inside and labels[p[0] + r, p[1] + c] != labels[p] for r, c in beside
            )
        }

    def found(own, labels, other, others):
        return {p for p in own if any(others[q] == labels[p] and near(p, q) for q in other)}

    def count(points, labels):
        return [sum(labels[p] == k for p in points) for k in range(CLASSES)]

    bands, outlines = (band(truth), band(claim)), (outline(truth), outline(claim))
    return {
        "band_reference": count(bands[0], truth),
        "band_predicted": count(bands[1], claim),
        "band_both": count({p for p in bands[0] & bands[1] if truth[p] == claim[p]}, truth),
        "outline_reference": count(outlines[0], truth),
        "outline_reference_found": count(found(outlines[0], truth, outlines[1], claim), truth),
        "outline_predicted": count(outlines[1], claim),
        "outline_predicted_right": count(found(outlines[1], claim, outlines[0], truth), claim),
    }


def counted(reference, predicted, disc, *, side: int = 10**6) -> BoundaryCounts:
    """Block by block, each with the margin the disc asks for."""
    whole = Window(0, 0, *reference.shape)
    total = BoundaryCounts.none(CLASSES)
    down, right = (n + 1 for n in disc.reach_px)
    for core in blocks(whole, side):
        reach = Window(
            core.row - down, core.col - right, core.height + 2 * down, core.width + 2 * right
        ).intersect(whole)
        total += count_boundaries(
            reference[reach.slices()],
            predicted[reach.slices()],
            core=core.slices(origin=reach),
            classes=CLASSES,
            disc=disc,
        )
    return total


def as_lists(counts: BoundaryCounts) -> dict[str, list[int]]:
    return {f.name: getattr(counts, f.name).tolist() for f in fields(counts)}


discs = st.builds(
    lambda row, col, more: Disc(radius_m=max(row, col) * more, row_m=row, col_m=col),
    st.sampled_from([10.0, 7.0]),
    st.sampled_from([10.0, 16.0]),
    st.sampled_from([1.0, 1.5, 2.0, 3.3]),
)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), discs, st.booleans())
def test_counts_against_every_pair_of_pixels(seed: int, disc: Disc, shifts: bool) -> None:
    """Both ways to find what is near: looking at each neighbour, and distance transforms."""
    reference, predicted = fields_of(seed, (9, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_SHIFTS", 10**6 if shifts else 0)
        assert as_lists(counted(reference, predicted, disc)) == by_hand(reference, predicted, disc)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), discs, st.integers(3, 40))
def test_blocks_with_a_margin_are_the_whole(seed: int, disc: Disc, side: int) -> None:
    reference, predicted = fields_of(seed, (40, 53))
    whole = as_lists(counted(reference, predicted, disc))
    assert as_lists(counted(reference, predicted, disc, side=side)) == whole
    assert sum(whole["band_both"]) > 0


def test_the_picture_in_the_module() -> None:
    reference = np.array([[1, 1, 1, 0, 0, 0, 0]], np.uint8)
    predicted = np.array([[1, 1, 0, 0, 0, 0, 0]], np.uint8)
    counts = counted(reference, predicted, Disc(radius_m=2, row_m=1, col_m=1))
    found = BoundaryScores.of(counts, tolerance_m=2).classes
    assert found[0].iou == pytest.approx(1 / 3)
    assert found[0].recall == found[0].precision == found[0].f1 == 1.0


def test_a_perfect_map_and_one_that_has_no_boundary() -> None:
    reference, _ = fields_of(1, (30, 30), holes=False)
    disc = Disc(radius_m=20, row_m=10, col_m=10)
    perfect = BoundaryScores.of(counted(reference, reference, disc), tolerance_m=20)
    assert perfect.mean_iou == perfect.mean_f1 == 1.0
    flat = BoundaryScores.of(counted(reference, np.zeros_like(reference), disc), tolerance_m=20)
    assert flat.mean_iou == flat.mean_f1 == 0.0
    assert all(c.precision is None for c in flat.classes)


def test_a_class_without_a_boundary_is_not_counted() -> None:
    reference = np.zeros((8, 8), np.uint8)
    reference[3:5] = IGNORE_INDEX
    reference[6:] = 1
    counts = counted(reference, reference, Disc(radius_m=20, row_m=10, col_m=10))
    scores = BoundaryScores.of(counts, tolerance_m=20)
    assert [c.iou for c in scores.classes] == [1.0, 1.0, None]
    assert scores.mean_iou == 1.0
    assert scores.classes[0].outline_px == 8  # not where nothing is known, not at the end


def test_a_radius_within_the_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="reaches no neighbour"):
        Disc(radius_m=9.9, row_m=5, col_m=10)
    with pytest.raises(ValueError, match="not greater than 0"):
        Disc(radius_m=9.9, row_m=5, col_m=float("nan"))
