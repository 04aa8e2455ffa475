from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.config import Loss
from geoseg.legend import IGNORE_INDEX
from geoseg.train.losses import class_weights, loss_of, near_border

TERMS = ("cross_entropy", "focal", "dice", "tversky", "lovasz")


def only(term: str, **settings_: object) -> Loss:
    return Loss(**({"cross_entropy": 0.0, term: 1.0} | settings_))


def example(seed: int, *, shape=(2, 5, 4), classes=4, absent=(), ignored=0.3):
    """Logits, target and class weights; some classes may be absent, a share of pixels is not known."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (shape[0], classes, *shape[1:])).astype(np.float32)
    present = [c for c in range(classes) if c not in absent]
    target = rng.choice(present, shape)
    target[rng.random(shape) < ignored] = IGNORE_INDEX
    return logits, target, rng.uniform(0.2, 3, classes).astype(np.float32)


def slow_border(target, reach):
    out = np.zeros(target.shape, bool)
    for n, row, col in np.ndindex(target.shape):
        if target[n, row, col] == IGNORE_INDEX:
            continue
        near = target[n, max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]
        out[n, row, col] = len(set(near[near != IGNORE_INDEX].tolist())) > 1
    return out


def slow(term, logits, target, weights, how):
    """The term as its paper has it, pixel by pixel, in float64."""
    logits, weights = logits.astype(np.float64), weights.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    known = [i for i in np.ndindex(target.shape) if target[i] != IGNORE_INDEX]
    if not known:
        return 0.0
    border = slow_border(target, how.boundary_px)
    classes = logits.shape[1]
    if term in {"cross_entropy", "focal"}:
        total = norm = 0.0
        for n, row, col in known:
            c = target[n, row, col]
            factor = 1 + how.boundary_weight * border[n, row, col]
            pixel = -math.log(p[n, c, row, col]) * weights[c]
            if term == "focal":
                pixel *= (1 - p[n, c, row, col]) ** how.gamma
            else:
                smooth = sum(-math.log(p[n, k, row, col]) * weights[k] for k in range(classes)) / classes
                pixel = (1 - how.label_smoothing) * pixel + how.label_smoothing * smooth
            total += factor * pixel
            norm += factor * weights[c]
        return total / norm
    alpha, beta = (how.alpha, how.beta) if term == "tversky" else (0.5, 0.5)
    found = []
    for c in sorted({int(target[i]) for i in known}):
        right = np.array([target[i] == c for i in known])
        guess = np.array([p[n, c, row, col] for n, row, col in known])
        if term == "lovasz":
            found.append(slow_lovasz(right, guess))
        else:
            hit, false, missed = guess[right].sum(), guess[~right].sum(), (1 - guess[right]).sum()
            found.append(1 - hit / (hit + alpha * false + beta * missed))
    return float(np.mean(found))


def slow_lovasz(right, guess):
    """Errors from large to small, each times what the Jaccard loss of all up to it adds."""
    errors = np.abs(right - guess)
    order = np.argsort(-errors, kind="stable")
    loss, before = 0.0, 0.0
    for count in range(1, len(order) + 1):
        wrong = np.zeros(len(right), bool)
        wrong[order[:count]] = True
        guessed = right ^ wrong
        jaccard = 1 - (right & guessed).sum() / max(1, (right | guessed).sum())
        loss += errors[order[count - 1]] * (jaccard - before)
        before = jaccard
    return loss


def fast(how, logits, target, weights):
    value = torch.from_numpy(logits).requires_grad_()
    loss = loss_of(value, torch.from_numpy(target).long(), how, torch.from_numpy(weights))
    loss.backward()
    return float(loss.detach()), value.grad.numpy()


CASES = [
    {},
    {"absent": (1,)},
    {"absent": (0, 2, 3)},
    {"ignored": 1.0},
    {"ignored": 0.0},
    {"shape": (1, 1, 1), "ignored": 0.0},
    {"ignored": 0.95},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("term", TERMS)
def test_terms_are_as_their_papers_have_them(term: str, case) -> None:
    logits, target, weights = example(3, **case)
    for how in (
        only(term),
        only(term, label_smoothing=0.2, gamma=0.5, alpha=0.3, beta=0.9, boundary_weight=2.5, boundary_px=1),
    ):
        found, gradient = fast(how, logits, target, weights)
        assert found == pytest.approx(slow(term, logits, target, weights, how), rel=2e-5, abs=2e-6)
        assert np.isfinite(gradient).all()
        unknown = np.broadcast_to((target == IGNORE_INDEX)[:, None], gradient.shape)
        assert (gradient[unknown] == 0).all(), "a pixel without a label was learnt from"


@given(seed=st.integers(0, 2**31), ignored=st.floats(0, 1), term=st.sampled_from(TERMS))
@settings(deadline=None, max_examples=25)
def test_terms_for_any_batch(seed: int, ignored: float, term: str) -> None:
    logits, target, weights = example(seed, shape=(2, 3, 4), classes=3, ignored=ignored)
    how = only(term, boundary_weight=1.0, boundary_px=2)
    found, gradient = fast(how, logits, target, weights)
    assert found == pytest.approx(slow(term, logits, target, weights, how), rel=2e-5, abs=2e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("term", TERMS)
def test_gradients_are_those_of_the_slow_version(term: str) -> None:
    """Central differences at some pixels."""
    logits, target, weights = example(11, shape=(1, 4, 4), absent=(2,), ignored=0.2)
    how = only(term, label_smoothing=0.1, alpha=0.3, beta=0.8, boundary_weight=1.0, boundary_px=1)
    _, gradient = fast(how, logits, target, weights)
    wide, step = logits.astype(np.float64), 1e-5
    for place in ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 1, 1), (0, 3, 3, 0)):
        up, down = wide.copy(), wide.copy()
        up[place] += step
        down[place] -= step
        slope = (slow(term, up, target, weights, how) - slow(term, down, target, weights, how)) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=5e-3, abs=1e-5)


def test_certain_networks_are_learnt_from_without_infinities() -> None:
    """Probabilities of exactly 0 and 1, right and wrong."""
    target = np.zeros((1, 2, 2), int)
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[0, 0] = [[200, -200], [200, -200]]
    for term in TERMS:
        for gamma in (0.0, 0.5, 2.0):
            found, gradient = fast(only(term, gamma=gamma), logits, target, np.ones(2, np.float32))
            assert math.isfinite(found)
            assert np.isfinite(gradient).all(), (term, gamma)


def test_terms_add_up() -> None:
    logits, target, weights = example(5)
    shares = dict(zip(TERMS, (1.0, 0.5, 2.0, 0.25, 3.0), strict=True))
    alone = {t: fast(only(t), logits, target, weights)[0] for t in TERMS}
    together, _ = fast(Loss(**shares), logits, target, weights)
    assert together == pytest.approx(sum(shares[t] * alone[t] for t in TERMS), rel=1e-5)


def test_the_default_is_plain_cross_entropy_to_the_bit() -> None:
    logits, target, weights = example(6, shape=(3, 16, 16))
    x, y, w = torch.from_numpy(logits), torch.from_numpy(target).long(), torch.from_numpy(weights)
    expected = torch.nn.functional.cross_entropy(x, y, weight=w, ignore_index=IGNORE_INDEX)
    assert loss_of(x, y, Loss(), w) == expected


def test_borders_are_between_known_classes_only() -> None:
    target = np.full((1, 7, 9), 1)
    target[0, :, 6:] = 0
    target[0, 0] = IGNORE_INDEX
    target[0, :, 0] = IGNORE_INDEX
    near = near_border(torch.from_numpy(target), 2).numpy()
    assert (near == slow_border(target, 2)).all()
    assert near[0, 3].tolist() == [False] * 4 + [True] * 4 + [False]
    assert not near[0, 0].any()


@pytest.mark.parametrize("kind", ["inverse_sqrt", "inverse", "effective"])
def test_class_weights_average_one_over_the_labels(kind: str) -> None:
    counts = np.array([1_000_000, 10_000, 0, 100])
    weights = class_weights(counts, kind).numpy().astype(np.float64)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-6)
    n, beta = counts.sum(), 1 - 1 / counts.sum()
    size = {
        "inverse_sqrt": lambda c: math.sqrt(c / n),
        "inverse": lambda c: c / n,
        "effective": lambda c: (1 - beta**c) / (1 - beta),
    }[kind]
    assert weights[1] / weights[0] == pytest.approx(size(counts[0]) / size(counts[1]), rel=1e-4)
    assert weights[2] == 0


def test_class_weights_of_odd_surveys() -> None:
    assert class_weights(np.array([5, 0, 9]), "none").tolist() == [1, 1, 1]
    for kind in ("inverse_sqrt", "inverse", "effective"):
        assert class_weights(np.array([0, 1]), kind).tolist() == [0, pytest.approx(1)]
