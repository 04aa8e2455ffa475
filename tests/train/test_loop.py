from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from geoseg.config import Inference, LabelSource, ModelChoice, SceneLabels, TrainConfig
from geoseg.errors import ExecutionError, GeosegError, LabelError, OutputError, UsageError
from geoseg.inference import normalise
from geoseg.models.store import load_package
from geoseg.package import Context, read_card
from geoseg.train import HISTORY_NAME, TrainEvent, train
from geoseg.train.measure import sizes
from geoseg.train.run import ahead


def changed(config: TrainConfig, **training: object) -> TrainConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def test_it_learns_and_writes_a_package_that_predicts(config, tmp_path) -> None:
    events: list[TrainEvent] = []
    config = changed(config, epochs=3, steps_per_epoch=14, learning_rate=1e-2)
    result = train(config, tmp_path / "model", data_root=tmp_path, on_progress=events.append)
    assert result.mean_iou is not None
    assert result.mean_iou > 0.8
    assert result.mean_iou == max(e.mean_iou for e in result.history)

    card, model = load_package(tmp_path / "model")
    assert card == result.card
    assert card.band_names == ("nir", "red")
    assert (card.dtype, card.licence, card.patch_px, card.overlap_px) == ("uint16", "CC0-1.0", 64, 32)
    assert card.gsd is not None
    assert (card.gsd.min_m, card.gsd.max_m) == pytest.approx((5, 20), rel=1e-3)  # UTM: a little off 10 m
    with np.errstate(all="raise"):
        values = np.array([[[300.0]], [[900.0]]])  # nir, red of forest
        pixels = normalise(np.broadcast_to(values, (2, 32, 32)), np.ones((32, 32), bool), card.bands)
    with torch.inference_mode():
        index = model(torch.from_numpy(pixels[None])).argmax(1)
    assert (index == 1).all()

    assert [e.stage for e in events] == ["survey", *(["step"] * 14 + ["epoch"]) * 3, "measure", "saved"]
    assert [e.step for e in events if e.stage == "step"] == list(range(1, 43))
    assert {e.steps for e in events} == {42}

    assert result.history[-1].loss < result.history[0].loss
    provenance = card.provenance
    assert TrainConfig.model_validate_json(json.dumps(provenance["config"])) == config
    assert provenance["scenes"][0]["name"] == "scene1"
    assert provenance["label_pixels"].keys() == {"water", "forest", "field & meadow"}
    assert sum(provenance["label_pixels"].values()) == 96 * 120
    assert provenance["kept_epoch"] == result.epoch
    rows = list(csv.DictReader((tmp_path / "model" / HISTORY_NAME).read_text("utf-8").splitlines()))
    assert [r["mean_iou"] for r in rows] == [str(e.mean_iou) for e in result.history]
    assert float(rows[-1]["iou field & meadow"]) == result.history[-1].scores.classes[2].iou


def test_the_same_seed_gives_the_same_weights_whoever_reads(config, tmp_path, request) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    hashes = []
    for i, changes in enumerate(({}, {"workers": 0}, {"workers": 3, "minutes": 60.0}, {"seed": 8})):
        if i:  # measuring the first network must not show in the others
            request.getfixturevalue("unmeasured")
        result = train(changed(config, **changes), tmp_path / f"model{i}", data_root=tmp_path)
        hashes.append(result.card.weights_sha256)
        np.random.default_rng().random()
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert (torch.rand(3) == expected).all(), "training shifted the caller's random numbers"
    assert torch.get_num_threads() == threads


def test_the_finished_network_is_measured(config, make_raster, tmp_path, caplog) -> None:
    """Here on a scene smaller than anything it is measured with, and nothing said about patches."""
    index = np.kron(np.array([[0, 1, 2], [1, 2, 0]]), np.ones((20, 15), int))
    values = np.array([[200, 900, 500], [1000, 300, 2000]])[:, index]
    values = values + np.random.default_rng(0).normal(0, 60, values.shape)
    image = make_raster(values.astype(np.uint16), name="small.tif", descriptions=("red", "nir"))
    labels = make_raster(np.array([0, 7, 3], np.uint8)[index], name="small_labels.tif")
    small = SceneLabels(image=image.name, labels=LabelSource(path=labels.name))
    update = {"scenes": (small,), "validation": (), "inference": Inference()}
    with caplog.at_level("INFO", "geoseg.train"):
        card = train(config.model_copy(update=update), tmp_path / "model", data_root=tmp_path).card

    assert card.context is not None
    assert card.context.radius_px in (32, 64, 96)  # three halvings: not nothing, and not far
    assert card.context.change <= card.context.tolerance == 0.01
    assert (card.patch_px, card.overlap_px) == (4 * card.context.radius_px, 2 * card.context.radius_px)
    assert f"the network looks {card.context.radius_px} px far" in caplog.text
    if Path("/proc/self/statm").exists():
        assert card.call_bytes_per_px is not None
        assert 100 < card.call_bytes_per_px < 1000
    assert card.provenance["forward_mpx_per_s"] > 0
    assert read_card(tmp_path / "model") == card


@pytest.mark.parametrize(
    ("patch", "overlap", "radius", "expected"),
    [
        ("auto", "auto", 0, (256, 0)),
        ("auto", "auto", 32, (256, 64)),
        ("auto", "auto", 64, (256, 128)),
        ("auto", "auto", 192, (768, 384)),  # twice the overlap
        ("auto", "auto", None, (256, 128)),  # half the training patch
        ("auto", 160, 32, (320, 160)),
        (512, "auto", 64, (512, 128)),
        (512, "auto", 192, (512, 256)),  # half a patch is the most, and a warning
        (512, "auto", None, (512, 256)),
        (96, "auto", None, (96, 32)),
        (64, 32, 192, (64, 32)),  # as they were asked for
    ],
)
def test_sizes_follow_the_context(config, caplog, patch, overlap, radius, expected) -> None:
    context = Context(radius_px=radius, tolerance=0.01, change=0.0, searched_px=512)
    asked = changed(config, patch_px=250).model_copy(
        update={"inference": Inference(patch_px=patch, overlap_px=overlap)}
    )
    assert sizes(asked, context, 32) == expected
    is_cut = (patch, overlap, radius) == (512, "auto", 192)
    assert ("say at least 768" in caplog.text) == is_cut


@pytest.mark.usefixtures("unmeasured")
def test_without_validation_the_last_epoch_is_kept(config, tmp_path) -> None:
    result = train(config.model_copy(update={"validation": ()}), tmp_path / "model", data_root=tmp_path)
    assert (result.epoch, result.mean_iou) == (2, None)
    assert result.card.provenance["scores"] is None


@pytest.mark.usefixtures("unmeasured")
def test_the_best_epoch_is_kept_not_the_last(config, tmp_path, monkeypatch) -> None:
    from geoseg.train import loop

    real, kept = loop._validate, []

    def worse_each_time(learner, run):
        kept.append({k: v.clone() for k, v in learner.model.state_dict().items()})
        return real(learner, run).model_copy(update={"mean_iou": 0.5 - 0.1 * len(kept)})

    monkeypatch.setattr(loop, "_validate", worse_each_time)
    result = train(config, tmp_path / "model", data_root=tmp_path)
    assert result.epoch == 1
    _, model = load_package(tmp_path / "model")
    assert all(torch.equal(v, kept[0][k]) for k, v in model.state_dict().items())


@pytest.mark.usefixtures("unmeasured")
def test_time_runs_out_and_the_package_is_there(config, tmp_path) -> None:
    config = changed(config, minutes=1e-6)
    result = train(config, tmp_path / "model", data_root=tmp_path)
    assert [e.step for e in result.history] == [1]
    assert read_card(tmp_path / "model") == result.card


def test_a_loss_that_is_no_number_stops_training(config, tmp_path, monkeypatch) -> None:
    from geoseg.train import loop

    monkeypatch.setattr(loop, "rate_factor", lambda progress, **_: math.nan if progress else 1.0)
    with pytest.raises(
        ExecutionError, match=r"training has diverged: step 3\. .*found nan, at learning rate nan"
    ):
        train(config, tmp_path / "model", data_root=tmp_path)
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob("*model*")), "half a package was left, or a state that diverges again"


@pytest.mark.usefixtures("unmeasured")
def test_an_output_that_is_taken_is_refused_before_anything_is_read(config, tmp_path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    train(config, out, data_root=tmp_path)  # an empty folder is free
    before = read_card(out)
    with pytest.raises(OutputError, match="Give --overwrite"):
        train(config, out, data_root=tmp_path / "nowhere")
    after = train(changed(config, seed=9), out, data_root=tmp_path, overwrite=True).card
    assert before.weights_sha256 != after.weights_sha256
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").touch()
    with pytest.raises(OutputError, match="not a model package"):
        train(config, tmp_path / "other", data_root=tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        (
            {"inference": Inference(patch_px=60, overlap_px=32)},
            UsageError,
            r"inference.patch_px.*Use 32 or 64",
        ),
        (
            {"inference": Inference(patch_px=64, overlap_px=12)},
            UsageError,
            r"inference.overlap_px.*Use 0 or 32",
        ),
        ({"model": ModelChoice(encoder="resnet19")}, UsageError, "Did you mean"),
        ({"bands": ("nir", "swir")}, GeosegError, "bands are missing"),
    ],
)
def test_what_cannot_work_is_told_before_training(config, tmp_path, update, error, message) -> None:
    events: list[TrainEvent] = []
    with pytest.raises(error, match=message):
        train(
            config.model_copy(update=update),
            tmp_path / "model",
            data_root=tmp_path,
            on_progress=events.append,
        )
    assert not events
    assert not (tmp_path / "model").exists()


def test_validation_without_labels_is_told(config, tmp_path) -> None:
    empty = config.validation[0].labels.model_copy(update={"remap": {0: None, 7: None, 3: None}})
    held_out = (config.validation[0].model_copy(update={"labels": empty}),)
    with pytest.raises(LabelError, match="there is nothing to validate on: scene2"):
        train(config.model_copy(update={"validation": held_out}), tmp_path / "model", data_root=tmp_path)


@pytest.mark.usefixtures("unmeasured")
def test_a_class_nobody_labelled_is_logged(config, tmp_path, caplog) -> None:
    labels = config.scenes[0].labels.model_copy(update={"remap": {7: None}})
    scenes = (config.scenes[0].model_copy(update={"labels": labels}),)
    result = train(
        changed(config.model_copy(update={"scenes": scenes}), epochs=1, class_weights="inverse_sqrt"),
        tmp_path / "model",
        data_root=tmp_path,
    )
    assert "no training pixel is labelled forest" in caplog.text
    assert result.card.provenance["label_pixels"]["forest"] == 0


@pytest.mark.parametrize("workers", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_reading_ahead_keeps_order_and_bounds(workers: int, count: int) -> None:
    made: list[int] = []
    taken = 0
    for i, value in enumerate(ahead(lambda i: made.append(i) or i * i, count, workers=workers)):
        assert value == i * i
        taken += 1
        assert len(made) <= taken + workers + 1
    assert taken == count


def test_an_error_while_reading_ahead_arrives() -> None:
    def make(i: int) -> int:
        if i == 2:
            raise LabelError("unreadable")
        return i

    batches = ahead(make, 5, workers=2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(LabelError, match="unreadable"):
        next(batches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_training_on_a_gpu(config, tmp_path) -> None:
    config = changed(config, device="cuda", epochs=3, steps_per_epoch=14, learning_rate=1e-2)
    result = train(config, tmp_path / "model", data_root=tmp_path)
    assert result.mean_iou is not None
    assert result.mean_iou > 0.8
    assert result.card.provenance["device"] == "cuda"
    load_package(tmp_path / "model")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(config, tmp_path) -> None:
    with pytest.raises(UsageError, match="Say `device: auto`"):
        train(changed(config, device="cuda"), tmp_path / "model", data_root=tmp_path)
