from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Self

import pytest

from geoseg.errors import UsageError
from geoseg.train.board import tensorboard
from geoseg.train.record import TrainEvent


def event(stage: str, step: int, **facts: float) -> TrainEvent:
    return TrainEvent(stage=stage, epoch=1, step=step, steps=10, seconds=1.0, **facts)


class Writer:
    """What torch's SummaryWriter is to us."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.written: list[tuple[str, float, int]] = []

    def __enter__(self) -> Self:
        made.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.written.append(("closed", 0, 0))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.written.append((name, value, step))


made: list[Writer] = []


def test_loss_rate_and_scores_are_written(tmp_path, monkeypatch) -> None:
    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with tensorboard(tmp_path / "board") as watch:
        watch(event("survey", 0))
        watch(event("step", 1, loss=0.5, learning_rate=0.1, mean_iou=0.3))
        watch(event("epoch", 1, loss=0.4))
        watch(event("epoch", 2, loss=0.3, mean_iou=0.7))
    assert made[-1].folder == str(tmp_path / "board")
    assert made[-1].written == [
        ("step/loss", 0.5, 1),
        ("step/learning_rate", 0.1, 1),
        ("epoch/loss", 0.4, 1),
        ("epoch/loss", 0.3, 2),
        ("epoch/mean_iou", 0.7, 2),
        ("closed", 0, 0),
    ]


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="TensorBoard is installed")
def test_without_tensorboard_it_is_said_so(tmp_path) -> None:
    with pytest.raises(UsageError, match="pip install tensorboard"), tensorboard(tmp_path):
        pass
