from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely

from geoseg.errors import LabelError, SceneError, UsageError
from geoseg.evaluation import EvaluateEvent, Evaluation, evaluate
from geoseg.legend import CodedLegend
from geoseg.polygonize import vectorize
from geoseg.raster.aoi import read_aoi
from geoseg.raster.legends import legend_tag
from geoseg.raster.scene import open_scene
from geoseg.sieve import parse_area
from geoseg.vector.options import PolygonOptions
from geoseg.windows import Window

SHAPE = (30, 47)


@pytest.fixture
def maps(make_raster, legend):
    """A class raster and reference labels, both with unknown pixels: paths and arrays."""
    rng = np.random.default_rng(0)
    values = [*legend.ids, legend.nodata]
    predicted, reference = (rng.choice(values, SHAPE, p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8) for _ in "ab")
    paths = make_raster(predicted, name="map.tif", nodata=255), make_raster(reference, name="truth.tif")
    return *paths, predicted, reference


def counted(predicted, reference, legend) -> list[list[int]]:
    """The confusion matrix, pixel by pixel."""
    matrix = [[0] * (len(legend) + 1) for _ in legend.classes]
    column = {id_: i for i, id_ in enumerate([*legend.ids.tolist(), legend.nodata])}
    for p, r in zip(predicted.ravel().tolist(), reference.ravel().tolist(), strict=True):
        if r != legend.nodata:
            matrix[column[r]][column[p]] += 1
    return matrix


@pytest.mark.parametrize("block_px", [2048, 7])
@pytest.mark.parametrize("window", [None, Window(3, 5, 20, 31)])
def test_a_raster_against_counting(maps, legend, tmp_path, window, block_px) -> None:
    map_path, truth_path, predicted, reference = maps
    part = (window or Window(0, 0, *SHAPE)).slices()
    events: list[EvaluateEvent] = []
    out = tmp_path / "metrics.json"
    result = evaluate(
        map_path,
        truth_path,
        legend=legend,
        window=window,
        out=out,
        block_px=block_px,
        on_progress=events.append,
    )
    expected = counted(predicted[part], reference[part], legend)
    assert [list(row) for row in result.confusion] == expected
    assert result.pixels == predicted[part].size
    assert result.ignored_px == (reference[part] == 255).sum()
    assert result.scores.unpredicted_px == sum(row[-1] for row in expected) > 0
    known = reference[part] != 255
    agree = (predicted[part] == reference[part])[known]
    assert result.scores.overall_accuracy == pytest.approx(agree.mean())
    forest = (predicted[part] == 7) & known, reference[part] == 7
    iou = (forest[0] & forest[1]).sum() / (forest[0] | forest[1]).sum()
    assert result.scores.classes[1].iou == pytest.approx(iou)
    assert Evaluation.model_validate_json(out.read_bytes()) == result
    assert events[-1] == EvaluateEvent(done_px=result.pixels, total_px=result.pixels)


def test_parts_add_up(maps, legend) -> None:
    map_path, truth_path, *_ = maps
    parts = [
        evaluate(map_path, truth_path, legend=legend, window=w).confusion
        for w in (Window(0, 0, 30, 20), Window(0, 20, 30, 27))
    ]
    whole = evaluate(map_path, truth_path, legend=legend).confusion
    assert (np.sum(parts, axis=0) == np.array(whole)).all()


def test_a_reference_with_other_values(maps, make_raster, legend) -> None:
    map_path, _, predicted, reference = maps
    other = make_raster(reference.astype(np.int16) * 10, name="other.tif")
    result = evaluate(map_path, other, legend=legend, remap={0: 0, 70: 7, 30: None, 2550: None})
    kept = np.where(reference == 3, 255, reference)
    assert [list(row) for row in result.confusion] == counted(predicted, kept, legend)
    assert result.scores.classes[2].iou is None


def test_polygons_as_reference(make_raster, tmp_path, legend) -> None:
    predicted = np.full(SHAPE, 7, np.uint8)
    predicted[:, 20:] = 0
    path = make_raster(predicted, name="map.tif", nodata=255)
    boxes = [
        shapely.box(500_000, 5_199_900, 500_300, 5_200_000),
        shapely.box(500_000, 5_199_700, 500_050, 5_199_750),
    ]
    frame = geopandas.GeoDataFrame({"kind": ["wood", "water"]}, geometry=boxes, crs="EPSG:32631")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "truth.gpkg", layer="truth", engine="pyogrio")
    result = evaluate(
        path, tmp_path / "truth.gpkg", legend=legend, column="kind", layer="truth", classes={"wood": "forest"}
    )
    assert [list(row) for row in result.confusion] == [[0, 25, 0, 0], [100, 200, 0, 0], [0, 0, 0, 0]]
    assert result.ignored_px == 30 * 47 - 325


def test_nothing_to_compare(maps, make_raster, tmp_path, legend) -> None:
    map_path, *_ = maps
    empty = make_raster(np.full(SHAPE, 255, np.uint8), name="empty.tif")
    with pytest.raises(LabelError, match="there is nothing to compare"):
        evaluate(map_path, empty, legend=legend, out=tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()


def test_a_map_of_another_legend_is_refused(maps, make_raster, legend) -> None:
    _, truth_path, *_ = maps
    other = make_raster(np.full(SHAPE, 42, np.uint8), name="other.tif")
    with pytest.raises(LabelError, match=r"neither a class nor nodata: .*other\.tif.*found 42"):
        evaluate(other, truth_path, legend=legend)


@pytest.mark.parametrize("window", [Window(0, 0, 31, 5), Window(-1, 0, 5, 5), Window(2, 2, 0, 5)])
def test_windows_outside_the_map(maps, legend, window) -> None:
    with pytest.raises(UsageError, match="not inside the map"):
        evaluate(maps[0], maps[1], legend=legend, window=window)


def test_settings_that_contradict_each_other(maps, legend) -> None:
    with pytest.raises(UsageError, match="is for rasters"):
        evaluate(maps[0], maps[1], legend=legend, column="kind", remap={1: 3})


def patchy(legend, shape, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Class ids of a map and its reference, alike but for noise and a shift."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(legend.ids, (-(-shape[0] // 9), -(-shape[1] // 9)))
    reference = coarse.repeat(9, 0).repeat(9, 1)[: shape[0], : shape[1]].astype(np.uint8)
    predicted = np.roll(reference, 1, 1)
    predicted[rng.random(shape) < 0.1] = legend.ids[1]
    predicted[-6:, :9] = legend.nodata
    reference[rng.random(shape) < 0.05] = legend.nodata
    return predicted, reference


@pytest.fixture
def product(make_raster, legend, tmp_path):
    """A map with all that is scored, several chunks wide: keyword arguments, and the arrays."""
    predicted, reference = patchy(legend, (530, 700), seed=3)
    confidence = np.where(predicted == legend.nodata, 255, 40 + 60 * (predicted == reference)).astype(
        np.uint8
    )
    confidence[::7] = np.minimum(confidence[::7], 70)
    path = make_raster(predicted, name="map.tif", nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**legend_tag(legend))
    how = PolygonOptions(min_area=parse_area("20px"))
    vectorize(path, tmp_path / "map.gpkg", legend=CodedLegend.of(legend), options=how)
    files = {
        "polygons": tmp_path / "map.gpkg",
        "confidence": make_raster(
            confidence, name="sure.tif", nodata=255, descriptions=("probability, percent",)
        ),
    }
    truth = make_raster(reference, name="truth.tif", nodata=255)
    return (path, truth), files, predicted, reference, confidence


@pytest.mark.parametrize("area", ["window", "aoi", "all"])
def test_blocks_of_any_size_give_the_same_numbers(product, legend, tmp_path, area) -> None:
    (path, truth), files, *_ = product
    part: dict[str, object] = {}
    if area == "window":
        part = {"window": Window(13, 100, 400, 333)}
    elif area == "aoi":
        triangle = shapely.Polygon([(500_100, 5_199_990), (506_000, 5_197_000), (500_500, 5_195_000)])
        geopandas.GeoDataFrame(geometry=[triangle], crs="EPSG:32631").to_file(tmp_path / "area.gpkg")
        part = {"aoi": read_aoi(tmp_path / "area.gpkg", None, open_scene(path))}
    whole, *others = (
        evaluate(path, truth, legend=legend, **files, **part, block_px=side, tolerance_m=35.0)
        for side in (1000, 97, 256)
    )
    assert all(other == whole for other in others)
    assert whole.boundary.tolerance_m == 35.0
    assert 0 < whole.boundary.mean_iou < whole.boundary.mean_f1 < 1
    assert whole.polygons.disagreement_px > 0
    assert whole.reliability.pixels + whole.scores.unpredicted_px == whole.scores.pixels
    if area == "all":
        assert whole.scores.unpredicted_px > 0
    found = sum(g.objects for groups in whole.objects.classes for g in groups)
    assert found > 20
    assert Evaluation.model_validate_json(whole.to_json()) == whole


def test_only_what_lies_in_the_area_counts(product, legend, tmp_path) -> None:
    (path, truth), files, predicted, reference, _ = product
    scene = open_scene(path)
    triangle = shapely.Polygon([(500_100, 5_199_990), (506_000, 5_197_000), (500_500, 5_195_000)])
    geopandas.GeoDataFrame(geometry=[triangle], crs="EPSG:32631").to_file(tmp_path / "area.gpkg")
    aoi = read_aoi(tmp_path / "area.gpkg", None, scene)
    inside = aoi.mask(scene.window, scene.geobox)
    result = evaluate(path, truth, legend=legend, aoi=aoi, **files)
    assert result.pixels == result.polygons.compared_px == inside.sum()
    kept = np.where(inside, reference, 255)
    assert [list(row) for row in result.confusion] == counted(predicted, kept, legend)
    per_class = [sum(g.pixels for g in groups) for groups in result.objects.classes]
    assert per_class == [(kept == i).sum() for i in legend.ids]


def test_confidence_of_pixels_that_have_one(product, legend) -> None:
    (path, truth), files, predicted, reference, confidence = product
    found = evaluate(path, truth, legend=legend, confidence=files["confidence"]).reliability
    told = (reference != 255) & (predicted != 255)
    assert found.pixels == told.sum()
    assert found.mean_confidence == pytest.approx(confidence[told].mean() / 100)
    group = next(g for g in found.groups if g.from_percent == 61)
    at_70 = told & (confidence == 70)
    assert (group.pixels, group.confidence) == (at_70.sum(), pytest.approx(0.7))
    assert group.accuracy == pytest.approx((predicted == reference)[at_70].mean())


def test_a_confidence_that_cannot_be_judged(product, make_raster, legend) -> None:
    (path, truth), _, *_, confidence = product
    margin = make_raster(
        confidence, name="margin.tif", descriptions=("lead over the next class, percent",), nodata=255
    )
    with pytest.raises(LabelError, match="found lead over the next class"):
        evaluate(path, truth, legend=legend, confidence=margin)
    small = make_raster(confidence[:9], name="small.tif", nodata=255)
    with pytest.raises(LabelError, match="does not belong to the map"):
        evaluate(path, truth, legend=legend, confidence=small)


def test_polygons_are_scored_beside_their_raster_and_alone(product, legend) -> None:
    """Small regions were dissolved: the cleaned raster is what the polygons are made of."""
    (path, truth), files, predicted, reference, _ = product
    result = evaluate(path, truth, legend=legend, polygons=files["polygons"]).polygons
    frame = geopandas.read_file(files["polygons"], layer=0)
    burnt = rasterio.features.rasterize(
        zip(frame.geometry, frame["class_id"], strict=True),
        out_shape=predicted.shape,
        fill=255,
        transform=rasterio.transform.from_origin(500_000, 5_200_000, 10, 10),
        dtype="uint8",
    )
    assert (burnt != predicted).sum() == result.disagreement_px > 100
    assert [list(row) for row in result.confusion] == counted(burnt, reference, legend)
    alone = evaluate(files["polygons"], truth, legend=legend)
    assert alone.confusion == result.confusion
    assert alone.scores == result.scores


def test_polygons_in_another_crs_and_against_polygons(product, legend, tmp_path) -> None:
    (path, truth), files, predicted, *_ = product
    frame = geopandas.read_file(files["polygons"], layer=0)
    frame.to_crs("EPSG:4326").to_file(tmp_path / "degrees.gpkg", layer="map")
    own, other = (
        evaluate(p, truth, legend=legend, tolerance_m=None, object_edges_px=None)
        for p in (files["polygons"], tmp_path / "degrees.gpkg")
    )
    assert other.boundary is other.objects is None
    assert np.abs(np.array(own.confusion) - np.array(other.confusion)).sum() <= 4
    reference = tmp_path / "degrees.gpkg"
    with pytest.raises(UsageError, match="no grid to compare polygons with polygons on"):
        evaluate(files["polygons"], reference, legend=legend, column="class_name")
    same = evaluate(files["polygons"], reference, legend=legend, column="class_name", grid=path)
    assert same.scores.overall_accuracy > 0.9999
    assert same.pixels == predicted.size
    with pytest.raises(UsageError, match="scored on its own grid"):
        evaluate(path, truth, legend=legend, grid=path)


def test_polygons_that_cannot_be_scored(product, legend, tmp_path) -> None:
    (path, truth), files, *_ = product
    frame = geopandas.read_file(files["polygons"], layer=0)[["class_id", "geometry"]]
    cases = {
        "an attribute class_id": frame.rename(columns={"class_id": "kind"}),
        "class ids of the legend: 0, 7, 3; found 9": frame.assign(class_id=9),
        "one layer of polygons; found none": frame.set_geometry(frame.centroid),
    }
    for number, (message, wrong) in enumerate(cases.items()):
        wrong.to_file(tmp_path / f"{number}.gpkg")
        with pytest.raises(LabelError, match=message):
            evaluate(path, truth, legend=legend, polygons=tmp_path / f"{number}.gpkg")
    (tmp_path / "text.gpkg").write_text("no")
    with pytest.raises(LabelError, match="a vector file"):
        evaluate(path, truth, legend=legend, polygons=tmp_path / "text.gpkg")
    with pytest.raises(UsageError, match="no polygons that can be scored"):
        evaluate(path, truth, legend=legend, polygons=path)


def test_what_is_absent_is_said_and_tolerances_have_a_least(product, make_raster, legend) -> None:
    (path, truth), _, _, reference, _ = product
    dry = make_raster(np.where(reference == 0, 255, reference).astype(np.uint8), name="dry.tif", nodata=255)
    result = evaluate(path, dry, legend=legend)
    assert result.absent == ("water",)
    assert result.boundary.classes[0].iou is None
    assert result.boundary.tolerance_m == pytest.approx(20, rel=2e-3)
    assert evaluate(path, truth, legend=legend).absent == ()
    with pytest.raises(UsageError, match=r"at least a pixel of map, 10"):
        evaluate(path, truth, legend=legend, tolerance_m=9.0)


def test_a_missing_map(maps, tmp_path, legend) -> None:
    with pytest.raises(SceneError, match="no such file"):
        evaluate(tmp_path / "nothing.tif", maps[1], legend=legend)
