"""Processes that train together, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geoseg.config import TrainConfig
from geoseg.data import open_areas
from geoseg.errors import UsageError
from geoseg.models.segmenter import Segmenter
from geoseg.package import WEIGHTS_NAME, read_card
from geoseg.train import train
from geoseg.train.distributed import Group, joined
from geoseg.train.run import prepare

CPU = torch.device("cpu")

SCRIPT = """
import hashlib, json, os, shutil, sys
from pathlib import Path
from torch import nn
from geoseg.config import TrainConfig
from geoseg.models.segmenter import Segmenter
from geoseg.package import Context
from geoseg.train import loop
from geoseg.train.measure import Measured

# Batch statistics are those of a process's own windows: without them, two processes do what one does.
Segmenter.train = lambda self, mode=True: nn.Module.train(self, False)
loop.measure = lambda _model, _run: Measured(
    context=Context(radius_px=32, tolerance=0.01, change=0.0, searched_px=64),
    call_bytes_per_px=100,
    speed={"forward_mpx_per_s": 1.0},
)
folder = Path(sys.argv[1])
config = TrainConfig.model_validate_json((folder / "config.json").read_text())
seen = []
fitted = loop._fitted

def watched(model, run, kept):
    result = fitted(model, run, kept)
    told["learnt"].append(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
                          .hexdigest())
    return result

loop._fitted = watched
told = {"events": [], "learnt": [], "cards": []}

def watch(event):
    told["events"].append(event.stage)
    if event.step == 4 and event.stage == "step" and not (folder / "again.unfinished").exists():
        shutil.copytree(folder / "model.unfinished", folder / "again.unfinished")

for name in ("model", "again"):
    result = loop.train(config, folder / name, data_root=folder, on_progress=watch)
    told["cards"].append(result.card.weights_sha256)
(folder / f"told{os.environ['RANK']}.json").write_text(json.dumps(told))
"""


@pytest.fixture
def config(config) -> TrainConfig:
    """Plain descent: rounding is not blown up as AdamW does where gradients are next to nothing."""
    training = config.training.model_copy(
        update={"optimiser": "sgd", "learning_rate": 0.05, "accumulate": 2, "checkpoint_minutes": 0.0}
    )
    light = config.model.model_copy(update={"encoder": "mobilenet_v2"})
    return config.model_copy(update={"training": training, "model": light})


def test_two_processes_learn_what_one_learns(config, tmp_path, monkeypatch, unmeasured) -> None:
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run(
        [*torchrun, str(tmp_path / "script.py"), str(tmp_path)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    first, second = (json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in (0, 1))
    steps = ["step"] * 3 + ["epoch"]
    ends = ["measure", "saved"]
    assert first["events"] == ["survey", *steps, *steps, *ends, "survey", "resume", *steps, *ends]
    assert second["events"] == []
    assert first["learnt"] == second["learnt"]
    assert first["cards"] == second["cards"]
    assert first["cards"][0] == first["cards"][1], "going on from step 3 gave something else"

    monkeypatch.setattr(Segmenter, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
    train(config, tmp_path / "one", data_root=tmp_path)
    together, alone = load_file(tmp_path / "model" / WEIGHTS_NAME), load_file(tmp_path / "one" / WEIGHTS_NAME)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-5, msg=name)
    one, two = (read_card(tmp_path / name).provenance for name in ("one", "model"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["scores"]["pixels"] == two["scores"]["pixels"] > 0
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_a_batch_is_shared_out(config, tmp_path) -> None:
    areas = open_areas(config.scenes, config=config, data_root=tmp_path)

    def batches(group: Group) -> list[np.ndarray]:
        run = prepare(config, areas, (), group=group, on_progress=lambda _: None)
        return [run.batch(1, number)[0] for number in range(2)]

    whole = batches(Group(device=CPU))
    shares = [batches(Group(rank=rank, size=2, device=CPU)) for rank in (0, 1)]
    for number in range(2):
        assert (np.concatenate([share[number] for share in shares]) == whole[number]).all()
    assert not (shares[0][0] == shares[1][0]).all()


def test_windows_that_cannot_be_shared_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(
            UsageError, match=r"training\.batch_size\. Expected a multiple of the 3 processes; found 8"
        ),
        joined("cpu", batch_size=8),
    ):
        pass


def test_random_numbers_of_a_step_are_a_function_of_it() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank, step in ((0, 5), (1, 5), (0, 6), (0, 5)):
            torch.rand(3)
            Group(rank=rank, size=2, device=CPU).reseed(7, step)
            drawn.append(torch.rand(4).tolist())
        before = torch.get_rng_state()
        Group(device=CPU).reseed(7, 5)  # alone, nothing is seeded: dropout is drawn as it always was
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[3]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
