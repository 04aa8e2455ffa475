"""A run that was stopped anywhere, and goes on, ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geoseg.config import Loss, TrainConfig
from geoseg.errors import OutputError
from geoseg.models.store import load_package
from geoseg.package import CARD_NAME, HISTORY_NAME, WEIGHTS_NAME
from geoseg.train import TrainEvent, train

pytestmark = pytest.mark.usefixtures("unmeasured")
TIMINGS = ("created", "seconds", "forward_mpx_per_s")


@pytest.fixture
def config(config) -> TrainConfig:
    """With a network whose state is written in no time."""
    light = config.model.model_copy(update={"encoder": "mobilenet_v2"})
    return config.model_copy(update={"model": light})


class StopError(Exception):
    """Somebody pulled the plug."""


def changed(config: TrainConfig, **training: object) -> TrainConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def content(package: Path) -> tuple[bytes, dict, list[str]]:
    """Weights, card without timings, history without timings."""
    card = json.loads((package / CARD_NAME).read_text())
    for name in TIMINGS:
        card["provenance"].pop(name)
    for epoch in card["provenance"]["history"]:
        del epoch["seconds"], epoch["waited_s"]
    header, *lines = (line.split(",") for line in (package / HISTORY_NAME).read_text().splitlines())
    told = [i for i, name in enumerate(header) if name not in {"seconds", "waited_s"}]
    return (package / WEIGHTS_NAME).read_bytes(), card, [",".join(line[i] for i in told) for line in lines]


def stopping_at(step: int, stage: str):
    def watch(event: TrainEvent) -> None:
        if (event.step, event.stage) == (step, stage):
            raise StopError

    return watch


HARD = {
    "plain": {},
    "everything": {
        "optimiser": "sgd",
        "accumulate": 2,
        "ema": 0.7,
        "precision": "bfloat16",
        "loss": Loss(dice=1.0, lovasz=0.5, label_smoothing=0.1),
        "class_weights": "inverse",
    },
}


@pytest.mark.parametrize("kind", HARD)
def test_stopped_anywhere_it_ends_the_same(config, tmp_path, kind) -> None:
    config = changed(config, checkpoint_minutes=0.0, **HARD[kind])
    train(config, tmp_path / "whole", data_root=tmp_path)
    out, seen = tmp_path / "model", []
    # Before any checkpoint, in the middle of each epoch, at its last step, after its scores, and at the end.
    for step, stage in ((1, "step"), (2, "step"), (3, "step"), (3, "epoch"), (5, "step"), (6, "measure")):
        with pytest.raises(StopError):
            train(config, out, data_root=tmp_path, on_progress=stopping_at(step, stage))
    assert not out.exists()
    torch.rand(5)  # the caller's random numbers do not matter
    train(changed(config, workers=0), out, data_root=tmp_path, on_progress=seen.append)
    assert [e.stage for e in seen] == ["survey", "resume", "measure", "saved"]
    assert content(out)[0] == content(tmp_path / "whole")[0]
    assert content(out)[2] == content(tmp_path / "whole")[2]
    assert not list(tmp_path.glob("*unfinished*"))


def test_dropout_goes_on_where_it_was(config, tmp_path) -> None:
    """DeepLab draws random numbers in every step."""
    deep = config.model.model_copy(
        update={"architecture": "deeplabv3plus", "options": {"decoder_channels": 16}}
    )
    config = changed(config.model_copy(update={"model": deep}), checkpoint_minutes=0.0, epochs=1)
    whole = train(config, tmp_path / "whole", data_root=tmp_path)
    with pytest.raises(StopError):
        train(config, tmp_path / "model", data_root=tmp_path, on_progress=stopping_at(3, "step"))
    resumed = train(config, tmp_path / "model", data_root=tmp_path)
    assert resumed.card.weights_sha256 == whole.card.weights_sha256


SCRIPT = """
import sys, time
from pathlib import Path
from geoseg.config import TrainConfig
from geoseg.package import Context
from geoseg.train import loop
from geoseg.train.measure import Measured

loop.measure = lambda _model, _run: Measured(
    context=Context(radius_px=32, tolerance=0.01, change=0.0, searched_px=64),
    call_bytes_per_px=100,
    speed={"forward_mpx_per_s": 1.0},
)
config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())

def watch(event):
    print(event.stage, event.step, flush=True)
    if [str(event.step)] == sys.argv[3:]:
        time.sleep(600)  # whoever kills us may be slow

loop.train(config, Path(sys.argv[2]), data_root=Path(sys.argv[1]).parent, on_progress=watch)
"""


def test_killed_without_warning_it_goes_on(config, tmp_path) -> None:
    """A process of its own, killed in the middle of an epoch, most likely while it writes its state."""
    config = changed(config, checkpoint_minutes=0.0, epochs=2, steps_per_epoch=10)
    path, out = tmp_path / "config.json", tmp_path / "model"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "17"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.split() == ["step", "14"]:
                time.sleep(0.02)
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    state = json.loads((tmp_path / "model.unfinished" / "state.json").read_text())
    assert 13 <= state["step"] < 17
    assert len(state["history"]) == 1

    second = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    lines = second.stdout.splitlines()
    assert lines[:3] == ["survey 0", f"resume {state['step']}", f"step {state['step'] + 1}"]
    train(config, tmp_path / "whole", data_root=tmp_path)
    assert content(out) == content(tmp_path / "whole")
    assert not list(tmp_path.glob("*unfinished*"))
    load_package(out)


def test_only_what_was_started_is_continued(config, tmp_path) -> None:
    config = changed(config, checkpoint_minutes=0.0)
    out, folder = tmp_path / "model", tmp_path / "model.unfinished"
    with pytest.raises(StopError):
        train(config, out, data_root=tmp_path, on_progress=stopping_at(5, "step"))
    other = changed(config, learning_rate=2e-3)
    with pytest.raises(
        OutputError,
        match=r"unfinished run of something else.*learning_rate 0\.001, now 0\.002\. Start over with --fresh",
    ):
        train(other, out, data_root=tmp_path)

    labels = tmp_path / config.scenes[0].labels.path
    before = labels.read_bytes()
    labels.write_bytes((tmp_path / config.validation[0].labels.path).read_bytes())
    with pytest.raises(OutputError, match=r"something else.*found labels|something else.*; found labels"):
        train(config, out, data_root=tmp_path)
    labels.write_bytes(before)

    fresh, seen = train(other, tmp_path / "apart", data_root=tmp_path), []
    again = train(other, out, data_root=tmp_path, fresh=True, on_progress=seen.append)
    assert "resume" not in {e.stage for e in seen}
    assert again.card.weights_sha256 == fresh.card.weights_sha256
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "state"])
def test_a_damaged_state_is_refused(config, tmp_path, damage) -> None:
    config = changed(config, checkpoint_minutes=0.0)
    with pytest.raises(StopError):
        train(config, tmp_path / "model", data_root=tmp_path, on_progress=stopping_at(3, "step"))
    folder = tmp_path / "model.unfinished"
    (tensors,) = folder.glob("tensors-*")
    assert load_file(tensors)
    if damage == "gone":
        tensors.unlink()
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    else:
        (folder / "state.json").write_text("{}")
    with pytest.raises(OutputError, match=r"unfinished run cannot be read.*--fresh"):
        train(config, tmp_path / "model", data_root=tmp_path)
    train(config, tmp_path / "model", data_root=tmp_path, fresh=True)


def test_two_at_once_are_refused(config, tmp_path) -> None:
    def inside(event: TrainEvent) -> None:
        if event.stage == "step":
            with pytest.raises(OutputError, match="another process is training this model"):
                train(config, tmp_path / "model", data_root=tmp_path)

    train(config, tmp_path / "model", data_root=tmp_path, on_progress=inside)


def test_nothing_is_kept_where_nothing_was_asked_for(config, tmp_path) -> None:
    for minutes in (None, 5.0):
        with pytest.raises(StopError):
            train(
                changed(config, checkpoint_minutes=minutes),
                tmp_path / "model",
                data_root=tmp_path,
                on_progress=stopping_at(5, "step"),
            )
        assert not list(tmp_path.glob("*unfinished*"))
