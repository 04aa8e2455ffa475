from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

import geoseg.accuracy.temperature as module
from geoseg.accuracy.calibration import fit_temperature
from geoseg.accuracy.temperature import LabelledScene, measure_temperature, store_temperature
from geoseg.errors import LabelError, MismatchError, PackageError
from geoseg.inference import Member, Request, normalise, segment_tile
from geoseg.jobs import predict
from geoseg.legend import IGNORE_INDEX
from geoseg.models.cuda import CudaPredictor
from geoseg.models.runtime import load_predictor
from geoseg.package import Band, Card, read_card
from geoseg.prediction import PredictOptions, prepare
from geoseg.raster.read import read_window
from geoseg.raster.scene import open_scene
from geoseg.stitch import CONFIDENCES, certainty, decide, percent, tempered
from geoseg.tiling import Lattice, TilePlan
from geoseg.windows import Window

CLASSES = 4


def logits_of(seed: int, shape=(6, 7), *, size: float = 4.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (CLASSES, *shape)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.floats(0.1, 10), st.sampled_from(CONFIDENCES))
def test_classes_stay_and_confidence_is_that_of_divided_logits(seed, temperature, kind) -> None:
    logits = logits_of(seed)
    plain = decide(logits, confidence=kind)
    found = decide(logits, confidence=kind, temperature=temperature)
    assert (found.index == plain.index).all()
    shares = softmax(logits.astype(np.float64) / temperature, axis=0).astype(np.float32)
    wanted = percent(certainty(shares, kind)).astype(int)
    assert np.abs(found.confidence.astype(int) - wanted).max() <= 1
    again = tempered(softmax(logits, axis=0), temperature)
    assert np.abs(again - shares).max() < 1e-4
    assert np.array_equal(decide(logits, confidence=kind, temperature=1.0).confidence, plain.confidence)


class OnDevice:
    """The decisions of a predictor that decides where its logits are."""

    def __init__(self, network) -> None:
        self._predictor = CudaPredictor(network, bands=CLASSES, device="cpu")

    def __call__(self, batch):
        raise AssertionError("scores must stay on the device")

    def decide(self, batch, confidence, temperature=None):
        return self._predictor.decide(batch, confidence, temperature)


def segmented(predictors, pixels, request: Request):
    bands = tuple(Band(name=str(i), mean=0, std=1) for i in range(CLASSES))
    members = [Member(predictor=p, bands=bands, where=tuple(range(CLASSES))) for p in predictors]
    valid = np.ones(pixels.shape[1:], bool)
    lattice = Lattice.of(valid.shape, patch_px=16, overlap_px=8, stride_px=4)
    (tile,) = TilePlan(lattice=lattice, tile_px=64, blend=request.blend)
    return segment_tile(pixels, valid, tile, members, request, origin=Window(0, 0, *valid.shape))


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("views", ["one", "flips"])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_a_tile_keeps_its_classes_in_every_way_to_stitch(blend, views, temperature) -> None:
    """Scores depend on the patch, so that views and overlaps differ."""

    def network(batch):
        return batch + np.linspace(0, 3, batch.shape[-1], dtype=np.float32)[None, None, :] * batch[:, ::-1]

    pixels = logits_of(1, (30, 26), size=1.5)
    request = Request(classes=CLASSES, blend=blend, views=views, probabilities=True)
    plain, found = (
        segmented([network], pixels, r) for r in (request, replace(request, temperature=temperature))
    )
    assert np.array_equal(found.index, plain.index)
    assert not np.array_equal(found.confidence, plain.confidence)
    shares = plain.probabilities / plain.probabilities.sum(axis=0, dtype=np.float32)
    wanted = tempered(np.maximum(shares, 1e-4).astype(np.float32), temperature)
    sure = shares.min(axis=0) > 0.05  # stored in steps of 1/250: smaller ones are too coarse to compare
    assert sure.sum() > 30
    assert np.abs(found.probabilities / 250 - wanted)[:, sure].max() < 0.03
    assert np.abs(found.confidence / 100 - wanted.max(axis=0))[sure].max() < 0.03
    alone = segmented([network], pixels, replace(request, temperature=temperature, probabilities=False))
    assert np.array_equal(alone.confidence, found.confidence)


def test_a_device_decides_as_the_host_does() -> None:
    import torch

    pixels = logits_of(2, (20, 24))
    request = Request(classes=CLASSES, temperature=1.7)
    host = segmented([lambda batch: batch], pixels, request)
    device = segmented([OnDevice(torch.nn.Identity())], pixels, request)
    assert np.array_equal(host.index, device.index)
    assert np.abs(host.confidence.astype(int) - device.confidence).max() <= 1
    plain = segmented([OnDevice(torch.nn.Identity())], pixels, replace(request, temperature=None))
    assert not np.array_equal(device.confidence, plain.confidence)


def test_a_card_without_a_temperature_is_written_as_before(package) -> None:
    card = read_card(package)
    assert card.temperature is None
    assert "temperature" not in (package / "model.json").read_text()
    warm = card.model_copy(update={"temperature": 1.5})
    assert warm.fingerprint != card.fingerprint
    assert Card.from_json(warm.to_json(), source="card") == warm
    with pytest.raises(PackageError, match="greater than 0"):
        Card.from_json(warm.to_json().replace("1.5", "0"), source="card")


@pytest.fixture
def copy_of_package(package, tmp_path):
    return shutil.copytree(package, tmp_path / "model")


def labelled(scene, window: Window, *, seed: int = 0) -> LabelledScene:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, IGNORE_INDEX], scene.window.shape, p=[0.3, 0.3, 0.2, 0.2]).astype(np.uint8)
    return LabelledScene(scene=scene, labels=lambda w: truth[w.slices()], window=window)


def test_measured_on_the_logits_that_decide(package, make_scene, monkeypatch) -> None:
    """One patch is the whole scene: its logits at labelled pixels with data."""
    scene = open_scene(make_scene((40, 50)))
    card, predictor = load_predictor(package)
    place = labelled(scene, scene.window)
    found = measure_temperature(card, predictor, [place])
    pixels = read_window(scene, scene.window)
    padded = np.zeros((1, 3, 64, 64), np.float32)
    padded[0, :, :40, :50] = normalise(pixels.values, pixels.valid, card.bands)
    logits = predictor(padded)[0][:, :40, :50]
    truth = place.labels(scene.window)
    known = pixels.valid & (truth != IGNORE_INDEX)
    assert found.pixels == known.sum() < (truth != IGNORE_INDEX).sum()
    assert found.temperature == pytest.approx(fit_temperature(logits[:, known].T, truth[known]), rel=1e-4)
    assert found.log_loss_after < found.log_loss_before
    assert found.calibration_error_after < found.calibration_error_before
    monkeypatch.setattr(module, "SAMPLED_PX", 400)
    fewer = measure_temperature(card, predictor, [place])
    every = int((truth != IGNORE_INDEX).sum()) // 400
    some = logits[:, known].T[::every], truth[known][::every]
    assert fewer.pixels == len(some[1]) < found.pixels / 2
    assert fewer.temperature == pytest.approx(fit_temperature(*some), rel=1e-4)


def test_a_window_of_many_patches_counts_each_pixel_once(package, make_scene) -> None:
    scene = open_scene(make_scene((300, 200), hole=False))
    card, predictor = load_predictor(package)
    window, told = Window(40, 30, 200, 150), []
    place = labelled(scene, window)
    found = measure_temperature(card, predictor, [place], on_progress=lambda *e: told.append(e))
    assert found.pixels == (place.labels(window) != IGNORE_INDEX).sum()
    assert told[-1][0] == told[-1][1] > 5


def test_nothing_to_measure_on_and_the_wrong_scene(package, make_scene, make_raster) -> None:
    scene = open_scene(make_scene((40, 50)))
    card, predictor = load_predictor(package)
    blank = LabelledScene(
        scene=scene, labels=lambda w: np.full(w.shape, IGNORE_INDEX, np.uint8), window=scene.window
    )
    with pytest.raises(LabelError, match="nothing to measure a temperature on"):
        measure_temperature(card, predictor, [blank])
    other = open_scene(make_raster(np.ones((1, 40, 50), np.uint16), name="other.tif"))
    with pytest.raises(MismatchError):
        measure_temperature(card, predictor, [labelled(other, other.window)])


def test_a_stored_temperature_changes_confidence_and_nothing_else(
    copy_of_package, package, make_scene, tmp_path
) -> None:
    scene = open_scene(make_scene())
    card, predictor = load_predictor(package)
    found = measure_temperature(card, predictor, [labelled(scene, scene.window)])
    assert found.temperature > 1.5  # the labels are noise, and the network is sure of itself
    warm = store_temperature(copy_of_package, found)
    assert read_card(copy_of_package) == warm
    assert warm.provenance["calibration"]["pixels"] == found.pixels
    options = PredictOptions(polygons=None)
    maps = {}
    jobs = set()
    for name, where in (("cold", package), ("warm", copy_of_package)):
        prediction = prepare(scene, where, options)
        assert prediction.request.temperature == (None if name == "cold" else found.temperature)
        jobs.add(prediction.job)
        predict(prediction, tmp_path / name)
        maps[name] = [_read(tmp_path / name / f"scene_{kind}.tif") for kind in ("classes", "confidence")]
    assert len(jobs) == 2
    assert np.array_equal(maps["cold"][0], maps["warm"][0])
    sure = maps["cold"][1] != 255
    assert maps["warm"][1][sure].mean() < maps["cold"][1][sure].mean() - 5
    assert np.array_equal(maps["warm"][1] == 255, ~sure)
    together = prepare(scene, [package, copy_of_package], options)
    assert together.request.temperature is None  # of one network, not of the mean of several


def test_an_exported_file_is_not_calibrated(tmp_path, package, monkeypatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    monkeypatch.setattr(module, "read_card", lambda _: read_card(package))
    found = module.Temperature(
        temperature=2, pixels=1, log_loss_before=1, log_loss_after=1, calibration_error_before=0,
        calibration_error_after=0,
    )  # fmt: skip
    with pytest.raises(PackageError, match="Calibrate the package first"):
        store_temperature(file, found)


def _read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)
