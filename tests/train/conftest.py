from __future__ import annotations

import numpy as np
import pytest

from geoseg.config import Inference, LabelSource, ModelChoice, SceneLabels, TrainConfig, Training
from geoseg.package import Context
from geoseg.train.measure import Measured

SMALL = ModelChoice(
    architecture="unet", encoder="resnet18", options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
)
QUICK = Training(
    patch_px=32, batch_size=4, epochs=2, steps_per_epoch=3, threads=1, workers=1, device="cpu", seed=7
)


@pytest.fixture
def write_scene(make_raster):
    """A scene of 96 x 120 px whose first band gives the class away, and its labels."""

    def write(seed: int, *, shift: float = 0.0) -> SceneLabels:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 3, (6, 8))
        index = np.kron(coarse, np.ones((16, 15), int))
        means = np.array([[200, 900, 500], [1000, 300, 2000]])[:, index]
        values = (means + rng.normal(0, 60, means.shape) + shift).astype(np.uint16)
        image = make_raster(values, name=f"scene{seed}.tif", descriptions=("red", "nir"))
        labels = make_raster(np.array([0, 7, 3], np.uint8)[index], name=f"labels{seed}.tif")
        return SceneLabels(image=image.name, labels=LabelSource(path=labels.name))

    return write


@pytest.fixture
def config(write_scene, legend) -> TrainConfig:
    return TrainConfig(
        licence="CC0-1.0",
        legend=legend,
        bands=("nir", "red"),
        scenes=(write_scene(1),),
        validation=(write_scene(2),),
        model=SMALL,
        training=QUICK,
        inference=Inference(patch_px=64, overlap_px=32),
    )


@pytest.fixture
def unmeasured(monkeypatch):
    """Training that ends without measuring the network, for tests of what comes before."""
    measured = Measured(
        context=Context(radius_px=32, tolerance=0.01, change=0.0, searched_px=64),
        call_bytes_per_px=100,
        speed={"forward_mpx_per_s": 1.0},
    )
    monkeypatch.setattr("geoseg.train.loop.measure", lambda _model, _run: measured)
