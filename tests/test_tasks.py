from __future__ import annotations

import numpy as np
import pytest

import geoseg
from geoseg.tasks import TileDone, moments, suspects, tally


def test_tally_counts_pixels_and_area_of_the_ids_that_occur() -> None:
    classes = np.array([[3, 3, 255], [0, 3, 0]], np.uint8)
    areas = np.array([[1.0], [2.0]]) * np.ones((2, 3))
    assert tally(classes, areas) == ({0: 2, 3: 3, 255: 1}, {0: 4.0, 3: 4.0, 255: 1.0})


def test_suspects_are_valid_pixels_with_one_extreme_in_every_band() -> None:
    values = np.full((3, 2, 4), 7, np.uint8)
    values[:, 0, 0] = 255  # suspicious
    values[:, 0, 1] = 0  # suspicious
    values[:2, 0, 2] = 255  # saturated in two bands only
    values[:, 1, 3] = 255  # declared as nodata
    valid = np.ones((2, 4), bool)
    valid[1, 3] = False
    assert suspects(values, valid) == {0: 1, 255: 1}
    assert suspects(values[:2], valid) == {}
    assert suspects(values.astype(float), valid) == {}


@pytest.mark.parametrize(("nodata", "warned"), [(None, True), (255, False)])
def test_undeclared_nodata_is_warned_of(make_raster, package, tmp_path, nodata, warned) -> None:
    values = np.random.default_rng(0).integers(1, 250, (3, 90, 80), dtype=np.uint8)
    values[:, :30] = 255
    path = make_raster(values, descriptions=("red", "green", "blue"))
    scene = geoseg.open_scene(path, nodata=nodata)
    manifest = geoseg.predict(scene, geoseg.load_model(package), tmp_path / "out").manifest
    assert bool(manifest.warnings) is warned
    if warned:
        assert "34.8 % of the pixels hold 255 in every band" in manifest.warnings[0]
        assert "--nodata 255" in manifest.warnings[0]


@pytest.mark.parametrize(("scale", "warned"), [(None, False), (10.0, True), (0.001, True)])
def test_values_in_other_units_are_warned_of(make_raster, package, tmp_path, scale, warned) -> None:
    """A map of nonsense with exit code 0 is what other tools give then."""
    card = geoseg.load_model(package).card
    rng = np.random.default_rng(0)
    values = [np.clip(rng.normal(b.mean, b.std, (90, 80)), 1, 254) for b in card.bands]
    scene = geoseg.open_scene(make_raster(np.array(values, np.uint8), descriptions=card.band_names))
    options = geoseg.PredictOptions(mapping=geoseg.Mapping(scale=scale))
    outcome = geoseg.predict(scene, geoseg.load_model(package), tmp_path / "out", options=options)
    unlike = [w for w in outcome.manifest.warnings if "unlike those the model" in w]
    assert bool(unlike) is warned
    if warned:
        assert f"{card.bands[0].name}: mean" in unlike[0]


def test_moments_are_sums_by_band() -> None:
    normal = np.random.default_rng(1).normal(size=(3, 7, 5)).astype(np.float32)
    sums, squares = moments(normal)
    assert np.allclose(sums, normal.sum(axis=(1, 2)), atol=1e-5)
    assert np.allclose(squares, (normal.astype(float) ** 2).sum(axis=(1, 2)))


def test_a_record_survives_its_part() -> None:
    done = TileDone(
        row=1, col=2, pixels={0: 5, 255: 3}, area_m2={0: 0.1 + 0.2}, patches=4, seconds=0.5,
        looked_at=9, suspects={255: 1}, sums=[0.25, -1e-9], squares=[1.0, 2.0],
    )  # fmt: skip
    assert TileDone.from_array(done.to_array()) == done
