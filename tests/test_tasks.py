from __future__ import annotations

import numpy as np
import pytest

import geoseg
from geoseg.raster.read import Pixels
from geoseg.tasks import suspects, tally


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
    everything = (slice(None), slice(None))
    assert suspects(Pixels(values=values, valid=valid), everything) == {0: 1, 255: 1}
    assert suspects(Pixels(values=values[:2], valid=valid), everything) == {}
    assert suspects(Pixels(values=values.astype(float), valid=valid), everything) == {}


@pytest.mark.parametrize(("nodata", "warned"), [(None, True), (255, False)])
def test_undeclared_nodata_is_warned_of(make_raster, package, tmp_path, nodata, warned) -> None:
    values = np.random.default_rng(0).integers(1, 250, (3, 90, 80), dtype=np.uint8)
    values[:, :30] = 255
    path = make_raster(values, descriptions=("red", "green", "blue"))
    scene = geoseg.open_scene(path, nodata=nodata)
    manifest = geoseg.predict(scene, geoseg.load_model(package), tmp_path / "out").manifest
    assert bool(manifest.warnings) is warned
    if warned:
        assert "33.3 % of the pixels hold 255 in every band" in manifest.warnings[0]
        assert "--nodata 255" in manifest.warnings[0]
