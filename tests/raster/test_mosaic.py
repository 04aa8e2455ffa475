from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from geoseg.errors import SceneError, UsageError
from geoseg.raster import mosaic, read
from geoseg.raster.mosaic import open_mosaic
from geoseg.raster.read import read_overview, read_window
from geoseg.raster.scene import open_scene
from geoseg.windows import Window

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


def at(row: int, col: int, pixel: float = 10) -> Affine:
    """The transform of a file whose corner is that pixel of one common plane."""
    return Affine(pixel, 0, 500_000 + pixel * col, 0, -pixel, 5_200_000 - pixel * row)


@pytest.fixture
def make_piece(make_raster):
    """Writes a file of two bands at a place in the plane, with holes of the nodata value 0 in one of them."""

    def write(name, row, col, shape, *, seed=0, **options):
        rng = np.random.default_rng(seed)
        values = rng.integers(1, 200, (2, *shape)).astype(np.uint8)
        values[rng.integers(0, 2), rng.random(shape) < 0.3] = 0
        defaults = {"nodata": 0, "transform": at(row, col)}
        return make_raster(values, name=name, **(defaults | options)), values

    return write


places = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9), st.integers(1, 9)),
    min_size=1,
    max_size=5,
)


@given(places=places, data=st.data())
@SHARED
def test_the_topmost_file_with_data_shows_in_every_window(make_piece, places, data) -> None:
    pieces = [
        (make_piece(f"p{i}.tif", row, col, (height, width), seed=i), Window(row, col, height, width))
        for i, (row, col, height, width) in enumerate(places)
    ]
    scene = open_mosaic([path for (path, _), _ in pieces], name="west")
    whole = pieces[0][1]
    for _, window in pieces:
        whole = whole.cover(window)
    expected = np.zeros((2, *whole.shape), np.uint8)
    for (_, values), window in pieces:  # drawn one over the other
        shown = (values != 0).all(axis=0)
        expected[(slice(None), *window.slices(origin=whole))][:, shown] = values[:, shown]
    assert scene.window.shape == whole.shape
    assert np.allclose(list(scene.geobox.affine), list(at(whole.row, whole.col)))
    assert ("gaps between the files" in scene.masks) == bool(uncovered(pieces, whole).any())
    row = data.draw(st.integers(0, whole.height - 1))
    col = data.draw(st.integers(0, whole.width - 1))
    height = data.draw(st.integers(0, whole.height - row))
    window = Window(row, col, height, data.draw(st.integers(0, whole.width - col)))
    for seen in (scene, scene.near(window)):
        pixels = read_window(seen, window)
        part = expected[(slice(None), *window.slices())]
        assert np.array_equal(pixels.valid, (part != 0).all(axis=0))
        assert np.array_equal(pixels.values[:, pixels.valid], part[:, pixels.valid])


def uncovered(pieces, whole: Window) -> np.ndarray:
    gaps = np.ones(whole.shape, bool)
    for _, window in pieces:
        gaps[window.slices(origin=whole)] = False
    return gaps


def test_masks_alpha_and_nodata_mean_what_they_mean_in_single_files(make_raster) -> None:
    below = make_raster(np.full((3, 4, 6), 1, np.uint8), name="below.tif")
    masked = make_raster(np.full((3, 4, 6), 2, np.uint8), name="masked.tif")
    shown = np.full((4, 6), 255, np.uint8)
    shown[0] = 0
    with rasterio.open(masked, "r+") as dataset:
        dataset.write_mask(shown)
    seen = np.full((4, 4, 6), 3, np.uint8)
    seen[3, :3] = 0
    alpha = make_raster(seen, name="alpha.tif", photometric="RGB", alpha="YES")
    bands = ("r", "g", "b")
    scene = open_mosaic([below, masked, alpha], name="m", bands=bands)
    pixels = read_window(scene, scene.window)
    assert pixels.valid.all()
    assert pixels.values[2, :, 0].tolist() == [1, 2, 2, 3]
    # Declared by the caller, it counts in each file before they are laid over one another.
    declared = open_mosaic([below, masked, alpha], name="m", bands=bands, nodata=2)
    assert read_window(declared, scene.window).values[2, :, 0].tolist() == [1, 1, 1, 3]
    assert scene.masks == ("mask", "alpha")


def test_a_band_that_one_file_calls_alpha_is_data_in_all(make_raster) -> None:
    values = np.full((4, 3, 3), 7, np.uint8)
    values[3] = 0
    plain = make_raster(values, name="plain.tif", photometric="MINISBLACK", alpha="NO")
    alpha = make_raster(values, name="alpha.tif", photometric="RGB", alpha="YES", transform=at(0, 3))
    scene = open_mosaic([plain, alpha], name="m", bands=("r", "g", "b", "nir"))
    assert read_window(scene, scene.window).valid.all()


def test_a_window_opens_only_the_files_it_touches(make_raster, monkeypatch) -> None:
    paths = [
        make_raster(np.full((1, 8, 8), i, np.uint8), name=f"p{i}.tif", transform=at(0, 8 * i))
        for i in range(20)
    ]
    scene = open_mosaic(paths, name="row")
    opened = []
    real = read.with_dataset
    monkeypatch.setattr(
        read, "with_dataset", lambda path, *a, **k: opened.append(path) or real(path, *a, **k)
    )
    assert read_window(scene, Window(2, 20, 3, 10)).values[0, 0].tolist() == [2] * 4 + [3] * 6
    assert sorted(opened) == [str(paths[2]), str(paths[3])]
    # Below a file that covers everything, nothing is read.
    top = make_raster(np.full((1, 8, 160), 99, np.uint8), name="top.tif")
    opened.clear()
    assert (read_window(open_mosaic([*paths, top], name="row"), scene.window).values == 99).all()
    assert opened == [str(top)]
    near = scene.near(Window(2, 20, 3, 10))
    assert len(pickle.dumps(near)) < len(pickle.dumps(scene)) / 2
    assert near.paths == (str(paths[2]), str(paths[3]))
    nothing = open_mosaic([paths[0], paths[9]], name="gap").near(Window(0, 30, 8, 8))
    assert not read_window(nothing, Window(0, 30, 8, 8)).valid.any()


def test_opening_reads_no_pixels(make_raster, monkeypatch) -> None:
    paths = [
        make_raster(np.zeros((1, 4, 4), np.uint8), name=f"{i}.tif", transform=at(0, 4 * i)) for i in (0, 1)
    ]

    def refuse(*_, **__):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(rasterio.DatasetReader, "read", refuse, raising=False)
    assert open_mosaic(paths, name="m").window == Window(0, 0, 4, 8)


def test_the_fingerprint_covers_every_file_their_order_and_places(make_raster) -> None:
    def write(name, value, *, col=0):
        return make_raster(np.full((1, 4, 4), value, np.uint8), name=name, transform=at(0, col))

    a, b = write("a.tif", 1), write("b.tif", 2)
    first = open_mosaic([a, b], name="m").fingerprint
    assert open_mosaic([a, b], name="m").fingerprint == first
    assert open_mosaic([b, a], name="m").fingerprint != first
    assert open_mosaic([a, b], name="m", nodata=1).fingerprint != first
    make_raster(np.full((1, 4, 4), 2, np.uint8), name="b.tif", transform=at(0, 0), compress="deflate")
    assert open_mosaic([a, b], name="m").fingerprint != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": Affine(10, 0, 500_004, 0, -10, 5_200_000)}, "differ in their grid: .*odd.tif"),
        ({"transform": at(0, 0, 20)}, "differ in their grid: .*odd.tif. Expected pixels that coincide"),
        ({"crs": "EPSG:32632"}, "differ in their grid: .*odd.tif.*first.tif.*found.*EPSG:32632"),
        ({"dtype": np.uint16}, "differ in their data type: .*odd.tif. Expected uint8.*found uint16"),
        ({"count": 2}, "differ in their bands: .*odd.tif"),
        ({"descriptions": ("red",)}, "differ in their bands: .*odd.tif.*found 1 red.*--bands"),
    ],
)
def test_a_file_that_does_not_go_with_the_first_is_named(make_raster, options, message) -> None:
    first = make_raster(np.zeros((1, 4, 4), np.uint8), name="first.tif")
    kind, count = options.pop("dtype", np.uint8), options.pop("count", 1)
    odd = make_raster(np.zeros((count, 4, 4), kind), name="odd.tif", **options)
    with pytest.raises(SceneError, match=message):
        open_mosaic([first, odd], name="m")


def test_nothing_and_the_same_twice_are_refused(make_raster) -> None:
    path = make_raster(np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="at least one file"):
        open_mosaic([], name="m")
    with pytest.raises(UsageError, match=r"each file once.*scene\.tif"):
        open_mosaic([path, path], name="m")


def test_an_overview_of_a_mosaic_looks_like_that_of_one_file(make_raster) -> None:
    values = np.arange(60 * 90).reshape(1, 60, 90).astype(np.uint16)
    one = make_raster(values, name="one.tif")
    cuts = [(0, 0, 25, 40), (25, 0, 35, 40), (0, 40, 60, 50)]
    paths = [
        make_raster(values[:, r : r + h, c : c + w], name=f"{r}_{c}.tif", transform=at(r, c))
        for r, c, h, w in cuts
    ]
    scene = open_mosaic(paths, name="m")
    for longest in (9, 30, 90):
        small, expected = (
            read_overview(scene, longest=longest),
            read_overview(open_scene(one), longest=longest),
        )
        assert small.valid.all()
        assert small.values.shape == expected.values.shape
        apart = np.stack(np.divmod(small.values.astype(int), 90)) - np.stack(
            np.divmod(expected.values.astype(int), 90)
        )
        assert np.abs(apart).max() <= 90 / longest / 2  # nearest neighbours, rounded per file
    assert np.array_equal(read_window(scene, scene.window).values, values)


def test_hundreds_of_files_open_in_seconds_and_stay_small(make_raster, tmp_path) -> None:
    source = make_raster(np.zeros((1, 2, 2), np.uint8)).read_bytes()
    paths = []
    for i in range(200):
        path = tmp_path / f"t{i}.tif"
        path.write_bytes(source)
        with rasterio.open(path, "r+") as dataset:
            dataset.transform = at(2 * (i // 20), 2 * (i % 20))
        paths.append(path)
    scene = open_mosaic(paths, name="m")
    assert scene.window == Window(0, 0, 20, 40)
    assert scene.masks == ()
    assert len(pickle.dumps(scene.near(Window(0, 0, 4, 4)))) < 2500
    assert read_window(scene, scene.window).valid.all()


def test_south_up_and_turned_grids_join_too(make_raster) -> None:
    turned = Affine(8, 6, 500_000, 6, -8, 5_200_000)
    a = make_raster(np.full((1, 3, 4), 1, np.uint8), name="a.tif", transform=turned)
    x, y = 500_000 + 8 * 4, 5_200_000 + 6 * 4
    b = make_raster(np.full((1, 3, 4), 2, np.uint8), name="b.tif", transform=Affine(8, 6, x, 6, -8, y))
    scene = open_mosaic([a, b], name="m")
    assert read_window(scene, scene.window).values[0].tolist() == [[1] * 4 + [2] * 4] * 3
    assert mosaic.place(open_scene(a).geobox, scene.geobox).window == Window(0, 0, 3, 4)
