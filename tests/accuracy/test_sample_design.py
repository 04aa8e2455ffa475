from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.accuracy.layers import CHUNK_PX, open_map
from geoseg.accuracy.sampling import MapSurvey, allocate, draw_points, sample_size, survey_map
from geoseg.errors import LabelError, UsageError
from geoseg.raster.aoi import Aoi, read_aoi
from geoseg.raster.scene import open_scene
from geoseg.windows import Window


def survey_of(*pixels: int) -> MapSurvey:
    counts = np.array(pixels, np.int64)
    return MapSurvey(pixels=counts, area_m2=counts * 100.0, by_chunk=counts[None])


@pytest.fixture
def class_map(make_raster, legend):
    """A map of several chunks, with a rare class: scene, reader, class indices."""
    rng = np.random.default_rng(0)
    index = rng.choice([0, 1, 255], (CHUNK_PX + 60, CHUNK_PX + 9), p=[0.7, 0.25, 0.05]).astype(np.uint8)
    index[100:104, 500:520] = 2
    scene = open_scene(make_raster(legend.decode(index), name="map.tif", nodata=255))
    return scene, open_map(Path(scene.paths[0]), scene=scene, legend=legend), index


def test_survey_counts_and_measures(class_map) -> None:
    scene, read, index = class_map
    found = survey_map(read, scene, classes=3)
    assert found.pixels.tolist() == [(index == k).sum() for k in range(3)]
    assert found.area_m2 == pytest.approx(found.pixels * 100, rel=2e-3)  # UTM is not quite true to area
    box = Aoi(extent=Window(98, 490, 20, 60))
    part = survey_map(read, scene, classes=3, aoi=box)
    assert part.pixels.tolist() == [(index[98:118, 490:550] == k).sum() for k in range(3)]
    with pytest.raises(LabelError, match="nothing to sample"):
        survey_map(lambda w: np.full(w.shape, 255, np.uint8), scene, classes=3)


def test_the_sample_size_of_olofsson_2014() -> None:
    """Section 5.1.1: user's accuracies of 0.70, 0.60, 0.90 and 0.95, a standard error of 0.01: 641 points."""
    share, expected = np.array([0.02, 0.015, 0.32, 0.645]), np.array([0.7, 0.6, 0.9, 0.95])
    assert sample_size(share, expected, standard_error=0.01) == 641
    with pytest.raises(UsageError, match="between 0 and 1"):
        sample_size(share, expected * 100, standard_error=0.01)
    with pytest.raises(UsageError, match="standard error must lie"):
        sample_size(share, expected, standard_error=1.0)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6).filter(any),
    st.integers(2, 2000),
    st.integers(2, 60),
    st.sampled_from(["proportional", "equal", "neyman"]),
)
def test_shares_add_up_and_nobody_gets_too_few_or_too_many(pixels, size, minimum, how) -> None:
    survey = survey_of(*pixels)
    least = np.minimum(minimum, survey.pixels)
    expected = np.linspace(0.5, 1.0, len(pixels)) if how == "neyman" else None
    if how == "neyman" and not (survey.pixels * (expected < 1)).any():
        return
    if least.sum() > size:
        with pytest.raises(UsageError, match="cannot be shared"):
            allocate(size, survey, how=how, minimum=minimum, expected=expected)
        return
    counts = allocate(size, survey, how=how, minimum=minimum, expected=expected)
    assert counts.sum() == min(size, survey.pixels.sum())
    assert (counts >= least).all()
    assert (counts <= survey.pixels).all()


def test_what_each_allocation_means() -> None:
    survey = survey_of(600_000, 300_000, 100_000)
    assert allocate(100, survey, minimum=2).tolist() == [60, 30, 10]
    assert allocate(99, survey, how="equal", minimum=2).tolist() == [33, 33, 33]
    # W sqrt(U (1 - U)) is 0.24, 0.15 and 0.04.
    expected = np.array([0.8, 0.5, 0.8])
    assert allocate(430, survey, how="neyman", minimum=2, expected=expected).tolist() == [240, 150, 40]
    # The rare class is lifted to 50; the others share the remaining 350 by two to one.
    assert allocate(400, survey, minimum=50).tolist() == [233, 117, 50]
    with pytest.raises(UsageError, match="neyman needs to know"):
        allocate(100, survey, how="neyman", minimum=2)


@pytest.mark.parametrize("counts", [(40, 30, 20), (0, 5, 80)])
def test_points_are_where_the_map_says_and_none_comes_twice(class_map, counts) -> None:
    scene, read, index = class_map
    found = survey_map(read, scene, classes=3)
    drawn = draw_points(read, scene, found, np.array(counts), seed=1)
    assert np.bincount(drawn.index, minlength=3).tolist() == list(counts)
    assert (index[drawn.row, drawn.col] == drawn.index).all()
    assert len(set(zip(drawn.row.tolist(), drawn.col.tolist(), strict=True))) == sum(counts)
    again, other = (draw_points(read, scene, found, np.array(counts), seed=s) for s in (1, 2))
    assert (again.row == drawn.row).all()
    assert (other.row != drawn.row).any()


def test_every_pixel_of_a_class_is_as_likely_and_order_tells_nothing(class_map) -> None:
    """The 80 pixels of the rare class over 400 draws of 20: each expects 100."""
    scene, read, _ = class_map
    part = Aoi(extent=Window(90, 480, 30, 80))  # across two chunks
    found = survey_map(read, scene, classes=3, aoi=part)
    times, place = np.zeros((4, 20)), []
    for seed in range(400):
        drawn = draw_points(read, scene, found, np.array([20, 0, 20]), seed=seed, aoi=part)
        rare = drawn.index == 2
        np.add.at(times, (drawn.row[rare] - 100, drawn.col[rare] - 500), 1)
        place.append(np.flatnonzero(rare).mean())
    assert times.sum() == 400 * 20
    # Of 79 degrees of freedom, 125 is exceeded once in a thousand; draws without replacement vary less.
    assert ((times - 100) ** 2 / 100).sum() < 125
    assert np.mean(place) == pytest.approx(19.5, abs=0.5)


def test_points_lie_inside_the_area(class_map, tmp_path) -> None:
    scene, read, _ = class_map
    triangle = shapely.Polygon([(500_100, 5_199_900), (504_000, 5_199_000), (500_500, 5_196_000)])
    geopandas.GeoDataFrame(geometry=[triangle], crs="EPSG:32631").to_file(tmp_path / "area.gpkg")
    area = read_aoi(tmp_path / "area.gpkg", None, scene)
    found = survey_map(read, scene, classes=3, aoi=area)
    drawn = draw_points(read, scene, found, np.array([50, 50, 0]), seed=0, aoi=area)
    x, y = 500_000 + 10 * (drawn.col + 0.5), 5_200_000 - 10 * (drawn.row + 0.5)
    assert shapely.contains_xy(triangle, x, y).all()
