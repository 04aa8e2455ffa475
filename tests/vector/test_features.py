import math
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from feature_batches import LEGEND, NODATA, feature_batch, parts, random_map
from odc.geo.geobox import GeoBox

from geoseg.errors import LabelError
from geoseg.vector.features import Layer, class_names, regroup
from geoseg.vector.summary import Totals

GEOBOX = GeoBox((40, 50), Affine(10, 0, 5e5, 0, -10, 5.2e6), "EPSG:32631")


@pytest.fixture(scope="module")
def batch():
    confidence = np.random.default_rng(0).choice(np.array([*range(101), 255], np.uint8), (40, 50))
    return feature_batch(random_map(), GEOBOX, confidence=confidence)


def same(one, other):
    geometry = np.array_equal(one.outlines.to_shapely(), other.outlines.to_shapely())
    names = ("region_id", "class_id", "area_m2", "pixels", "min_confidence", "confidence_count")
    return geometry and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def joined(batches):
    (whole,) = regroup(batches, at_least=10**9, at_most=10**9)
    return whole


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(("at_least", "at_most", "points"), [(1, 3, 10**9), (50, 60, 10**9), (9, 99, 100)])
def test_regrouped_batches_hold_the_same_in_the_same_order(batch, size, at_least, at_most, points):
    lots = list(regroup(parts(batch, size), at_least=at_least, at_most=at_most, most_points=points))
    assert same(joined(lots), batch)
    assert all(0 < len(lot) < at_least + at_most for lot in lots)
    assert all(len(lot) >= at_least for lot in lots[:-1]) or size > at_most
    if size > at_most:
        assert all(len(lot.outlines.coords) <= points or len(lot) == 1 for lot in lots) or at_least > 1


def test_empty_batches_are_left_out(batch):
    nothing = batch.part(3, 3)
    assert list(regroup([nothing, nothing], at_least=1, at_most=9)) == []
    assert same(joined([nothing, batch, nothing]), batch)


def test_a_part_has_its_own_offsets(batch):
    part = batch.part(5, 9)
    expected = batch.outlines.take(np.arange(5, 9))
    assert np.array_equal(part.outlines.to_shapely(), expected.to_shapely())
    assert part.region_id.tolist() == batch.region_id[5:9].tolist()


@pytest.mark.parametrize("size", [1, 13, 10_000])
def test_totals_are_those_of_the_pixels_in_any_order(batch, size):
    totals = Totals()
    for part in reversed(parts(batch, size)):
        totals.add(part)
    classes = random_map()
    rows = {row.class_id: row for row in totals.rows(LEGEND)}
    assert totals.count == len(batch)
    assert list(rows) == [0, 1, 9]
    for i, row in rows.items():
        assert row.pixels == (classes == i).sum()
        assert row.polygons == (batch.class_id == i).sum()
        assert row.area_m2 == math.fsum(batch.area_m2[batch.class_id == i])
        assert row.area_change_m2 is None
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert rows[9].share == pytest.approx((classes == 9).sum() / (classes != NODATA).sum())


def test_mean_confidence_of_a_class_counts_pixels_not_polygons():
    classes = np.array([[0, 0, 0, 1, 0]], np.uint8)
    confidence = np.array([[10, 20, 255, 90, 70]], np.uint8)
    totals = Totals()
    totals.add(feature_batch(classes, GeoBox((1, 5), GEOBOX.affine, "EPSG:32631"), confidence=confidence))
    water, woods = (row for row in totals.rows(LEGEND) if row.polygons)
    assert water.mean_confidence == pytest.approx(100 / 3)
    assert woods.mean_confidence == 90


def test_the_change_of_area_is_that_of_the_outlines(batch):
    totals = Totals()
    totals.add(replace(batch, raw_area_m2=batch.area_m2 - 2.5))
    for row in totals.rows(LEGEND):
        assert row.area_change_m2 == 2.5 * row.polygons


def test_without_areas_shares_are_of_pixels(batch):
    totals = Totals()
    totals.add(replace(batch, area_m2=np.full(len(batch), np.nan)))
    rows = totals.rows(LEGEND)
    assert all(math.isnan(row.area_m2) for row in rows)
    assert [row.share for row in rows] == [row.pixels / sum(r.pixels for r in rows) for row in rows]


def test_codes_stand_for_ids():
    layer = Layer(geobox=GEOBOX, legend=LEGEND, codes={0: 111, 1: 70_000, 9: 3}, share_ids=(9, 0))
    assert layer.class_codes(np.array([9, 0, 1], np.uint8)).tolist() == [3, 111, 70_000]
    assert layer.share_names == ("share_3", "share_111")
    assert replace(layer, codes=None).share_names == ("share_9", "share_0")


def test_ids_without_a_name_are_refused():
    assert class_names(np.array([9, 0], np.uint8), LEGEND).tolist() == ["Äcker", "Water"]
    with pytest.raises(LabelError, match="found nodata, 255"):
        class_names(np.array([0, NODATA], np.uint8), LEGEND)
