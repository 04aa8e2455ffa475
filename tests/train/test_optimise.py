from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.config import Loss, Training
from geoseg.errors import UsageError
from geoseg.models.segmenter import Segmenter
from geoseg.train import train
from geoseg.train.distributed import Group
from geoseg.train.losses import loss_of
from geoseg.train.optimise import Learner, rate_factor


@pytest.mark.parametrize("final", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("warm_up", [0.0, 0.05, 0.4])
def test_the_learning_rate_rises_then_falls(warm_up: float, final: float) -> None:
    at = np.linspace(0, 1.2, 2401)
    rates = np.array([rate_factor(p, warm_up=warm_up, final_rate=final) for p in at])
    top = int(rates.argmax())
    assert rates[top] == pytest.approx(1.0)
    assert at[top] == pytest.approx(warm_up)
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 0).all()
    assert rates[-1] == pytest.approx(final)
    if warm_up:
        assert rates[0] == final


def learner(**training: object) -> Learner:
    """A network of one convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Segmenter(nn.Conv2d(2, 3, 3, padding=1), stride_px=1)
    made = Learner(model, Training(**training), torch.ones(3), Group(device=torch.device("cpu")))
    made.begin(bands=2)
    return made


def batch(seed: int, *, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 1, (size, 2, 8, 8)).astype(np.float32)
    return torch.from_numpy(pixels), torch.from_numpy(rng.integers(0, 3, (size, 8, 8)))


def weights(made: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


def steps(made: Learner, seeds, *, rate: float = 0.1) -> None:
    for at, seed in enumerate(seeds):
        made.step(iter([batch(seed)]), rate=rate, at=at)


def test_accumulated_batches_are_one_large_one() -> None:
    parts = [batch(1), batch(2), batch(3)]
    whole = tuple(torch.cat(both) for both in zip(*parts, strict=True))
    many, one = (learner(optimiser="sgd", accumulate=n) for n in (3, 1))
    for at in range(3):
        assert many.step(iter(parts), rate=0.1, at=at) == pytest.approx(
            one.step(iter([whole]), rate=0.1, at=at), rel=1e-5
        )
    torch.testing.assert_close(weights(many), weights(one))


def test_sgd_follows_the_gradient_with_momentum() -> None:
    made = learner(optimiser="sgd", momentum=0.9, weight_decay=0.0, clip_norm=None)
    at, speed = weights(made), 0.0
    for step in range(3):
        pixels, target = batch(step)
        loss = loss_of(made.model(pixels), target, Loss(), torch.ones(3))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.model.parameters()))])
        speed = 0.9 * speed + gradient
        at = at - 0.1 * speed
        made.step(iter([(pixels, target)]), rate=0.1, at=step)
        torch.testing.assert_close(weights(made), at)


def test_gradients_are_clipped_where_asked_for() -> None:
    plain = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    moved = {}
    for norm in (None, 0.01):
        made = learner(clip_norm=norm, **plain)
        before = weights(made)
        steps(made, [1], rate=1.0)
        moved[norm] = weights(made) - before
    assert moved[0.01].norm() == pytest.approx(0.01, rel=1e-4)
    assert moved[None].norm() > 0.1
    torch.testing.assert_close(moved[0.01] / 0.01, moved[None] / moved[None].norm(), rtol=1e-3, atol=1e-4)


def test_the_moving_average_is_what_is_scored() -> None:
    made = learner(ema=0.75)
    expected = None
    for at in range(4):
        made.step(iter([batch(at)]), rate=0.1, at=at)
        now = weights(made)
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    found = torch.cat([p.detach().flatten() for p in made.scored.parameters()])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, weights(made))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_about_the_same(precision: str) -> None:
    reduced, full = learner(precision=precision), learner(precision="auto")
    for made in (reduced, full):
        steps(made, range(3), rate=0.01)
    assert not torch.equal(weights(reduced), weights(full))
    torch.testing.assert_close(weights(reduced), weights(full), rtol=0.1, atol=0.02)
    assert bool(reduced.scale) == (precision == "float16")


@pytest.mark.parametrize(
    "training",
    [{}, {"optimiser": "sgd"}, {"ema": 0.9, "precision": "float16"}, {"precision": "bfloat16"}],
    ids=str,
)
def test_a_restored_learner_goes_on_as_the_first(training) -> None:
    first = learner(**training)
    with torch.random.fork_rng(devices=[]):
        steps(first, range(3))
        tensors, scale = first.tensors(), first.scale
        steps(first, range(3, 6))
        after = torch.rand(2)
        second = learner(**training)
        second.restore(tensors, scale)
        steps(second, range(3, 6))
        assert torch.equal(torch.rand(2), after)
    assert torch.equal(weights(first), weights(second))
    assert first.scale == second.scale
    for a, b in zip(first.scored.parameters(), second.scored.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("unmeasured")
def test_training_stops_when_it_no_longer_gets_better(config, tmp_path, monkeypatch) -> None:
    from geoseg.train import loop

    real, scores = loop._validate, [0.1, 0.4, 0.3, 0.4, 0.9]

    def scored(learner, run):
        return real(learner, run).model_copy(update={"mean_iou": scores.pop(0)})

    monkeypatch.setattr(loop, "_validate", scored)
    training = config.training.model_copy(update={"early_stop": 2, "epochs": 5, "steps_per_epoch": 1})
    result = train(config.model_copy(update={"training": training}), tmp_path / "model", data_root=tmp_path)
    assert [e.mean_iou for e in result.history] == [0.1, 0.4, 0.3, 0.4]
    assert result.epoch == 2
    alone = config.model_copy(update={"training": training, "validation": ()})
    with pytest.raises(UsageError, match=r"training\.early_stop.*no `validation`"):
        train(alone, tmp_path / "other", data_root=tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_events_say_how_long_it_takes(config, tmp_path) -> None:
    events = []
    train(config, tmp_path / "model", data_root=tmp_path, on_progress=events.append)
    steps = [e for e in events if e.stage == "step"]
    assert all(e.loss > 0 and e.learning_rate > 0 and e.seconds_left >= 0 for e in steps)
    assert steps[-1].seconds_left == 0
    assert [e.mean_iou is None for e in steps] == [True] * 3 + [False] * 3
