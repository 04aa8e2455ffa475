"""sample, accuracy, calibrate, and evaluate of a whole product."""

from __future__ import annotations

import shutil

import numpy as np
import pyogrio
import pytest
import rasterio

from geoseg.evaluation import Evaluation
from geoseg.package import read_card
from geoseg.raster.legends import legend_tag


@pytest.fixture
def class_map(make_raster, legend):
    """A map with its legend, and what is true there."""
    rng = np.random.default_rng(0)
    true = rng.choice(legend.ids, (20, 20)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    mapped = np.where(rng.random(true.shape) < 0.2, legend.ids[0], true).astype(np.uint8)
    path = make_raster(mapped, name="map.tif", nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**legend_tag(legend))
    return path, true


def label(path, true, legend) -> None:
    points = pyogrio.read_dataframe(path, layer="points")
    col, row = (points.geometry.x - 500_000) // 10, (5_200_000 - points.geometry.y) // 10
    names = dict(zip(legend.ids.tolist(), legend.names, strict=True))
    points["label"] = [names[i] for i in true[row.astype(int), col.astype(int)].tolist()]
    tables = {n: pyogrio.read_dataframe(path, layer=n) for n in ("design", "strata")}
    path.unlink()
    pyogrio.write_dataframe(points, path, layer="points")
    for name, table in tables.items():
        pyogrio.write_dataframe(table, path, layer=name, append=True)


def test_from_a_map_to_areas_with_intervals(geoseg, class_map, legend, tmp_path) -> None:
    path, true = class_map
    out = tmp_path / "points.gpkg"
    answer = geoseg("sample", path, "-o", out, "--standard-error", 0.02, "--expect", "*=0.8", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["points"] == 400
    assert "water" in geoseg("sample", path, "-o", out, "-n", 300, "--overwrite").out
    blank = geoseg("accuracy", out, path)
    assert blank.code == 1
    assert "points are not labelled" in blank.message
    label(out, true, legend)
    answer = geoseg("accuracy", out, path, "-o", tmp_path / "accuracy.json")
    assert answer.code == 0, answer.err
    assert "overall accuracy" in answer.out
    assert "±" in answer.out
    document = geoseg("accuracy", out, path, "--json").document
    assert (tmp_path / "accuracy.json").is_file()
    water = document["classes"][0]
    assert water["mapped_m2"] > water["area_m2"]["high"] > (true == 0).sum() * 100 > water["area_m2"]["low"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "300", "--expect", "water"], "expected VALUE=CLASS"),
        (["-n", "300", "--expect", "water=much"], "--expect takes CLASS=SHARE"),
        ([], "say either how many points"),
        (["-n", "20"], "cannot be shared"),
    ],
)
def test_samples_that_make_no_sense(geoseg, class_map, tmp_path, options, message) -> None:
    answer = geoseg("sample", class_map[0], "-o", tmp_path / "points.gpkg", *options)
    assert answer.code == 2
    assert message in answer.message
    assert not (tmp_path / "points.gpkg").exists()


def test_a_product_is_evaluated_with_its_polygons_and_confidence(
    geoseg, make_scene, make_raster, package, legend, tmp_path
) -> None:
    scene = make_scene((150, 130))
    assert geoseg("predict", scene, "-m", package, "-o", tmp_path, "--min-area", "6px", "-q").code == 0
    classes = tmp_path / "scene_classes.tif"
    truth = np.random.default_rng(0).choice(legend.ids, (15, 13)).repeat(10, 0).repeat(10, 1)
    reference = make_raster(truth.astype(np.uint8), name="truth.tif")
    out = tmp_path / "metrics.json"
    answer = geoseg("evaluate", classes, reference, "-o", out)
    assert answer.code == 0, answer.err
    for part in ("boundaries, 20", "objects found", "calibration error", "polygons: mean IoU"):
        assert part in answer.out
    found = Evaluation.model_validate_json(out.read_bytes())
    assert found.polygons.path == str(tmp_path / "scene.gpkg")
    assert found.polygons.disagreement_px > 0
    bare = geoseg(
        "evaluate", classes, reference, "--raster-only", "--no-boundary", "--no-objects", "--json"
    ).document
    assert [bare[k] for k in ("polygons", "reliability", "boundary", "objects")] == [None] * 4
    alone = geoseg("evaluate", tmp_path / "scene.gpkg", reference, "--boundary", 30, "--json").document
    assert alone["confusion"] == [list(row) for row in found.polygons.confusion]
    assert alone["boundary"]["tolerance_m"] == 30
    box = ("--bbox", 500_000, 5_199_500, 500_500, 5_200_000)
    assert geoseg("evaluate", classes, reference, *box, "--json").document["pixels"] == 2500
    clash = geoseg("evaluate", classes, reference, "--boundary", 30, "--no-boundary")
    assert "contradict" in clash.message


def test_a_margin_is_no_probability(geoseg, make_scene, make_raster, package, tmp_path) -> None:
    """The confidence of such a product is left out by itself, and refused when asked for."""
    scene = make_scene((40, 50))
    assert geoseg("predict", scene, "-m", package, "-o", tmp_path, "--confidence", "margin", "-q").code == 0
    reference = make_raster(np.zeros((40, 50), np.uint8), name="truth.tif")
    command = ("evaluate", tmp_path / "scene_classes.tif", reference)
    assert geoseg(*command, "--json").document["reliability"] is None
    refused = geoseg(*command, "--confidence", tmp_path / "scene_confidence.tif")
    assert "lead over the next class" in refused.message


def test_calibrate_stores_a_temperature(geoseg, make_scene, make_raster, package, legend, tmp_path) -> None:
    model = shutil.copytree(package, tmp_path / "model")
    scene = make_scene((70, 80))
    assert geoseg("predict", scene, "-m", package, "-o", tmp_path / "map", "-q").code == 0
    rng = np.random.default_rng(0)
    with rasterio.open(tmp_path / "map" / "scene_classes.tif") as dataset:
        truth = np.where(rng.random((70, 80)) < 0.6, dataset.read(1), rng.choice(legend.ids, (70, 80)))
    reference = make_raster(truth.astype(np.uint8), name="truth.tif")
    command = ("calibrate", model, scene, reference)
    tried = geoseg(*command, "--dry-run", "--json").document
    assert tried["fingerprint"] is None
    assert read_card(model).temperature is None
    answer = geoseg(*command, "--window", 0, 0, 70, 40)
    assert answer.code == 0, answer.err
    assert f"stored in {model}" in answer.out
    assert read_card(model).temperature not in (None, tried["temperature"])
    assert geoseg(*command, "--window", 0, 0, 71, 40).code == 2
    assert "need --column" in geoseg(*command, "--layer", "x").message


def test_what_is_offered_in_python() -> None:
    import geoseg

    assert geoseg.evaluate.__module__ == "geoseg.evaluation"
    assert callable(geoseg.design_sample)
    assert callable(geoseg.assess)
