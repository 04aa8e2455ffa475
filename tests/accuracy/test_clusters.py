from __future__ import annotations

import geopandas
import numpy as np
import pytest
import shapely

from geoseg.accuracy.clusters import PolygonIntervals
from geoseg.errors import UsageError
from geoseg.evaluation import evaluate
from geoseg.metrics import Scores
from geoseg.windows import Window


def matrices_of(rng, polygons: int, *, spread: float) -> np.ndarray:
    """Two classes; each polygon of 100 pixels has an accuracy of its own."""
    found = np.zeros((polygons, 2, 3), np.int64)
    for i in range(polygons):
        right = int(100 * np.clip(rng.normal(0.8, spread), 0, 1))
        found[i, i % 2, i % 2], found[i, i % 2, 1 - i % 2] = right, 100 - right
    return found


def test_values_are_the_scores_of_all_polygons() -> None:
    matrices = matrices_of(np.random.default_rng(0), 21, spread=0.2)
    matrices[3, 1, 2] = 5  # pixels without a prediction
    found, scores = PolygonIntervals.of(matrices), Scores.of(matrices.sum(axis=0))
    assert found.polygons == 21
    assert found.overall_accuracy.value == pytest.approx(scores.overall_accuracy)
    assert found.mean_iou.value == pytest.approx(scores.mean_iou)
    for mine, theirs in zip(found.classes, scores.classes, strict=True):
        assert mine.iou.value == pytest.approx(theirs.iou)
        assert mine.producers_accuracy.value == pytest.approx(theirs.producers_accuracy)
        assert mine.users_accuracy.value == pytest.approx(theirs.users_accuracy)
        assert mine.iou.low < mine.iou.value < mine.iou.high
    assert [c.polygons for c in found.classes] == [11, 10]
    assert PolygonIntervals.of(matrices) == found
    assert PolygonIntervals.of(matrices, seed=1) != found


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """60 polygons whose accuracies vary by 0.2: were pixels independent, intervals would be narrow."""
    rng = np.random.default_rng(1)
    held = narrow = 0
    for _ in range(150):
        found = PolygonIntervals.of(matrices_of(rng, 60, spread=0.2), draws=300).overall_accuracy
        truth = 0.7833  # the mean of a normal distribution cut off at 1
        held += found.low <= truth <= found.high
        alone = 1.96 * np.sqrt(found.value * (1 - found.value) / 6000)
        narrow += abs(found.value - truth) <= alone
    assert held >= 130
    assert narrow < 110


def test_one_polygon_says_nothing_about_others() -> None:
    matrices = matrices_of(np.random.default_rng(0), 4, spread=0.1)[[0, 1, 2]]
    found = PolygonIntervals.of(matrices)
    assert [c.polygons for c in found.classes] == [2, 1]
    assert found.classes[0].iou is not None
    assert found.classes[1].iou is None
    assert PolygonIntervals.of(np.zeros((3, 2, 3), np.int64)) is None


def test_of_a_map_and_polygons(make_raster, legend, tmp_path) -> None:
    rng = np.random.default_rng(5)
    predicted = rng.choice(legend.ids, (60, 80), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    path = make_raster(predicted, name="map.tif", nodata=255)
    corners = [(x, y) for x in range(0, 700, 100) for y in range(0, 500, 100)]
    shapes = [shapely.box(500_000 + x, 5_199_950 - y, 500_055 + x, 5_199_995 - y) for x, y in corners]
    kinds = ["water", "forest", "none"] * 11 + ["water", "forest"]
    frame = geopandas.GeoDataFrame({"kind": kinds}, geometry=shapes, crs="EPSG:32631")
    frame.to_file(tmp_path / "truth.gpkg")
    reference = {"legend": legend, "column": "kind", "classes": {"none": None}}
    window = Window(0, 0, 60, 45)
    result = evaluate(path, tmp_path / "truth.gpkg", **reference, window=window, intervals=True)
    found = result.intervals
    assert found.overall_accuracy.value == pytest.approx(result.scores.overall_accuracy)
    assert found.mean_iou.value == pytest.approx(result.scores.mean_iou)
    inside = [k for k, (x, _) in zip(kinds, corners, strict=True) if x < 450]
    assert [c.polygons for c in found.classes] == [inside.count("water"), inside.count("forest"), 0]
    raster = make_raster(predicted, name="truth.tif", nodata=255)
    with pytest.raises(UsageError, match="no independent observations"):
        evaluate(path, raster, legend=legend, intervals=True)
    assert evaluate(path, raster, legend=legend).intervals is None
