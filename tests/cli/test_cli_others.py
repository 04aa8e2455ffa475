"""vectorize, evaluate, info, models, train, and what every command has in common."""

from __future__ import annotations

import json
import subprocess
import sys

import geopandas
import numpy as np
import pyogrio
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


LEGEND_YAML = """\
classes:
  - {id: 0, name: sea, color: "#0000ff"}
  - {id: 7, name: land, color: "#00ff00"}
nodata: 255
"""


def test_vectorize(geoseg, class_raster, tmp_path) -> None:
    out = tmp_path / "out.gpkg"
    answer = geoseg("vectorize", class_raster(), "-o", out, "--json")
    assert answer.code == 0
    assert answer.document == {"path": str(out), "polygons": 2, "pixels": {"0": 1050, "7": 1050, "255": 300}}
    assert set(pyogrio.read_dataframe(out, layer="landuse").class_name) == {"water", "forest"}
    again = geoseg("vectorize", class_raster(), "-o", out)
    assert (again.code, "--overwrite" in again.message) == (1, True)


def test_vectorize_with_a_legend_file(geoseg, class_raster, tmp_path) -> None:
    (tmp_path / "legend.yaml").write_text(LEGEND_YAML)
    out = tmp_path / "out.gpkg"
    answer = geoseg("vectorize", class_raster(own=False), "-o", out, "--legend", tmp_path / "legend.yaml")
    assert answer.code == 0
    assert f"2 polygons in {out}" in answer.out
    assert set(pyogrio.read_dataframe(out, layer="landuse").class_name) == {"sea", "land"}


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
