"""evaluate, info, models, train, and what every command has in common."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from geoseg.package import read_card
from geoseg.raster.legends import legend_tag


@pytest.fixture
def class_raster(make_raster, legend):
    """Left half water, right half forest, with the legend inside."""

    def write(name="classes.tif", *, own=True, right=7):
        values = np.zeros((40, 60), np.uint8)
        values[:, 30:] = right
        values[:5] = 255
        path = make_raster(values, name=name, nodata=255)
        if own:
            with rasterio.open(path, "r+") as dataset:
                dataset.update_tags(**legend_tag(legend))
        return path

    return write


def test_evaluate_against_a_raster(geoseg, class_raster, make_raster, tmp_path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 20:] = 70
    truth[:, 50:] = 99
    reference = make_raster(truth, name="truth.tif")
    command = ("evaluate", class_raster(), reference, "--remap", "70=7", "--remap", "99=")
    answer = geoseg(*command, "-o", tmp_path / "metrics.json", "--json")
    assert answer.code == 0, answer.err
    document = answer.document
    assert json.loads((tmp_path / "metrics.json").read_text()) == document
    # 50 columns count. Water: 20 right, 10 of forest taken for it, 5 rows of each unpredicted.
    assert document["ignored_px"] == 400
    assert document["scores"]["pixels"] == 2000
    by_name = dict(
        zip([c["name"] for c in document["legend"]["classes"]], document["scores"]["classes"], strict=True)
    )
    assert by_name["water"]["iou"] == pytest.approx(700 / (1050 + 800 - 700))
    assert by_name["forest"]["iou"] == pytest.approx(700 / (700 + 1200 - 700))
    text = geoseg(*command)
    assert "mean IoU" in text.out
    assert "field & meadow" in text.out
    assert "absent" in text.out
    part = geoseg(*command, "--window", 5, 0, 35, 20, "--json").document
    assert part["scores"]["overall_accuracy"] == 1.0


def test_evaluate_against_polygons(geoseg, class_raster, tmp_path) -> None:
    left, top = 500_000, 5_200_000
    frame = geopandas.GeoDataFrame(
        {"kind": ["wet", "dry"]},
        geometry=[
            box(left, top - 300, left + 100, top - 100),
            box(left + 400, top - 300, left + 500, top - 200),
        ],
        crs="EPSG:32631",
    )
    frame.to_file(tmp_path / "reference.gpkg")
    classes = ("--column", "kind", "--class", "wet=water", "--class", "dry=forest")
    answer = geoseg("evaluate", class_raster(), tmp_path / "reference.gpkg", *classes, "--json")
    assert answer.code == 0, answer.err
    assert answer.document["scores"]["overall_accuracy"] == 1.0
    assert answer.document["scores"]["pixels"] == 10 * 20 + 10 * 10


def test_info_on_a_raster_and_a_model(geoseg, make_scene, package) -> None:
    scene = make_scene()
    facts = geoseg("info", scene, "--json").document
    assert facts["bands"] == ["red", "green", "blue"]
    assert facts["crs"] == "EPSG:32631"
    assert facts["gsd_m"] == pytest.approx(10.004, abs=1e-3)
    card = geoseg("info", package, "--json").document
    assert (card["patch_px"], card["stride_px"], card["dtype"]) == (64, 32, "uint8")
    assert card["fingerprint"] == read_card(package).fingerprint
    text = geoseg("info", package).out
    for part in ("unet / mobilenet_v2", "7 forest", "red"):
        assert part in text


def test_info_says_whether_they_fit(geoseg, make_scene, make_raster, package) -> None:
    assert geoseg("info", make_scene(), "-m", package, "--json").document["fits"] is True
    other = make_raster(np.ones((1, 9, 9), np.int16), name="other.tif")
    document = geoseg("info", other, "-m", package, "--json").document
    assert document["fits"] is False
    assert len(document["why_not"]) == 2
    assert "band" in document["why_not"][0]


def test_info_takes_what_is_declared_as_predict_does(geoseg, make_scene, make_raster, package) -> None:
    """Whatever predict accepts fits, and what it refuses does not."""
    with rasterio.open(make_scene()) as dataset:
        values = dataset.read()
    named = {"descriptions": ("red", "green", "blue")}
    wide = make_raster(values.astype(np.uint16) * 2, name="wide.tif", **named)
    refused = geoseg("info", wide, "-m", package, "--json")
    assert (refused.code, refused.document["fits"]) == (1, False)
    scaled = geoseg("info", wide, "-m", package, "--scale", 0.5, "--offset", 1, "--nodata", 0, "--json")
    assert (scaled.code, scaled.document["fits"]) == (0, True)
    assert scaled.document["no_data"] == ["nodata 0, as given"]
    files = [make_raster(b, name=f"{n}.tif") for n, b in zip(named["descriptions"], values, strict=True)]
    bands = [f"{f.stem}={f}" for f in files]
    stack = geoseg("info", *bands, "-m", package, "--json").document
    assert (stack["bands"], stack["fits"]) == (["red", "green", "blue"], True)


def test_info_on_a_mosaic_and_on_too_much(geoseg, make_scene, make_raster, package) -> None:
    halves = [make_scene((60, 40), name="west.tif")]
    with rasterio.open(halves[0]) as dataset:
        values, transform = dataset.read(), dataset.transform
    east = transform @ rasterio.Affine.translation(40, 0)
    halves.append(make_raster(values, name="east.tif", transform=east, nodata=0,
                              descriptions=("red", "green", "blue")))  # fmt: skip
    whole = geoseg("info", *halves, "--mosaic", "-m", package, "--json").document
    assert (whole["size_px"], whole["fits"]) == ("60 x 80 (rows x columns)", True)
    two = geoseg("info", *halves)
    assert (two.code, "these are 2 scenes" in two.message, "--mosaic" in two.message) == (2, True, True)
    for arguments in ((package, "-m", package), (package, halves[0])):
        mixed = geoseg("info", *arguments)
        assert (mixed.code, "is a model, and info tells of one thing" in mixed.message) == (2, True)


def test_info_holds_a_scene_against_every_model(geoseg, make_scene, package, tmp_path) -> None:
    """Not against the last alone."""
    card = json.loads((package / "model.json").read_text())
    others = {
        "wide": {"dtype": "uint16"},
        "few": {"legend": {**card["legend"], "classes": card["legend"]["classes"][:2]}},
    }
    for name, changes in others.items():
        shutil.copytree(package, tmp_path / name)
        (tmp_path / name / "model.json").write_text(json.dumps(card | changes))
    scene = make_scene()
    several = [a for path in (tmp_path / "wide", tmp_path / "few", package) for a in ("-m", path)]
    answer = geoseg("info", scene, *several, "--json")
    assert (answer.code, answer.document["fits"]) == (1, False)
    dtype, legend = answer.document["why_not"]
    assert dtype.startswith(f"{tmp_path / 'wide'}: Expected uint16 values; found uint8")
    assert "networks with different classes cannot vote" in legend
    assert geoseg("info", scene, "-m", package, "-m", package).code == 0


def test_models_lists_architectures_and_encoders(geoseg) -> None:
    names = {a["name"] for a in geoseg("models", "--json").document["architectures"]}
    assert names >= {"fcn32s", "fcn16s", "fcn8s", "unet", "segnet", "deeplabv3", "deeplabv3plus", "segformer"}
    assert "segnet" in geoseg("models").out
    encoders = geoseg("models", "--encoders", "segnet", "--json").document["encoders"]
    assert "vgg16_bn" in encoders
    unknown = geoseg("models", "--encoders", "segnett")
    assert unknown.code == 2
    assert "segnet" in unknown.message


CONFIG = """\
legend:
  classes:
    - {id: 0, name: water, color: "#2b6cb0"}
    - {id: 7, name: forest, color: "#276749"}
bands: [red, green, blue]
scenes:
  - image: scene.tif
    labels: {path: truth.tif}
model:
  architecture: unet
  encoder: mobilenet_v2
  options: {encoder_depth: 3, decoder_channels: [16, 8, 8]}
training: {patch_px: 32, batch_size: 2, epochs: 2, steps_per_epoch: 2, device: cpu, threads: 1}
inference: {patch_px: 64, overlap_px: 32}
"""


@pytest.fixture
def training_data(make_scene, make_raster, tmp_path):
    scene = make_scene((96, 96))
    with rasterio.open(scene) as dataset:
        truth = np.where(dataset.read(1) > 120, 7, 0).astype(np.uint8)
    make_raster(truth, name="truth.tif", nodata=255)
    (tmp_path / "train.yaml").write_text(CONFIG)
    return tmp_path


def test_train_makes_a_package_that_predict_takes(geoseg, training_data) -> None:
    model = training_data / "model"
    answer = geoseg("train", training_data / "train.yaml", "-o", model, "--json")
    assert answer.code == 0, answer.err
    assert answer.document["model"] == str(model)
    assert answer.document["epochs"] == 2
    assert answer.document["fingerprint"] == read_card(model).fingerprint
    assert "epoch 2: loss" in answer.err
    again = geoseg("train", training_data / "train.yaml", "-o", model)
    assert (again.code, "--overwrite" in again.message) == (1, True)
    predicted = geoseg("predict", training_data / "scene.tif", "-m", model, "-o", training_data / "out")
    assert predicted.code == 0
    # The training saw pixels of 10 m: pixels of 100 m are refused unless the user knows better.
    with rasterio.open(training_data / "scene.tif", "r+") as dataset:
        dataset.transform = rasterio.transform.from_origin(500_000, 5_200_000, 100, 100)
    coarse = geoseg("predict", training_data / "scene.tif", "-m", model, "-o", training_data / "coarse")
    assert coarse.code == 1
    assert "--any-gsd" in coarse.message
    allowed = geoseg(
        "predict", training_data / "scene.tif", "-m", model, "-o", training_data / "coarse", "--any-gsd"
    )
    assert allowed.code == 0


def test_help_version_and_unknown_commands(geoseg) -> None:
    text = geoseg("--help").out
    for name in ("demo", "predict", "plan", "vectorize", "train", "evaluate", "info", "models"):
        assert name in text
        assert geoseg(name, "--help").code == 0
    assert geoseg("--version").out.startswith("geoseg, version ")
    assert geoseg("predcit").code == 2
    assert geoseg("predict").code == 2


def test_exit_codes_and_screens_of_a_real_process(make_scene, package, tmp_path) -> None:
    """0 and silence, 1 and 2 with one paragraph: what scripts see."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "geoseg", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run("predict", make_scene((40, 50)), "-m", package, "-o", tmp_path / "out", "-q")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    failed = run("info", tmp_path / "none.tif", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["kind"] == "SceneError"
    assert failed.stderr.startswith("geoseg: error: no such file: ")
    assert failed.stderr.count("\n") == 1
    usage = run("evaluate", tmp_path / "out" / "scene_classes.tif", tmp_path / "b.tif", "--remap", "x")
    assert usage.returncode == 2
    assert usage.stderr == "geoseg: error: expected VALUE=CLASS, found 'x'; VALUE= leaves those out\n"


def test_what_nobody_foresaw_is_a_message_and_exit_code_1(
    geoseg, make_scene, package, tmp_path, monkeypatch
) -> None:
    from geoseg.cli import plan

    def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(plan, "prepare", surprise)
    answer = geoseg("plan", make_scene(), "-m", package)
    assert answer.code == 1
    assert answer.message.startswith("unexpected ZeroDivisionError: a bug. Run with -v")
    assert "Traceback" in geoseg("plan", make_scene(), "-m", package, "-v").err


def test_logs_as_json_lines(geoseg, make_scene, package, tmp_path) -> None:
    """Errors and progress too: a nightly log is read by machines."""
    arguments = ("predict", make_scene(), tmp_path / "none.tif", "-m", package, "-o", tmp_path / "out")
    answer = geoseg(*arguments, "--log-json")
    assert answer.code == 3
    logged = [json.loads(line) for line in answer.err.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in logged)
    told = [(entry["level"], entry["message"]) for entry in logged]
    assert ("info", "scene: tiles 1/1") in told
    assert any(level == "error" and "no such file" in message for level, message in told)
