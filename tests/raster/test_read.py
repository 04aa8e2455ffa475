from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoseg.errors import SceneError
from geoseg.raster.read import read_overview, read_window
from geoseg.raster.scene import open_scene, open_stack
from geoseg.windows import Window


@given(row=st.integers(0, 29), col=st.integers(0, 39), height=st.integers(1, 30), width=st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
def test_a_window_holds_its_own_coordinates(make_raster, row, col, height, width) -> None:
    path = make_raster(np.indices((30, 40)).astype(np.uint16))
    window = Window(row, col, min(height, 30 - row), min(width, 40 - col))
    pixels = read_window(open_scene(path), window)
    rows, cols = np.indices(window.shape)
    assert np.array_equal(pixels.values, np.stack([rows + row, cols + col]))
    assert pixels.valid.all()


def hole(shape=(6, 8)) -> np.ndarray:
    valid = np.ones(shape, bool)
    valid[:2, :3] = False
    return valid


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("float32", -9999.0), ("float32", np.nan)]
)
def test_declared_nodata_is_not_valid_nan_included(make_raster, dtype, nodata) -> None:
    values = np.full((2, 6, 8), 5, dtype)
    values[:, ~hole()] = nodata
    scene = open_scene(make_raster(values, nodata=nodata))
    assert np.array_equal(read_window(scene, scene.window).valid, hole())


def test_nodata_in_one_band_makes_the_pixel_invalid(make_raster) -> None:
    values = np.full((2, 6, 8), 5, np.uint8)
    values[1, ~hole()] = 0
    scene = open_scene(make_raster(values, nodata=0))
    assert np.array_equal(read_window(scene, scene.window).valid, hole())


def test_nan_and_infinity_are_never_valid_even_when_nothing_is_declared(make_raster) -> None:
    values = np.ones((1, 6, 8), np.float32)
    values[0, 0, 0], values[0, 1, 1] = np.nan, np.inf
    scene = open_scene(make_raster(values))
    valid = read_window(scene, scene.window).valid
    assert not valid[0, 0]
    assert not valid[1, 1]
    assert valid.sum() == 46


def test_zeros_are_data_when_no_nodata_is_declared(make_raster) -> None:
    """Another tool masks any zero in any band then."""
    scene = open_scene(make_raster(np.zeros((3, 6, 8), np.uint8)))
    assert read_window(scene, scene.window).valid.all()


@pytest.mark.parametrize("internal", [True, False])
def test_internal_and_sidecar_masks(make_raster, internal) -> None:
    path = make_raster(np.full((2, 6, 8), 5, np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(hole().astype(np.uint8) * 255)
    assert path.with_name("scene.tif.msk").exists() is not internal
    scene = open_scene(path)
    assert np.array_equal(read_window(scene, scene.window).valid, hole())


def test_alpha_of_zero_is_not_valid(make_raster) -> None:
    values = np.full((4, 6, 8), 200, np.uint8)
    values[3, ~hole()] = 0
    scene = open_scene(make_raster(values, photometric="RGB", alpha="YES"))
    pixels = read_window(scene, scene.window)
    assert pixels.values.shape == (3, 6, 8)
    assert np.array_equal(pixels.valid, hole())


def test_alpha_counts_beside_a_nodata_value(make_raster) -> None:
    """GDAL alone would look at the nodata value only, and rasterio warns of it with every read."""
    values = np.full((4, 6, 8), 200, np.uint8)
    values[3, ~hole()] = 0
    values[1, 5, 7] = 9
    scene = open_scene(make_raster(values, photometric="RGB", alpha="YES", nodata=9))
    expected = hole()
    expected[5, 7] = False
    assert np.array_equal(read_window(scene, scene.window).valid, expected)


def test_nodata_declared_by_the_caller(make_raster) -> None:
    values = np.full((2, 6, 8), 5, np.int16)
    values[0, ~hole()] = -1
    scene = open_scene(make_raster(values), nodata=-1)
    assert np.array_equal(read_window(scene, scene.window).valid, hole())


def test_bands_from_several_files_share_one_mask(make_raster) -> None:
    a, b = np.full((1, 6, 8), 1, np.uint8), np.full((1, 6, 8), 2, np.uint8)
    b[0, ~hole()] = 9
    scene = open_stack(
        {"a": make_raster(a, name="a.tif"), "b": make_raster(b, name="b.tif", nodata=9)}, name="ab"
    ).select(["b", "a"])
    pixels = read_window(scene, scene.window)
    assert pixels.values[:, 5, 5].tolist() == [2, 1]
    assert np.array_equal(pixels.valid, hole())


def test_a_truncated_file_is_named_with_its_window(make_raster) -> None:
    values = np.random.default_rng(0).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    path = make_raster(values, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
    path.write_bytes(path.read_bytes()[:100_000])
    scene = open_scene(path)
    with pytest.raises(SceneError, match=r"reading failed: .*scene\.tif, rows 256:512, columns 0:512"):
        read_window(scene, Window(256, 0, 256, 512))


def test_a_window_outside_the_scene_is_a_programming_error(make_raster) -> None:
    scene = open_scene(make_raster(np.zeros((1, 6, 8), np.uint8)))
    with pytest.raises(ValueError, match="not inside"):
        read_window(scene, Window(0, 0, 7, 8))


def test_overview_keeps_values_and_mask(make_raster) -> None:
    values = np.full((1, 60, 80), 5, np.uint8)
    values[0, :20, :30] = 0
    scene = open_scene(make_raster(values, nodata=0))
    small = read_overview(scene, longest=8)
    assert small.values.shape == (1, 6, 8)
    assert np.array_equal(small.valid, hole())
    declared = open_scene(make_raster(values, name="bare.tif"), nodata=0)
    assert np.array_equal(read_overview(declared, longest=8).valid, hole())


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_a_nodata_value_beside_a_mask_or_alpha_counts_too(make_raster, kind) -> None:
    """GDAL lets one of them win and forgets the other; a pixel either of them excludes has no data."""
    values = np.full((4 if kind == "alpha" else 3, 60, 80), 5, np.uint8)
    values[:3, 0:20, 0:10] = 0
    shown = np.full((60, 80), 255, np.uint8)
    shown[0:20, 10:30] = 0
    if kind == "alpha":
        values[3] = shown
        path = make_raster(values, nodata=0, photometric="RGB", alpha="YES")
    else:
        path = make_raster(values, nodata=0)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(shown)
    scene = open_scene(path)
    assert np.array_equal(read_window(scene, scene.window).valid, hole((6, 8)).repeat(10, 0).repeat(10, 1))
    assert np.array_equal(read_overview(scene, longest=8).valid, hole())


def test_a_near_infrared_band_that_gdal_calls_alpha_is_data_when_it_is_named(make_raster) -> None:
    values = np.full((4, 6, 8), 200, np.uint8)
    values[3, :2] = 0  # dark in the near infrared: water
    path = make_raster(values, photometric="RGB", alpha="YES")
    scene = open_scene(path, bands=("red", "green", "blue", "nir"))
    pixels = read_window(scene, scene.window)
    assert pixels.values.shape == (4, 6, 8)
    assert pixels.valid.all()
    assert scene.masks == ()
    assert read_window(scene.select(["nir", "red"]), scene.window).valid.all()
    assert not read_window(open_scene(path), scene.window).valid.all()
