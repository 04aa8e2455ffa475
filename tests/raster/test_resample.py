from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError
from geoseg.raster.read import read_overview, read_window
from geoseg.raster.scene import open_stack
from geoseg.windows import Window

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


def grid(pixel: float, *, x: float = 500_000, y: float = 5_200_000) -> Affine:
    return Affine(pixel, 0, x, 0, -pixel, y)


@pytest.fixture
def make_stack(make_raster):
    """A scene of a fine band at 10 m and a coarse one, and the coarse band's values."""

    def write(factor, shape, *, dtype=np.uint16, holes=0.0, x=500_000, y=5_200_000, seed=0, **options):
        rng = np.random.default_rng(seed)
        fine = rng.integers(1, 200, (1, *shape)).astype(np.uint8 if dtype == np.uint8 else dtype)
        need = [int(np.ceil(n / factor)) + (x != 500_000) + (y != 5_200_000) for n in shape]
        coarse = rng.integers(1, 250 if dtype == np.uint8 else 9_000, (1, *need)).astype(dtype)
        coarse[rng.random(coarse.shape) < holes] = 0
        files = {
            "fine": make_raster(fine, name="fine.tif", nodata=0, transform=grid(10)),
            "coarse": make_raster(coarse, name="coarse.tif", nodata=0, transform=grid(10 * factor, x=x, y=y)),
        }
        return open_stack(files, name="stack", **options), coarse

    return write


@given(
    factor=st.sampled_from([2, 6, 1.5, 3, 7.3]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.sampled_from(["nearest", "bilinear", "cubic"]),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64]),
    holes=st.sampled_from([0.0, 0.2]),
    shift=st.sampled_from([0.0, 3.7]),
    data=st.data(),
)
@settings(SHARED, max_examples=80)
def test_a_window_is_that_part_of_the_whole_bit_for_bit(
    make_stack, factor, shape, kernel, dtype, holes, shift, data
) -> None:
    """GDAL's warper does not keep this: one window of 60 m bands at 10 m differs from the whole."""
    place = {"x": 500_000 - shift, "y": 5_200_000 + shift}
    scene, _ = make_stack(factor, shape, dtype=dtype, holes=holes, resampling=kernel, **place)
    assert scene.window.shape == shape
    whole = read_window(scene, scene.window)
    row, col = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    window = Window(
        row, col, data.draw(st.integers(0, shape[0] - row)), data.draw(st.integers(0, shape[1] - col))
    )
    part = read_window(scene, window)
    there = window.slices()
    assert np.array_equal(part.valid, whole.valid[there])
    assert part.values.tobytes() == whole.values[(slice(None), *there)].tobytes()


@given(
    factor=st.sampled_from([2, 3, 5]),
    kernel=st.sampled_from(["nearest", "bilinear", "cubic"]),
    dtype=st.sampled_from([np.uint8, np.int16, np.float32]),
    seed=st.integers(0, 99),
)
@SHARED
def test_values_are_those_of_gdals_warper(make_stack, factor, kernel, dtype, seed) -> None:
    scene, _ = make_stack(factor, (30, 42), dtype=dtype, resampling=kernel, seed=seed)
    ours = read_window(scene.select(["coarse"]), scene.window).values[0]
    with (
        rasterio.open(scene.paths[1]) as dataset,
        WarpedVRT(
            dataset,
            crs=dataset.crs,
            transform=grid(10),
            height=30,
            width=42,
            resampling=Resampling[kernel],
            nodata=None,
            src_nodata=None,
        ) as view,
    ):
        theirs = view.read(1)
    inner = (slice(None), slice(None))
    if kernel == "cubic":  # within two pixels of the edge GDAL takes fewer taps
        inner = (slice(2 * factor, -2 * factor), slice(2 * factor, -2 * factor))
    step = 1 if np.dtype(dtype).kind in "ui" else 0.02
    assert np.abs(ours[inner].astype(float) - theirs[inner].astype(float)).max() <= step
    assert (np.abs(ours[inner].astype(float) - theirs[inner].astype(float)) > step / 2).mean() < 0.05


@given(
    factor=st.sampled_from([2, 3]),
    kernel=st.sampled_from(["nearest", "bilinear", "cubic"]),
    seed=st.integers(0, 99),
    holes=st.sampled_from([0.1, 0.6]),
)
@SHARED
def test_a_pixel_has_data_where_the_coarse_pixel_it_lies_in_has(
    make_stack, factor, kernel, seed, holes
) -> None:
    """And pixels without data (0) have no part in its value: it stays within those around it that have."""
    shape = (6 * factor, 7 * factor)
    scene, coarse = make_stack(factor, shape, holes=holes, resampling=kernel, seed=seed)
    pixels = read_window(scene.select(["coarse"]), scene.window)
    has = (coarse[0] != 0).repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(pixels.valid, has)
    if kernel == "cubic":  # it may overshoot, as it should
        return
    around = np.pad(coarse[0].astype(float), 1)
    stack = [around[i : i + 6, j : j + 7] for i in range(3) for j in range(3)]
    low = np.min([np.where(a == 0, np.inf, a) for a in stack], axis=0).repeat(factor, 0).repeat(factor, 1)
    high = np.max(stack, axis=0).repeat(factor, 0).repeat(factor, 1)
    assert (pixels.values[0][has] >= low[has]).all()
    assert (pixels.values[0][has] <= high[has]).all()


def test_bilinear_by_hand_with_and_without_a_hole(make_raster) -> None:
    fine = make_raster(np.ones((1, 2, 6), np.float32), name="fine.tif", transform=grid(10))
    row = np.array([10, 30, 70], np.float32)

    def read(values: np.ndarray):
        coarse = make_raster(values.reshape(1, 1, 3), name="coarse.tif", nodata=-1, transform=grid(20))
        scene = open_stack({"coarse": coarse, "fine": fine}, name="s")
        assert scene.window.shape == (2, 6)  # of the finest, whatever the order
        return read_window(scene, scene.window)

    assert read(row).values[0, 0].tolist() == [10, 15, 25, 40, 60, 70]
    hole = read(np.array([10, -1, 70], np.float32))
    assert hole.valid[1].tolist() == [True, True, False, False, True, True]
    assert hole.values[0, 0, [0, 1, 4, 5]].tolist() == [10, 10, 70, 70]
    nan = read(np.array([10, np.nan, 70], np.float32))
    assert np.array_equal(nan.valid, hole.valid)
    assert nan.values[0, 0, [0, 1, 4, 5]].tolist() == [10, 10, 70, 70]


def test_a_nodata_value_is_looked_for_before_interpolating_not_after(make_raster) -> None:
    """Half way between -5 and 5 lies 0, which is data; 0 in the file is not."""
    fine = make_raster(np.ones((1, 2, 4), np.int16), name="fine.tif", transform=grid(10))
    coarse = make_raster(np.array([[[-6, 2]]], np.int16), name="coarse.tif", transform=grid(20))
    scene = open_stack({"f": fine, "c": coarse}, name="s", nodata=-4)
    pixels = read_window(scene, scene.window)
    assert pixels.values[1, 0].tolist() == [-6, -4, 0, 2]
    assert pixels.valid.all()
    gone = open_stack({"f": fine, "c": coarse}, name="s", nodata=2)
    assert read_window(gone, gone.window).valid[0].tolist() == [True, True, False, False]


def test_a_band_on_the_grid_that_reaches_further_is_cut_not_resampled(make_raster) -> None:
    values = np.arange(80).reshape(1, 8, 10).astype(np.uint8)
    wide = make_raster(values, name="wide.tif", transform=grid(10, x=499_970, y=5_200_020))
    scene = open_stack(
        {"a": make_raster(np.zeros((1, 4, 5), np.uint8), name="a.tif"), "wide": wide}, name="s"
    )
    assert np.array_equal(read_window(scene, scene.window).values[1], values[0, 2:6, 3:8])


def test_the_fingerprint_knows_the_resampling(make_stack) -> None:
    prints = {
        make_stack(2, (8, 8), resampling=kernel)[0].fingerprint for kernel in ("nearest", "bilinear", "cubic")
    }
    assert len(prints) == 3


def test_overviews_of_mixed_resolutions(make_stack) -> None:
    scene, coarse = make_stack(2, (40, 40))
    small = read_overview(scene, longest=20)
    assert np.array_equal(small.values[1], coarse[0])
    assert small.valid.all()


def test_band_files_with_pixels_in_other_shapes_are_refused(make_raster) -> None:
    """Neither is finer on both axes."""
    a = make_raster(np.zeros((1, 8, 8), np.uint8), name="a.tif", transform=grid(10))
    b = make_raster(
        np.zeros((1, 16, 2), np.uint8), name="b.tif", transform=Affine(40, 0, 500_000, 0, -5, 5_200_000)
    )
    with pytest.raises(SceneError, match=r"differ in their grid: .*b\.tif"):
        open_stack({"a": a, "b": b}, name="s")
