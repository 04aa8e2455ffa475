from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.legend import IGNORE_INDEX
from geoseg.metrics import Scores, confusion

CLASSES = 4
index = st.sampled_from([*range(CLASSES), IGNORE_INDEX])
pairs = hnp.arrays(np.uint8, st.tuples(st.just(2), st.integers(0, 7), st.integers(0, 7)), elements=index)


@settings(deadline=None, max_examples=100)
@given(pairs)
def test_matrix_and_scores_against_counting_sets(pair) -> None:
    reference, predicted = pair
    known = {p for p in np.ndindex(reference.shape) if reference[p] != IGNORE_INDEX}
    matrix = confusion(reference, predicted, CLASSES)
    scores = Scores.of(matrix)
    assert matrix.shape == (CLASSES, CLASSES + 1)
    assert matrix.dtype == np.int64
    assert scores.pixels == len(known)
    assert scores.unpredicted_px == sum(predicted[p] == IGNORE_INDEX for p in known)
    right = sum(reference[p] == predicted[p] for p in known)
    assert scores.overall_accuracy == (pytest.approx(right / len(known)) if known else None)
    ious, weighted = [], 0.0
    for c in range(CLASSES):
        truth = {p for p in known if reference[p] == c}
        claim = {p for p in known if predicted[p] == c}
        found = scores.classes[c]
        assert (found.reference_px, found.predicted_px) == (len(truth), len(claim))
        assert found.users_accuracy == (pytest.approx(len(truth & claim) / len(claim)) if claim else None)
        assert found.producers_accuracy == (pytest.approx(len(truth & claim) / len(truth)) if truth else None)
        if not truth:
            assert found.iou is found.f1 is None
            continue
        ious.append(len(truth & claim) / len(truth | claim))
        weighted += ious[-1] * len(truth)
        assert found.iou == pytest.approx(ious[-1])
        assert found.f1 == pytest.approx(2 * len(truth & claim) / (len(truth) + len(claim)))
    assert scores.mean_iou == (pytest.approx(sum(ious) / len(ious)) if ious else None)
    assert scores.frequency_weighted_iou == (pytest.approx(weighted / len(known)) if known else None)


@settings(deadline=None, max_examples=50)
@given(pairs, st.integers(0, 7), st.integers(0, 7))
def test_matrices_of_parts_add_up(pair, row: int, col: int) -> None:
    parts = [
        confusion(*pair[:, rows, cols], CLASSES)
        for rows in (slice(row), slice(row, None))
        for cols in (slice(col), slice(col, None))
    ]
    assert (sum(parts) == confusion(*pair, CLASSES)).all()


def test_an_absent_class_is_not_counted_as_zero() -> None:
    """The macro scores of segmentation-models-pytorch count it as 0 and so punish a perfect map."""
    reference = np.array([[0, 0, 2], [2, 2, 0]], np.uint8)
    scores = Scores.of(confusion(reference, reference, CLASSES))
    assert scores.mean_iou == scores.mean_f1 == scores.frequency_weighted_iou == 1.0
    assert [c.iou for c in scores.classes] == [1.0, None, 1.0, None]


def test_predicting_an_absent_class_costs_the_class_that_was_meant() -> None:
    reference, predicted = np.array([0, 0, 0, 0], np.uint8), np.array([0, 0, 0, 1], np.uint8)
    scores = Scores.of(confusion(reference, predicted, 2))
    assert scores.classes[1].iou is None
    assert scores.classes[1].users_accuracy == 0.0
    assert scores.mean_iou == 0.75


def test_what_was_not_predicted_is_wrong_not_forgotten() -> None:
    reference, predicted = np.array([1, 1, 255], np.uint8), np.array([1, 255, 255], np.uint8)
    scores = Scores.of(confusion(reference, predicted, 2))
    assert (scores.pixels, scores.unpredicted_px, scores.overall_accuracy) == (2, 1, 0.5)
    assert scores.classes[1].iou == 0.5


def test_large_counts_do_not_overflow() -> None:
    matrix = np.array([[2**40, 0, 0], [0, 2**40, 2**41]], np.int64)
    scores = Scores.of(matrix)
    assert scores.pixels == 2**42
    assert scores.overall_accuracy == 0.5


@pytest.mark.parametrize("which", [0, 1])
def test_indices_that_are_no_class_are_refused(which: int) -> None:
    pair = np.zeros((2, 3), np.uint8)
    pair[which, 1] = 2
    with pytest.raises(ValueError, match="class index 2 where there are 2 classes"):
        confusion(pair[0], pair[1], 2)


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(np.zeros((1, 4), np.uint8), np.zeros((4, 1), np.uint8), 2)
