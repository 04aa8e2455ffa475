"""`geoseg vectorize`: rasters of any kind, every option, results in every form."""

from __future__ import annotations

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from geoseg.raster.legends import legend_tag

LEGEND_YAML = """\
classes:
  - {id: 0, name: sea, color: "#0000ff"}
  - {id: 7, name: land, color: "#00ff00"}
nodata: 255
"""

CORINE_YAML = """\
classes:
  - {id: 523, name: Sea and ocean, color: "#e6f2ff"}
  - {id: 311, name: Broad-leaved forest, color: "#80ff00"}
"""


@pytest.fixture
def class_raster(make_raster, legend):
    """Left half water, right half forest with a pond of one pixel, with the legend inside."""

    def write(name="classes.tif", *, own=True, dtype=np.uint8, left=0, right=7):
        values = np.full((40, 60), left, dtype)
        values[:, 30:] = right
        values[20, 45] = left
        values[:5] = 255
        path = make_raster(values, name=name, nodata=255)
        if own:
            with rasterio.open(path, "r+") as dataset:
                dataset.update_tags(**legend_tag(legend))
        return path

    return write


def read(path) -> object:
    return pyogrio.read_dataframe(path, layer="landuse")


def test_vectorize_says_what_it_made(geoseg, class_raster, tmp_path) -> None:
    out = tmp_path / "out.gpkg"
    answer = geoseg("vectorize", class_raster(), "-o", out, "--json")
    assert answer.code == 0, answer.err
    document = answer.document
    classes = {c["class_name"]: c for c in document.pop("classes")}
    assert document == {
        "path": str(out), "files": {"gpkg": str(out)}, "cleaned_raster": None, "polygons": 3,
        "pixels": {"0": 1051, "7": 1049, "nodata": 300}, "reused_tiles": 0,
    }  # fmt: skip
    assert {n: (c["class_id"], c["polygons"], c["pixels"]) for n, c in classes.items()} == {
        "water": (0, 2, 1051), "field & meadow": (3, 0, 0), "forest": (7, 1, 1049)
    }  # fmt: skip
    assert classes["water"]["area_change_m2"] is None
    assert set(read(out).class_name) == {"water", "forest"}
    again = geoseg("vectorize", class_raster(), "-o", out)
    assert (again.code, "--overwrite" in again.message) == (1, True)
    text = geoseg("vectorize", class_raster(), "-o", out, "--overwrite", "--smooth").out
    assert f"3 polygons in {out}" in text
    for word in ("water", "1,051", "hectares", "change"):
        assert word in text


def test_a_legend_file(geoseg, class_raster, tmp_path) -> None:
    (tmp_path / "legend.yaml").write_text(LEGEND_YAML)
    out = tmp_path / "out.gpkg"
    answer = geoseg("vectorize", class_raster(own=False), "-o", out, "--legend", tmp_path / "legend.yaml")
    assert answer.code == 0, answer.err
    assert f"3 polygons in {out}" in answer.out
    assert set(read(out).class_name) == {"sea", "land"}


def test_a_legend_file_of_codes(geoseg, class_raster, tmp_path) -> None:
    (tmp_path / "corine.yaml").write_text(CORINE_YAML)
    path = class_raster(own=False, dtype=np.int16, left=523, right=311)
    out = tmp_path / "out.gpkg"
    answer = geoseg("vectorize", path, "-o", out, "--legend", tmp_path / "corine.yaml", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["pixels"] == {"523": 1051, "311": 1049, "nodata": 300}
    named = dict(read(out)[["class_id", "class_name"]].drop_duplicates().to_numpy().tolist())
    assert named == {523: "Sea and ocean", 311: "Broad-leaved forest"}
    (tmp_path / "twice.yaml").write_text(CORINE_YAML.replace("523", "311"))
    wrong = geoseg("vectorize", path, "-o", out, "--legend", tmp_path / "twice.yaml", "--overwrite")
    assert (wrong.code, "twice.yaml" in wrong.message, "appears twice" in wrong.message) == (2, True, True)


def test_every_option_at_once(geoseg, class_raster, tmp_path) -> None:
    out, cleaned = tmp_path / "out.fgb", tmp_path / "cleaned.tif"
    answer = geoseg(
        "vectorize", class_raster(), "-o", out, "--min-area", "200m2", "--cleaned-raster", cleaned,
        "--simplify", "12m", "--smooth", "--keep-outline", "--connectivity", 8, "--class-fractions",
        "--crs", "EPSG:3035", "--format", "fgb", "--format", "parquet", "--threads", 2, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["files"] == {"fgb": str(out), "parquet": str(tmp_path / "out.parquet")}
    assert document["cleaned_raster"] == str(cleaned)
    assert document["polygons"] == 2
    frame = read(out)
    assert frame.crs == "EPSG:3035"
    assert shapely.coverage_is_valid(shapely.get_parts(frame.geometry.to_numpy()))
    assert frame.set_index("class_name").share_0.to_dict() == {
        "water": 1.0, "forest": pytest.approx(1 / 1050)
    }  # fmt: skip
    with rasterio.open(cleaned) as dataset:
        values = dataset.read(1)
    assert values[20, 45] == 7
    assert (tmp_path / "cleaned.qml").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--min-area", "12"), "not an area"),
        (("--min-area", "0ha"), "out of range"),
        (("--simplify", "10ft"), "this is no distance"),
        (("--connectivity", "6"), "'6' is not one of '4', '8'"),
        (("--format", "shp"), "'shp' is not one of"),
        (("--keep-outline",), "give one of them"),
        (("--class-fractions",), "without --min-area"),
        (("--cleaned-raster", "a.tif"), "give that, too"),
        (("--crs", "EPSG:1"), "the CRS is not known"),
        (("--band", "2"), "no such band"),
    ],
)
def test_what_cannot_be_asked_for_is_a_usage_error(geoseg, class_raster, tmp_path, option, message) -> None:
    answer = geoseg("vectorize", class_raster(), "-o", tmp_path / "out.gpkg", *option)
    assert answer.code == 2
    assert message in answer.err
    assert not list(tmp_path.glob("*.gpkg"))


def test_bands_and_floats_are_a_choice(geoseg, make_raster, tmp_path) -> None:
    values = np.zeros((2, 20, 20), np.float32)
    values[1, :, 10:] = 3
    path = make_raster(values)
    command = ("vectorize", path, "-o", tmp_path / "out.gpkg")
    assert "--band 1 to --band 2" in geoseg(*command).message
    assert "--as-integer" in geoseg(*command, "--band", 2).message
    answer = geoseg(*command, "--band", 2, "--as-integer", "--json")
    assert answer.code == 0, answer.err
    assert [c["class_id"] for c in answer.document["classes"]] == [0, 3]
