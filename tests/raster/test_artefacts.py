from __future__ import annotations

import numpy as np
import pytest

from geoseg import seams
from geoseg.errors import SceneError
from geoseg.raster.artefacts import score_grid
from geoseg.seams import Grid, Tally, tally
from geoseg.windows import Window


@pytest.fixture
def classes() -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 3, (900, 700)).astype(np.uint8)
    values[100:400, 200:300] = 255
    return values


@pytest.mark.parametrize("pane", [256, 4096])
def test_the_score_of_a_file_is_that_of_its_pixels(make_raster, monkeypatch, classes, pane) -> None:
    monkeypatch.setattr(seams, "PANE_PX", pane)
    grid = Grid(rows=(128, 256, 600), cols=(320,), stride_px=32)
    path = make_raster(classes, nodata=255, tiled=True, blockxsize=256, blockysize=256)
    whole = Window(0, 0, 900, 700)
    expected = tally(lambda w: classes[w.slices()], whole, grid, shape=(900, 700), nodata=255).score()
    found = score_grid(path, grid, nodata=255, threads=2)
    assert found is not None
    assert expected is not None
    assert (found.pairs, found.on) == (expected.pairs, expected.on)
    assert (found.off, found.ratio, found.z) == pytest.approx((expected.off, expected.ratio, expected.z))


def test_no_lines_no_score(make_raster, classes) -> None:
    assert score_grid(make_raster(classes), Grid(rows=(), cols=(), stride_px=1), nodata=255) is None
    assert Tally().score() is None


def test_a_file_that_cannot_be_read_is_named(make_raster, classes) -> None:
    path = make_raster(classes, compress="deflate")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SceneError, match=r"class raster cannot be read: .*scene\.tif"):
        score_grid(path, Grid(rows=(128,), cols=(), stride_px=1), nodata=255)
