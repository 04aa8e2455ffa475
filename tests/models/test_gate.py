from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geoseg.models.gate import DecidingGate, Gate

BATCH = np.zeros((1, 1, 2, 2), np.float32)


class Counting:
    """Says how many calls were in it at once; each waits until `expected` are, or for a tenth of a second."""

    def __init__(self, expected=1):
        self.inside = self.most = 0
        self.expected = expected
        self.changed = threading.Condition()

    def __call__(self, batch):
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.expected, timeout=0.1)
        with self.changed:
            self.inside -= 1
        return batch

    def decide(self, batch, confidence, temperature=None):
        return self(batch)[:, 0].astype(np.uint8), None if confidence is None else batch


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_lets_as_many_through_as_it_has_predictors(calls):
    # One more is waited for than may come: who came too many would be seen.
    predictor = Counting(expected=calls + 1)
    gate = Gate([predictor] * calls)
    assert gate.calls == calls
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(gate, [BATCH + i for i in range(5)]))
    assert predictor.most == calls
    assert [r.max() for r in results] == [0, 1, 2, 3, 4]


def test_uses_all_predictors_in_turn():
    used = []
    gate = Gate([lambda batch, name=name: used.append(name) or batch for name in "ab"])
    for _ in range(4):
        gate(BATCH)
    assert used == ["a", "b", "a", "b"]


def test_a_predictor_that_fails_comes_back():
    def fail(batch):
        raise OSError("no")

    gate = Gate([fail])
    for _ in range(3):  # the second would wait for ever
        with pytest.raises(OSError, match="no"):
            gate(BATCH)


def test_decides_through_the_same_door():
    predictor = Counting(expected=2)
    gate = DecidingGate([predictor])
    with ThreadPoolExecutor(2) as pool:
        decided = pool.submit(gate.decide, BATCH + 3, "margin")
        logits = pool.submit(gate, BATCH)
        index, confidence = decided.result()
    assert predictor.most == 1
    assert index.tolist() == [[[3, 3], [3, 3]]]
    assert confidence.max() == 3
    assert np.array_equal(logits.result(), BATCH)
    assert gate.decide(BATCH, None)[1] is None


def test_only_a_deciding_gate_seems_to_decide():
    assert not hasattr(Gate([Counting()]), "decide")
    assert hasattr(DecidingGate([Counting()]), "decide")


def test_is_not_for_nobody():
    with pytest.raises(ValueError, match="nobody"):
        Gate([])
