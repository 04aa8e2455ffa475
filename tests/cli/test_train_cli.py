"""What `geoseg train` shows while it works."""

from __future__ import annotations

from geoseg.cli.console import Console
from geoseg.cli.train import Shown, _duration
from geoseg.train.record import TrainEvent


def event(stage: str, step: int = 0, **facts: float) -> TrainEvent:
    return TrainEvent(stage=stage, epoch=1, step=step, steps=200, seconds=9.4, **facts)


def test_every_twentieth_part_and_every_stage_has_its_line(capsys) -> None:
    shown = Shown(Console(as_json=False, verbosity=0), lambda *_: None)
    shown.show(event("survey"))
    shown.show(event("resume", 40))
    for step in range(41, 61):
        shown.show(event("step", step, loss=0.51234, mean_iou=0.4, seconds_left=61.4))
    shown.show(event("epoch", 60, loss=0.5, mean_iou=0.44))
    shown.show(event("measure", 60))
    assert capsys.readouterr().err.splitlines() == [
        "training: reading scenes",
        "going on after step 40 of 200, in epoch 1",
        "training: step 41/200, loss 0.512, mean IoU 0.400, 1 min 01 s left",
        "training: step 50/200, loss 0.512, mean IoU 0.400, 1 min 01 s left",
        "training: step 60/200, loss 0.512, mean IoU 0.400, 1 min 01 s left",
        "epoch 1: loss 0.5000, validation mean IoU 0.440 (9 s)",
        "training: measuring the finished network",
    ]


def test_a_terminal_has_a_bar_that_says_how_it_stands(monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    told = []
    shown = Shown(Console(as_json=False, verbosity=0), lambda *facts: told.append(facts))
    shown.show(event("step", 3, loss=0.5, seconds_left=4.0))
    shown.show(event("measure", 200, mean_iou=0.7))
    assert told == [("loss 0.500", 3, 200), ("measuring the finished network", 200, 200)]


def test_quiet_is_quiet(capsys) -> None:
    shown = Shown(Console(as_json=False, verbosity=-1), lambda *_: None)
    for stage in ("survey", "resume", "step", "epoch", "measure", "saved"):
        shown.show(event(stage, 1, loss=0.1, mean_iou=0.2, seconds_left=3.0))
    assert capsys.readouterr().err == ""


def test_durations() -> None:
    assert [_duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 86_399)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "59 min 59 s",
        "1 h 00 min",
        "23 h 59 min",
    ]
