"""Input that cannot be used: one paragraph, the right exit code, and a folder left as it was.

A paragraph names the file, what was expected, what was found and what to do.
"""

from __future__ import annotations

import json
import shutil

import geopandas
import numpy as np
import pytest
import rasterio
from shapely.geometry import box

RGB = ("red", "green", "blue")


def values(shape=(3, 90, 80), dtype="uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, shape).astype(dtype)


def require_paragraph(message: str, *parts: str) -> None:
    for part in (*parts, "Expected", "found"):
        assert part in message, message
    assert message.rstrip().endswith((".", ")")), message
    assert "Traceback" not in message
    assert 60 < len(message) < 900


@pytest.fixture
def refused(geoseg, package, tmp_path):
    """Runs `predict`, expects it to fail with `code` and to leave nothing, and returns the message."""

    def run(*arguments: object, code: int, model=package) -> str:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        (out / "mine.txt").write_text("mine")
        answer = geoseg("predict", *arguments, "-m", model, "-o", out, "--json")
        assert answer.code == code, answer.err
        assert answer.document["error"]["message"] == answer.message
        assert [p.name for p in out.iterdir()] == ["mine.txt"]
        return answer.message

    return run


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("profile", "parts"),
    [
        ({"crs": None}, ("the raster has no CRS", "scene.tif", "gdal_edit.py -a_srs")),
        ({"transform": None}, ("the raster has no transform", "scene.tif", "gdal_edit.py")),
    ],
)
def test_no_crs_or_no_transform(refused, make_raster, profile, parts) -> None:
    path = make_raster(values(), descriptions=RGB, **profile)
    require_paragraph(refused(path, code=1), *parts)


def test_missing_file(refused, tmp_path) -> None:
    require_paragraph(refused(tmp_path / "none.tif", code=1), "no such file", "none.tif", "Check the path")


def test_file_that_is_no_raster(refused, tmp_path) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    require_paragraph(refused(tmp_path / "text.tif", code=1), "cannot be opened", "text.tif", "gdalinfo")


def test_truncated_file_fails_while_reading(geoseg, package, make_raster, tmp_path) -> None:
    """What was computed before the damage is kept out of sight; under final names there is nothing."""
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    path = make_raster(values((3, 256, 128)), **layout)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    out = tmp_path / "out"
    answer = geoseg("predict", path, "-m", package, "-o", out, "--tile-size", 32, "--bands", ",".join(RGB))
    assert answer.code == 1
    require_paragraph(answer.message, "reading failed", "scene.tif, rows", "fetch it again")
    assert all(p.name.startswith(".") and p.suffix == ".work" for p in out.iterdir())


def test_fewer_bands_than_the_model_needs(refused, make_raster) -> None:
    path = make_raster(values((2, 90, 80)), descriptions=("red", "green"))
    message = refused(path, code=1)
    require_paragraph(message, "does not fit the model: scene", "bands red, green, blue", "found red, green")
    assert "too few bands" in message


def test_wrong_dtype(refused, make_raster) -> None:
    path = make_raster(values(dtype="float32"), descriptions=RGB)
    require_paragraph(refused(path, code=1), "scene", "Expected uint8 values; found float32", "--scale")


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_dtype_no_model_can_take_exits_non_zero(refused, make_raster, dtype) -> None:
    path = make_raster(np.ones((3, 9, 8), np.complex64), dtype=dtype, descriptions=RGB)
    require_paragraph(refused(path, code=1), "data type cannot be used", "scene.tif", "gdal_translate -ot")


def test_scene_of_nodata(refused, make_raster) -> None:
    path = make_raster(np.zeros((3, 90, 80), np.uint8), nodata=0, descriptions=RGB)
    require_paragraph(refused(path, code=1), "no valid pixel", "scene.tif", "nodata value")


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 70), (64, 64)])
def test_a_scene_smaller_than_a_patch_works(geoseg, make_scene, package, tmp_path, shape) -> None:
    path = make_scene(shape, hole=False)
    answer = geoseg("predict", path, "-m", package, "-o", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    [done] = answer.document["complete"]
    assert done["counts"]["valid"] == shape[0] * shape[1]
    with rasterio.open(tmp_path / "out" / "scene_classes.tif") as dataset:
        assert dataset.shape == shape
        assert set(np.unique(dataset.read(1))) <= {0, 3, 7}
    assert done["polygons"] >= 1


def test_band_files_on_different_grids(refused, make_raster) -> None:
    files = [f"{n}={make_raster(values((1, 9, 8)), name=f'{n}.tif')}" for n in ("red", "green")]
    files.append(f"blue={make_raster(values((1, 9, 7)), name='blue.tif')}")
    require_paragraph(refused(*files, code=1), "differ in their extent", "blue.tif", "red.tif", "gdalwarp")


# The model package


def test_no_model_package(refused, make_scene, tmp_path) -> None:
    scene = make_scene()
    message = refused(scene, code=1, model=tmp_path / "none")
    require_paragraph(message, "not a model package", "none", "no such folder", "geoseg train")
    (tmp_path / "empty").mkdir()
    require_paragraph(refused(scene, code=1, model=tmp_path / "empty"), "no model.json in it")


@pytest.mark.parametrize("damage", ["altered", "truncated", "removed"])
def test_weights_that_are_not_the_cards(refused, make_scene, package, tmp_path, damage) -> None:
    model = tmp_path / "model"
    shutil.copytree(package, model)
    weights = model / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    if damage != "removed":
        weights.write_bytes(content if damage == "altered" else content[:-1000])
    card = json.loads((model / "model.json").read_text())
    card["licence"] = damage  # another card: nothing of it is in memory already
    (model / "model.json").write_text(json.dumps(card))
    message = refused(make_scene(), code=1, model=model)
    require_paragraph(message, str(model), "weights", "again")


def test_a_card_with_an_unknown_key(refused, make_scene, package, tmp_path) -> None:
    model = tmp_path / "model"
    shutil.copytree(package, model)
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**card, "surprise": 1}))
    message = refused(make_scene(), code=1, model=model)
    require_paragraph(message, "model card is not valid", "model.json", "surprise")


# Options


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--tile-size", "0"), "--tile-size"),
        (("--patch-size", "0"), "--patch-size"),
        (("--threads", "0"), "--threads"),
        (("--stitch", "nonsense"), "--stitch"),
        (("--overlap", "-1"), "--overlap"),
    ],
)
def test_options_out_of_range(geoseg, make_scene, package, tmp_path, options, part) -> None:
    answer = geoseg("predict", make_scene(), "-m", package, "-o", tmp_path / "out", *options)
    assert answer.code == 2
    assert part in answer.err
    assert not (tmp_path / "out").exists()


def test_patch_off_the_stride_and_overlap_too_large(refused, make_scene) -> None:
    scene = make_scene()
    message = refused(scene, "--patch-size", 100, code=2)
    require_paragraph(message, "patch size is off the network's stride", "multiple of 32", "Use 96 or 128")
    message = refused(scene, "--overlap", 64, code=2)
    require_paragraph(message, "overlap does not fit the patch", "patch larger or the overlap smaller")


def test_workers_and_scheduler_at_once(geoseg, make_scene, package, tmp_path) -> None:
    options = ("--workers", 2, "--scheduler", "tcp://127.0.0.1:9")
    answer = geoseg("predict", make_scene(), "-m", package, "-o", tmp_path / "out", *options)
    assert answer.code == 2
    assert "either --workers" in answer.message


def test_no_scheduler_there(refused, make_scene, monkeypatch) -> None:
    monkeypatch.setattr("geoseg.execute._CONNECT_SECONDS", 0.3)
    message = refused(make_scene(), "--scheduler", "tcp://127.0.0.1:9", code=2)
    require_paragraph(message, "no Dask scheduler answers", "tcp://127.0.0.1:9", "dask scheduler")


def test_no_such_device(refused, make_scene) -> None:
    message = refused(make_scene(), "--device", "cuda:77", code=2)
    require_paragraph(message, "no such device", "cuda:77", "Choose one")


# Output


def test_unwritable_output(geoseg, make_scene, package, tmp_path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        answer = geoseg("predict", make_scene(), "-m", package, "-o", out)
        assert answer.code == 1
        require_paragraph(
            answer.message, "output folder cannot be written", str(out), "choose another with -o"
        )
    assert (tmp_path / "file").read_text() == "a file, not a folder"


# Labels


@pytest.fixture
def class_raster(make_raster):
    return make_raster(values((40, 60)) % 2, name="classes.tif", nodata=255)


@pytest.fixture
def evaluate(geoseg, class_raster, tmp_path):
    (tmp_path / "legend.yaml").write_text(
        "classes:\n  - {id: 0, name: water, color: '#0000ff'}\n  - {id: 1, name: land, color: '#00ff00'}\n"
    )

    def run(reference, *options, code) -> str:
        out = tmp_path / "metrics.json"
        answer = geoseg(
            "evaluate", class_raster, reference, "--legend", tmp_path / "legend.yaml", "-o", out, *options
        )
        assert answer.code == code, answer.err
        assert not out.exists()
        return answer.message

    return run


def test_labels_that_do_not_overlap(evaluate, make_raster, tmp_path) -> None:
    far = rasterio.transform.from_origin(900_000, 4_000_000, 10, 10)
    elsewhere = make_raster(values((40, 60)) % 2, name="far.tif", transform=far)
    require_paragraph(evaluate(elsewhere, code=1), "lie outside the scene", "far.tif", "EPSG:32631")
    frame = geopandas.GeoDataFrame({"kind": ["water"]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:4326")
    frame.to_file(tmp_path / "far.gpkg")
    message = evaluate(tmp_path / "far.gpkg", "--column", "kind", code=1)
    require_paragraph(message, "lie outside the scene", "far.gpkg")


def test_unknown_class_in_labels(evaluate, make_raster, tmp_path) -> None:
    odd = make_raster(values((40, 60)) % 3 * 30, name="odd.tif")
    message = evaluate(odd, code=1)
    require_paragraph(message, "neither a class nor nodata", "odd.tif", "found 30, 60", "remap")
    left, top = 500_000, 5_200_000
    polygon = box(left, top - 300, left + 100, top - 100)
    frame = geopandas.GeoDataFrame({"kind": ["swamp"]}, geometry=[polygon], crs="EPSG:32631")
    frame.to_file(tmp_path / "odd.gpkg")
    message = evaluate(tmp_path / "odd.gpkg", "--column", "kind", code=1)
    require_paragraph(message, "not in the legend", "odd.gpkg", "found swamp", "0 water, 1 land")
    message = evaluate(tmp_path / "odd.gpkg", "--column", "sort", code=1)
    require_paragraph(message, "odd.gpkg", "'sort'", "kind")


def test_a_class_raster_without_a_legend(geoseg, class_raster) -> None:
    answer = geoseg("evaluate", class_raster, class_raster)
    assert answer.code == 2
    assert "carries no legend" in answer.message
    assert "--legend FILE" in answer.message


# Configuration


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("legnd: {}\n", "1:1", "unknown key; did you mean 'legend'?"),
        ("bands: [red]\ntraining:\n  epochs: many\n", "3:11", "training.epochs"),
        ("bands: [red]\nbands: [green]\n", "2:1", "bands"),
        ("bands: [red\n", "2:1", "flow sequence"),
    ],
)
def test_configuration_errors_have_line_and_column(geoseg, tmp_path, text, place, part) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    answer = geoseg("train", path, "-o", tmp_path / "model")
    assert answer.code == 2
    lines = answer.err.removeprefix("geoseg: error: ").splitlines()
    assert any(line.startswith(f"{path}:{place}: ") and part in line for line in lines), answer.err
    assert not (tmp_path / "model").exists()


def test_missing_configuration_and_legend(geoseg, class_raster, tmp_path) -> None:
    answer = geoseg("train", tmp_path / "none.yaml", "-o", tmp_path / "model")
    assert answer.code == 2
    require_paragraph(answer.message, "configuration cannot be read", "none.yaml")
    answer = geoseg(
        "vectorize", class_raster, "-o", tmp_path / "out.gpkg", "--legend", tmp_path / "none.yaml"
    )
    assert answer.code == 2
    require_paragraph(answer.message, "none.yaml")
