from __future__ import annotations

import geopandas
import numpy as np
import pytest
import shapely

import geoseg.evaluate
from geoseg.errors import LabelError, SceneError, UsageError
from geoseg.evaluate import EvaluateEvent, Evaluation, evaluate
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
def test_a_raster_against_counting(maps, legend, tmp_path, monkeypatch, window, block_px) -> None:
    monkeypatch.setattr(geoseg.evaluate, "_BLOCK_PX", block_px)
    map_path, truth_path, predicted, reference = maps
    part = (window or Window(0, 0, *SHAPE)).slices()
    events: list[EvaluateEvent] = []
    out = tmp_path / "metrics.json"
    result = evaluate(map_path, truth_path, legend=legend, window=window, out=out, on_progress=events.append)
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


def test_a_missing_map(maps, tmp_path, legend) -> None:
    with pytest.raises(SceneError, match="no such file"):
        evaluate(tmp_path / "nothing.tif", maps[1], legend=legend)
