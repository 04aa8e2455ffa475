from __future__ import annotations

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import rasterio.vrt
from rasterio.transform import from_origin

from geoseg.accuracy.assess import Accuracy, assess, design_sample
from geoseg.accuracy.points import read_points
from geoseg.errors import LabelError, OutputError, UsageError


@pytest.fixture
def scene_of_truth(make_raster, legend):
    """A map with errors of a known kind, and the truth: path, map ids, true ids."""
    rng = np.random.default_rng(4)
    true = rng.choice(legend.ids, (30, 40), p=[0.2, 0.5, 0.3]).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    mapped = true.copy()
    wrong = rng.random(true.shape) < 0.15
    mapped[wrong] = rng.choice(legend.ids, wrong.sum())
    mapped[:10, :50] = 255
    return make_raster(mapped, name="map.tif", nodata=255), mapped, true


def label(path, true: np.ndarray, legend, *, only: int | None = None, as_ids: bool = False) -> None:
    """Fills in what is truly at each point, as somebody would in a GIS."""
    points = pyogrio.read_dataframe(path, layer="points")
    col = ((points.geometry.x - 500_000) // 10).astype(int)
    row = ((5_200_000 - points.geometry.y) // 10).astype(int)
    names = dict(zip(legend.ids.tolist(), legend.names, strict=True))
    ids = true[row, col]
    points["label"] = [str(i) if as_ids else names[i] for i in ids.tolist()]
    if only is not None:
        points.loc[points.index >= only, "label"] = None
    rewrite(path, points)


def rewrite(path, points) -> None:
    tables = {n: pyogrio.read_dataframe(path, layer=n) for n in ("design", "strata", "origin")}
    path.unlink()
    pyogrio.write_dataframe(points, path, layer="points")
    for name, table in tables.items():
        pyogrio.write_dataframe(table, path, layer=name, append=True)


@pytest.fixture
def sample(scene_of_truth, tmp_path, legend):
    path, mapped, true = scene_of_truth
    out = tmp_path / "points.gpkg"
    design = design_sample(path, out, legend=legend, size=600, minimum=50, seed=3)
    return path, out, design, mapped, true


def test_the_file_to_be_labelled(sample, legend) -> None:
    path, out, design, mapped, _ = sample
    points = pyogrio.read_dataframe(out, layer="points")
    assert list(points.columns) == ["id", "label", "note", "geometry"]  # nothing tells what the map says
    assert points["label"].isna().all()
    assert points.crs.to_epsg() == 32631
    assert points["id"].tolist() == list(range(1, 601))
    assert [s.name for s in design.strata] == list(legend.names)
    assert [s.pixels for s in design.strata] == [(mapped == i).sum() for i in legend.ids]
    assert sum(s.points for s in design.strata) == design.points == 600
    assert ((points.geometry.x - 500_000) % 10 == 5).all()
    with rasterio.open(path) as dataset:
        there = [v[0] for v in dataset.sample(zip(points.geometry.x, points.geometry.y, strict=True))]
    told = pyogrio.read_dataframe(out, layer="design").set_index("id").loc[points["id"], "stratum"]
    assert legend.ids[told.to_numpy()].tolist() == there
    origin = pyogrio.read_dataframe(out, layer="origin")
    assert dict(zip(origin["key"], origin["value"], strict=True))["seed"] == "3"


@pytest.mark.parametrize("as_ids", [True, False])
def test_labelled_points_tell_what_is_true(sample, legend, tmp_path, as_ids) -> None:
    path, out, _, mapped, true = sample
    label(out, true, legend, as_ids=as_ids)
    found = assess(out, path, legend=legend, out=tmp_path / "accuracy.json")
    assert Accuracy.model_validate_json((tmp_path / "accuracy.json").read_bytes()) == found
    known = mapped != 255
    assert found.points == 600
    assert found.unlabelled_points == 0
    assert found.overall_accuracy.low < (mapped == true)[known].mean() < found.overall_accuracy.high
    assert found.area_m2 == pytest.approx(known.sum() * 100, rel=2e-3)
    assert sum(c.area_m2.value for c in found.classes) == pytest.approx(found.area_m2)
    for c, id_ in zip(found.classes, legend.ids, strict=True):
        assert abs(c.area_m2.value - (true[known] == id_).sum() * 100) < 4 * c.area_m2.standard_error
        assert c.mapped_m2 == pytest.approx((mapped == id_).sum() * 100, rel=2e-3)
        users = (mapped == true)[mapped == id_].mean()
        assert abs(c.users_accuracy.value - users) < 4 * c.users_accuracy.standard_error
        producers = (mapped == true)[known & (true == id_)].mean()
        assert abs(c.producers_accuracy.value - producers) < 4 * c.producers_accuracy.standard_error


def test_another_map_in_another_grid(sample, legend, make_raster) -> None:
    """Strata stay those of the map the points were drawn from."""
    path, out, _, _, true = sample
    label(out, true, legend)
    fine = true.repeat(2, 0).repeat(2, 1)
    fine[:, :100] = 255
    other = make_raster(fine, name="other.tif", nodata=255, transform=from_origin(500_000, 5_200_000, 5, 5))
    found = assess(out, other, legend=legend)
    assert all(c.mapped_m2 is None for c in found.classes)
    assert all(c.users_accuracy.value == 1.0 for c in found.classes)
    unmapped = sum(found.counts[-1])
    assert unmapped > 10
    assert found.overall_accuracy.value == pytest.approx(1 - sum(found.shares[-1]))
    moved = assess(out, path, legend=legend)
    assert [c.area_m2 for c in moved.classes] == [c.area_m2 for c in found.classes]


def test_a_map_in_another_crs(sample, legend, tmp_path) -> None:
    path, out, _, _, true = sample
    label(out, true, legend)
    with rasterio.open(path) as dataset, rasterio.vrt.WarpedVRT(dataset, crs="EPSG:3857", nodata=255) as view:
        profile = view.profile | {"driver": "GTiff"}
        with rasterio.open(tmp_path / "web.tif", "w", **profile) as copy:
            copy.write(view.read())
    found, own = (assess(out, p, legend=legend) for p in (tmp_path / "web.tif", path))
    assert np.abs(np.array(found.counts) - np.array(own.counts)).sum() < 0.15 * 600
    assert found.overall_accuracy.value == pytest.approx(own.overall_accuracy.value, abs=0.07)


def test_labels_that_are_missing_or_unknown(sample, legend) -> None:
    path, out, _, _, true = sample
    with pytest.raises(LabelError, match="a label for each of 600 points; found 0"):
        assess(out, path, legend=legend, labelled_only=True)
    label(out, true, legend, only=400)
    with pytest.raises(LabelError, match=r"found 400.*--labelled-only"):
        assess(out, path, legend=legend)
    found = assess(out, path, legend=legend, labelled_only=True)
    assert (found.points, found.unlabelled_points) == (400, 200)
    points = pyogrio.read_dataframe(out, layer="points")
    points["label"] = points["label"].replace({"forest": "wood"})
    points.loc[5, "label"] = "  "
    rewrite(out, points)
    with pytest.raises(LabelError, match=r"not in the legend.*found wood"):
        assess(out, path, legend=legend, labelled_only=True)
    named = assess(out, path, legend=legend, labelled_only=True, classes={"wood": "forest"})
    assert named.points == 399
    with pytest.raises(UsageError, match="'tree', which is not in the legend"):
        assess(out, path, legend=legend, labelled_only=True, classes={"wood": "tree"})


def test_a_stratum_with_one_point_left(sample, legend) -> None:
    path, out, _, _, true = sample
    label(out, true, legend)
    points = pyogrio.read_dataframe(out, layer="points")
    stratum = pyogrio.read_dataframe(out, layer="design")["stratum"]
    points = points.drop(points.index[(stratum == 0).to_numpy()][1:])
    rewrite(out, points)
    assert read_points(out).drawn == 600
    with pytest.raises(LabelError, match="fewer in water"):
        assess(out, path, legend=legend, labelled_only=True)


@pytest.mark.parametrize("how", ["moved", "doubled", "added", "other"])
def test_points_that_are_not_those_drawn(sample, legend, tmp_path, how) -> None:
    path, out, _, _, true = sample
    label(out, true, legend)
    points = pyogrio.read_dataframe(out, layer="points")
    if how == "moved":
        points.geometry = points.geometry.translate(0.5)
        message = "points where they were drawn"
    elif how == "doubled":
        points = pd.concat([points, points.iloc[:1]])
        message = "ids that occur once; found others: id 1"
    elif how == "added":
        points = pd.concat([points, points.iloc[:1].assign(id=999)])
        message = "points that were drawn; found others: id 999"
    else:
        message = "layers points, design and strata"
    if how == "other":
        out = tmp_path / "other.gpkg"
        pyogrio.write_dataframe(points, out, layer="points")
    else:
        rewrite(out, points)
    with pytest.raises(LabelError, match=message):
        assess(out, path, legend=legend)


def test_sizes_from_a_standard_error(scene_of_truth, legend, tmp_path) -> None:
    path, *_ = scene_of_truth
    out = tmp_path / "points.gpkg"
    hoped = {"water": 0.5, "*": 0.5}
    design = design_sample(path, out, legend=legend, standard_error=0.025, expected=hoped)
    assert design.points == 400
    with pytest.raises(OutputError, match="may have been labelled"):
        design_sample(path, out, legend=legend, size=300)
    again = design_sample(path, out, legend=legend, size=300, overwrite=True)
    assert len(pyogrio.read_dataframe(again.path, layer="points")) == 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "say either how many"),
        ({"size": 200, "standard_error": 0.1}, "say either how many"),
        ({"standard_error": 0.1}, "only with the user's accuracies"),
        ({"size": 300, "allocation": "neyman", "expected": {"water": 0.5}}, "do not fit the legend"),
        ({"size": 300, "expected": {"lake": 0.5, "*": 0.5}}, "lake"),
    ],
)
def test_numbers_that_do_not_go_together(scene_of_truth, legend, tmp_path, given, message) -> None:
    with pytest.raises(UsageError, match=message):
        design_sample(scene_of_truth[0], tmp_path / "points.gpkg", legend=legend, **given)
    with pytest.raises(UsageError, match=r"ends in \.gpkg"):
        design_sample(scene_of_truth[0], tmp_path / "points.shp", legend=legend, size=300)


def test_labels_typed_into_a_number_column(sample, legend) -> None:
    """A GIS may have made numbers of ids."""
    path, out, _, _, true = sample
    label(out, true, legend, as_ids=True)
    wanted = assess(out, path, legend=legend)
    points = pyogrio.read_dataframe(out, layer="points")
    points["label"] = points["label"].astype(float)
    rewrite(out, geopandas.GeoDataFrame(points))
    assert assess(out, path, legend=legend) == wanted
