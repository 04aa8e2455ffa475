from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from geoseg.accuracy.calibration import (
    HIGHEST,
    LEVELS,
    LOWEST,
    Reliability,
    fit_temperature,
    log_loss,
    reliability_of_logits,
    tally_confidence,
)


def drawn(temperature: float, *, pixels: int = 20_000, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and targets that follow their softmax at a temperature."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (pixels, classes)).astype(np.float32)
    shares = softmax(logits.astype(np.float64) / temperature, axis=1).cumsum(axis=1)
    targets = (rng.random((pixels, 1)) > shares).sum(axis=1).clip(max=classes - 1)
    return logits, targets


def test_reliability_against_a_hand_table() -> None:
    """Ten pixels at 95 %, nine right; ten at 60 % (the group to 60), three right; two at 0 %, both wrong."""
    percent = np.array([95] * 10 + [60] * 10 + [0] * 2, np.uint8)
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7 + [False] * 2)
    found = Reliability.of(tally_confidence(percent, right))
    assert found is not None
    assert (found.pixels, found.accuracy) == (22, pytest.approx(12 / 22))
    assert found.mean_confidence == pytest.approx((9.5 + 6) / 22)
    assert found.expected_error == pytest.approx((10 * 0.05 + 10 * 0.3) / 22)
    assert found.largest_error == pytest.approx(0.3)
    by_range = {(g.from_percent, g.to_percent): g for g in found.groups}
    assert by_range[51, 60].accuracy == pytest.approx(0.3)
    assert by_range[0, 10].pixels == 2
    assert by_range[61, 70].accuracy is by_range[61, 70].confidence is None
    assert [g.to_percent + 1 for g in found.groups[:-1]] == [g.from_percent for g in found.groups[1:]]


def test_tallies_of_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    percent, right = rng.integers(0, LEVELS, 500).astype(np.uint8), rng.random(500) < 0.4
    whole = tally_confidence(percent, right)
    assert (
        tally_confidence(percent[:99], right[:99]) + tally_confidence(percent[99:], right[99:]) == whole
    ).all()
    assert whole.sum() == 500
    assert whole[1, 42] == ((percent == 42) & right).sum()
    assert Reliability.of(np.zeros_like(whole)) is None


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_behind_the_targets_is_found(temperature: float) -> None:
    logits, targets = drawn(temperature)
    found = fit_temperature(logits, targets)
    assert found == pytest.approx(temperature, rel=0.03)
    tried = [log_loss(logits, targets, found * factor) for factor in (0.97, 0.999, 1.001, 1.03)]
    assert log_loss(logits, targets, found) < min(tried)
    before, after = (reliability_of_logits(logits, targets, t) for t in (1.0, found))
    assert after.expected_error < 0.015
    assert after.accuracy == before.accuracy
    if temperature != 1:
        assert after.expected_error < before.expected_error / 3


def test_the_likelihood_is_that_of_a_softmax() -> None:
    logits, targets = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0])
    expected = -(np.log(1 / (1 + np.exp(-1))) + np.log(1 / (1 + np.exp(0.5)))) / 2
    assert log_loss(logits, targets, 2.0) == pytest.approx(expected)


def test_a_network_that_is_always_right_and_one_that_is_never() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == LOWEST
    assert fit_temperature(logits, np.array([1, 0])) == HIGHEST
    with pytest.raises(ValueError, match="not none"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, int))


def test_large_logits_do_not_overflow() -> None:
    logits, targets = drawn(1.0, pixels=3000)
    assert fit_temperature(logits * 1000, targets) == HIGHEST
    assert fit_temperature(logits + 1e5, targets) == pytest.approx(fit_temperature(logits, targets), rel=0.05)
