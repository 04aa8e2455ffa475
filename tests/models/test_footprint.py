"""Memory of a network call: of calls that are written so that it is known, and as the system sees it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from geoseg.models import footprint
from geoseg.models.footprint import call_bytes_per_px

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not tell how much memory is resident"
)

_KEPT = 1.2
"""What a heap is said to keep beyond what is in use at once."""


def takes(*blocks: int):
    """A network whose call takes so many bytes per pixel, one block after the other, for a moment each."""

    def predict(images: np.ndarray) -> np.ndarray:
        for block in blocks:
            held = np.ones((block, images[0, 0].size), np.uint8)
            time.sleep(0.02)
            del held
        return images[:, :2]

    return predict


@pytest.mark.parametrize("per_px", [150, 600])
def test_what_is_held_is_counted(per_px: int) -> None:
    found = call_bytes_per_px(takes(per_px), bands=3, stride_px=32)
    assert found is not None
    assert found == pytest.approx(_KEPT * per_px, rel=0.15)
    assert found % 10 == 0


def test_what_is_given_back_is_counted_once() -> None:
    found = call_bytes_per_px(takes(200, 300, 100), bands=3, stride_px=32)
    assert found == pytest.approx(_KEPT * 300, rel=0.15)


def test_a_heap_full_of_gaps_hides_nothing() -> None:
    blocks = [np.ones(n * 4096, np.uint8) for n in range(1, 400)]
    del blocks[::2]
    assert call_bytes_per_px(takes(400), bands=3, stride_px=32) == pytest.approx(_KEPT * 400, rel=0.15)
    del blocks


def test_a_call_that_takes_nothing() -> None:
    found = call_bytes_per_px(lambda images: images, bands=3, stride_px=96)
    assert found is not None
    assert 10 <= found <= 50


def test_an_error_of_the_network_arrives() -> None:
    def fails(images: np.ndarray) -> np.ndarray:
        if images.shape[2] > 32:
            raise RuntimeError("out of order")
        return images

    with pytest.raises(RuntimeError, match="out of order"):
        call_bytes_per_px(fails, bands=3, stride_px=32)


def test_where_the_system_does_not_tell_nothing_is_claimed(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(footprint, "_STATM", tmp_path / "statm")
    assert call_bytes_per_px(takes(100), bands=3, stride_px=32) is None


_INDEPENDENT = """
import torch
from geoseg.models.footprint import call_bytes_per_px
from geoseg.models.registry import build
from geoseg.package import Architecture

torch.set_num_threads(1)
architecture = Architecture(
    name="unet", encoder="resnet18", options={"encoder_depth": 3, "decoder_channels": [32, 16, 16]}
)
model = build(architecture, bands=3, classes=4).eval().to(memory_format=torch.channels_last)

def predict(images):
    with torch.inference_mode():
        return model(torch.from_numpy(images).to(memory_format=torch.channels_last)).numpy()

def peak():  # not ru_maxrss, which is inherited from whoever started the process
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

predict(torch.zeros(1, 3, 32, 32).numpy())
patch = torch.zeros(1, 3, 1024, 1024).numpy()
before = peak()
for _ in range(2):
    predict(patch)
print((peak() - before) / 1024**2)
print(call_bytes_per_px(predict, bands=3, stride_px=32))
"""


@pytest.mark.slow  # a measurement: what else the machine does shows in it
def test_it_agrees_with_what_the_system_says_of_calls_one_after_the_other() -> None:
    command = [sys.executable, "-c", _INDEPENDENT]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, measured = (float(line) for line in result.stdout.splitlines())
    assert measured == pytest.approx(resident, rel=0.2)
