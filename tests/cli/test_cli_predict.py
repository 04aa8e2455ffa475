"""`geoseg predict`: scenes given in every way, results in every form, exit codes."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from geoseg.cli.main import main
from geoseg.manifest import read_manifest


def read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def bands_of(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.fixture
def scene(make_scene):
    return make_scene()


@pytest.fixture
def expected(geoseg, scene, package, tmp_path) -> np.ndarray:
    """The map of the scene as one file with band names of its own."""
    assert geoseg("predict", scene, "-m", package, "-o", tmp_path / "expected", "-q").code == 0
    return read(tmp_path / "expected" / "scene_classes.tif")


def test_predict_says_what_it_made_and_where(geoseg, scene, package, tmp_path) -> None:
    out = tmp_path / "out"
    answer = geoseg("predict", scene, "-m", package, "-o", out)
    assert answer.code == 0
    for name in ("scene_classes.tif", "scene_confidence.tif", "scene.gpkg", "scene_manifest.json"):
        assert (out / name).exists()
        assert str(out / name) in answer.out
    assert "field & meadow" in answer.out
    ratio = read_manifest(out / "scene_manifest.json").seams["ratio"]
    assert f"seams: the class changes {ratio:.2f} times as often where patches meet as beside" in answer.out
    assert "scene: tiles 1/1" in answer.err
    again = geoseg("predict", scene, "-m", package, "-o", out)
    assert again.code == 0
    assert "complete already, nothing to do" in again.out


def test_json_is_one_document_with_the_manifest_in_it(geoseg, scene, package, tmp_path) -> None:
    out = tmp_path / "out"
    document = geoseg("predict", scene, "-m", package, "-o", out, "--json").document
    assert document["failed"] == []
    [done] = document["complete"]
    assert done["fresh"] is True
    assert done["manifest"] == str(out / "scene_manifest.json")
    manifest = read_manifest(out / "scene_manifest.json").model_dump(mode="json")
    assert {k: done[k] for k in manifest} == manifest
    [again] = geoseg("predict", scene, "-m", package, "-o", out, "--json").document["complete"]
    assert again["fresh"] is False


def test_quiet_is_silent_and_errors_still_speak(geoseg, scene, package, tmp_path) -> None:
    answer = geoseg("predict", scene, "-m", package, "-o", tmp_path / "out", "-q")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    answer = geoseg("predict", tmp_path / "none.tif", "-m", package, "-o", tmp_path / "out", "-q")
    assert answer.code == 1
    assert "no such file" in answer.message
    answer = geoseg("predict", scene, tmp_path / "none.tif", "-m", package, "-o", tmp_path / "out", "-q")
    assert answer.code == 3
    assert "no such file" in answer.err


def test_threads_tile_size_and_products_left_out(geoseg, scene, package, tmp_path, expected) -> None:
    answer = geoseg(
        "predict", scene, "-m", package, "-o", tmp_path / "out", "--threads", 2, "--tile-size", 64, "--json",
        "--no-confidence", "--no-polygons", "--stitch", "centre", "--patch-size", 64, "--overlap", 32,
    )  # fmt: skip
    [done] = answer.document["complete"]
    assert (done["execution"]["kind"], done["plan"]["tiles"], done["polygons"]) == ("threads", 4, None)
    assert {o["kind"] for o in done["outputs"]} == {"classes", "names", "style"}
    assert np.array_equal(read(tmp_path / "out" / "scene_classes.tif"), expected)


def test_polygons_may_be_cleaned_generalised_and_of_other_formats(geoseg, scene, package, tmp_path) -> None:
    out = tmp_path / "out"
    command = (
        "predict", scene, "-m", package, "-o", out, "--min-area", "0.1ha", "--simplify", "2px", "--smooth",
        "--connectivity", 8, "--class-fractions", "--format", "gpkg", "--format", "fgb", "--crs", "EPSG:3035",
    )  # fmt: skip
    answer = geoseg(*command)
    assert answer.code == 0, answer.err
    for name in ("scene.gpkg", "scene.fgb", "scene_classes_mmu.tif", "hectares of polygons"):
        assert name in answer.out
    assert "mmu.qml" not in answer.out
    options = read_manifest(out / "scene_manifest.json").options["polygons"]
    assert options == {
        "connectivity": 8, "min_area": "1000 m2", "simplify": "2 px", "smooth": True, "keep_outline": False,
        "class_fractions": True, "crs": "EPSG:3035", "formats": ["gpkg", "fgb"],
    }  # fmt: skip
    assert "complete already" in geoseg(*command).out
    other = geoseg(*command, "--keep-outline")
    assert (other.code, "--overwrite" in other.message) == (1, True)
    contradiction = geoseg("predict", scene, "-m", package, "-o", out, "--keep-outline")
    assert (contradiction.code, "give one of them" in contradiction.message) == (2, True)


def test_band_files_are_one_scene(geoseg, scene, package, make_raster, tmp_path, expected) -> None:
    values = bands_of(scene)
    files = [
        f"{name}={make_raster(band, name=f'{name}.tif', nodata=0)}"
        for name, band in zip(("red", "green", "blue"), values, strict=True)
    ]
    out = tmp_path / "out"
    answer = geoseg("predict", files[2], files[0], files[1], "-m", package, "-o", out, "--name", "coast")
    assert answer.code == 0, answer.err
    assert np.array_equal(read(out / "coast_classes.tif"), expected)
    twice = geoseg("predict", *files, files[0], "-m", package, "-o", out)
    assert (twice.code, "band red is given twice" in twice.message) == (2, True)
    named = geoseg("predict", *files, "-m", package, "-o", out, "--bands", "a,b,c")
    assert (named.code, "--bands names the bands of one file" in named.message) == (2, True)


def test_bands_are_named_in_the_files_order(geoseg, scene, package, make_raster, tmp_path, expected) -> None:
    red, green, blue = bands_of(scene)
    path = make_raster(
        np.stack([blue, red, np.full_like(red, 9), green]), name="odd.tif", nodata=0, photometric="MINISBLACK"
    )
    answer = geoseg("predict", path, "-m", package, "-o", tmp_path / "out")
    assert answer.code == 1
    assert "Expected bands red, green, blue; found band_1, band_2, band_3, band_4" in answer.message
    assert "--bands" in answer.message
    named = ("--bands", "blue, red,_,green")
    assert geoseg("predict", path, "-m", package, "-o", tmp_path / "out", *named).code == 0
    assert np.array_equal(read(tmp_path / "out" / "odd_classes.tif"), expected)
    short = geoseg("predict", path, "-m", package, "-o", tmp_path / "out", "--bands", "red,green,blue")
    assert (short.code, "4 distinct names" in short.message) == (2, True)


def test_scale_and_offset_bring_values_into_the_models_units(
    geoseg, scene, package, make_raster, tmp_path, expected
) -> None:
    values = bands_of(scene)
    other = np.where(values == 0, 0, values.astype(np.uint16) * 2 + 8)
    path = make_raster(other.astype(np.uint16), nodata=0, descriptions=("red", "green", "blue"))
    refused = geoseg("predict", path, "-m", package, "-o", tmp_path / "out")
    assert refused.code == 1
    assert "Expected uint8 values; found uint16" in refused.message
    assert "--scale" in refused.message
    given = ("--scale", 0.5, "--offset", -4)
    assert geoseg("predict", path, "-m", package, "-o", tmp_path / "out", *given).code == 0
    assert np.array_equal(read(tmp_path / "out" / "scene_classes.tif"), expected)


def test_nodata_given_by_hand(geoseg, package, make_scene, tmp_path, expected) -> None:
    path = make_scene(name="undeclared.tif", nodata=None)
    assert geoseg("predict", path, "-m", package, "-o", tmp_path / "out", "--nodata", 0).code == 0
    assert np.array_equal(read(tmp_path / "out" / "undeclared_classes.tif"), expected)


def test_one_broken_scene_of_several_is_partial(geoseg, make_scene, package, tmp_path) -> None:
    good = [make_scene((70, 60), seed=i, name=f"good_{i}.tif") for i in range(2)]
    broken = tmp_path / "broken.tif"
    broken.write_text("not a raster")
    out = tmp_path / "out"
    answer = geoseg("predict", good[0], broken, good[1], "-m", package, "-o", out, "--json")
    assert answer.code == 3
    assert [c["scene"]["name"] for c in answer.document["complete"]] == ["good_0", "good_1"]
    [failed] = answer.document["failed"]
    assert failed["scene"] == str(broken)
    assert "cannot be opened" in failed["error"]
    assert "1 of 3 scenes failed" in answer.message
    assert not list(out.glob("*broken*"))
    again = geoseg("predict", *good, "-m", package, "-o", out, "--json")
    assert again.code == 0
    assert [c["fresh"] for c in again.document["complete"]] == [False, False]


def test_nothing_but_broken_scenes_is_a_failure(geoseg, package, tmp_path) -> None:
    missing = [tmp_path / "a.tif", tmp_path / "b.tif"]
    answer = geoseg("predict", *missing, "-m", package, "-o", tmp_path / "out", "--json")
    assert answer.code == 1
    assert len(answer.document["failed"]) == 2


def test_overwrite_replaces_another_jobs_product(geoseg, scene, package, tmp_path) -> None:
    command = ("predict", scene, "-m", package, "-o", tmp_path / "out")
    assert geoseg(*command).code == 0
    refused = geoseg(*command, "--stitch", "blend")
    assert refused.code == 1
    assert "which differs in --stitch: no there, yes now. Give --overwrite" in refused.message
    assert geoseg(*command, "--stitch", "blend", "--overwrite").code == 0
    assert read_manifest(tmp_path / "out" / "scene_manifest.json").options["blend"] is True


def test_two_scenes_of_one_name_are_refused_before_any_work(make_raster, package, tmp_path) -> None:
    """The second's files would silently replace the first's."""
    values = np.full((3, 20, 20), 9, np.uint8)
    first = make_raster(values, descriptions=("red", "green", "blue"))
    second = tmp_path / "b" / "scene.tif"
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    arguments = ["predict", str(first), str(second), "-m", str(package), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "two scenes are called scene" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_name_cannot_leave_the_output_folder(make_raster, package, tmp_path) -> None:
    bands = [f"{n}={make_raster(np.full((1, 9, 9), 9, np.uint8), name=n)}" for n in ("red", "green", "blue")]
    out = tmp_path / "q" / "out"
    arguments = ["predict", *bands, "--name", "../escaped", "-m", str(package), "-o", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "cannot be the start of file names" in result.stderr
    assert not out.parent.exists()
