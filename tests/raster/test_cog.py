from __future__ import annotations

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from rio_cogeo import cog_validate
from scipy.ndimage import gaussian_filter

from geoseg.errors import OutputError
from geoseg.raster import cog
from geoseg.raster.cog import CogStyle, cog_writer
from geoseg.raster.tiff import write_cog
from geoseg.windows import Window


def geobox(shape=(1300, 1100)) -> GeoBox:
    return GeoBox(shape, from_origin(500_000, 5_200_000, 10, 10), "EPSG:32631")


CONFIDENCE = CogStyle(nodata=255, resampling="average", bands=("confidence",), scale=0.01)


def write(path, values, style, order=1, threads=1) -> None:
    box = geobox(values.shape)
    with cog_writer(path, box, style, {"GEOSEG_JOB": "test"}, threads=threads) as store:
        pieces = [
            Window(r, c, min(700, values.shape[0] - r), min(333, values.shape[1] - c))
            for r in range(0, values.shape[0], 700)
            for c in range(0, values.shape[1], 333)
        ]
        for window in pieces[::order]:
            store(window, values[window.slices()])


@pytest.fixture
def classes(legend) -> np.ndarray:
    coarse = np.random.default_rng(0).choice([*legend.ids, 255], (13, 11)).astype(np.uint8)
    return coarse.repeat(100, 0).repeat(100, 1)


def test_the_class_raster_is_a_strictly_valid_cog_with_names_colours_and_mode_overviews(
    tmp_path, legend, classes
) -> None:
    path = tmp_path / "classes.tif"
    write(path, classes, CogStyle(nodata=255, resampling="mode", bands=("class",), legend=legend))
    valid, errors, warnings = cog_validate(path, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(1), classes)
        assert dataset.nodata == 255
        assert dataset.colormap(1)[7] == (0x27, 0x67, 0x49, 255)
        assert dataset.tags()["GEOSEG_JOB"] == "test"
        assert dataset.overviews(1)
        small = dataset.read(1, out_shape=(325, 275))
    assert set(np.unique(small)) <= {*legend.ids, 255}  # never an averaged id
    sidecar = (tmp_path / "classes.tif.aux.xml").read_text()
    assert "<Category>field &amp; meadow</Category>" in sidecar
    assert "GDALRasterAttributeTable" in sidecar
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.tif", "classes.tif.aux.xml"]


def test_bytes_do_not_depend_on_the_order_windows_arrive_in_or_on_threads(tmp_path, legend, classes) -> None:
    style = CogStyle(nodata=255, resampling="mode", bands=("class",), legend=legend)
    write(tmp_path / "a.tif", classes, style)
    write(tmp_path / "b.tif", classes, style, order=-1)
    write(tmp_path / "c.tif", classes, style, threads=3)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()


def mode(values: np.ndarray) -> int:
    return int(np.bincount(values).argmax())


def mean(values: np.ndarray) -> int:
    return int(values.sum(dtype=np.int64) * 2 + values.size) // (2 * values.size)


@pytest.mark.parametrize(("resampling", "how"), [("mode", mode), ("average", mean)])
@pytest.mark.parametrize("shape", [(1300, 1100), (1, 2100), (1025, 513), (512, 512)])
def test_every_overview_pixel_is_made_of_the_raster_pixels_below_it(tmp_path, resampling, how, shape) -> None:
    rng = np.random.default_rng(1)
    values = np.clip(rng.integers(0, 12, shape) + np.arange(shape[1]) // 40, 0, 100).astype(np.uint8)
    values[rng.random(shape) < 0.2] = 255
    values[:300, :200] = 255
    path = tmp_path / "a.tif"
    write(path, values, CogStyle(nodata=255, resampling=resampling, bands=("x",)))
    with rasterio.open(path) as dataset:
        levels = dataset.overviews(1)
    assert levels == [2**k for k in range(1, 9) if max(shape) > 512 * 2 ** (k - 1)]
    for index, factor in enumerate(levels):
        with rasterio.open(path, overview_level=index) as dataset:
            image = dataset.read(1)
        assert image.shape == tuple(-(-side // factor) for side in shape)
        last = np.array(image.shape) - 1  # where blocks and pixels are cut off by the raster's edge
        places = [(0, 0), (0, last[1]), (last[0], 0), last, *rng.integers(0, image.shape, (200, 2))]
        for row, col in places:
            below = values[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor].ravel()
            below = below[below != 255]
            assert image[row, col] == (how(below) if below.size else 255), (factor, row, col)


@pytest.mark.parametrize("bands", [2, 3, 5])
def test_a_band_per_class_is_stored_band_by_band(tmp_path, bands) -> None:
    rng = np.random.default_rng(bands)
    values = rng.integers(0, 251, (bands, 700, 900), dtype=np.uint8)
    values[:, 100:300, 50:600] = 255
    names = tuple(f"class {i}" for i in range(bands))
    style = CogStyle(nodata=255, resampling="average", bands=names, scale=1 / 250)
    path = tmp_path / "p.tif"
    with cog_writer(path, geobox(values.shape[1:]), style, {}, threads=2) as store:
        for band, plane in enumerate(values):
            for row in range(0, 700, 350):
                window = Window(row, 0, 350, 900)
                store(window, plane[window.slices()], band)
    valid, errors, warnings = cog_validate(path, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(), values)
        assert dataset.descriptions == names
        assert dataset.scales == (1 / 250,) * bands
        assert dataset.nodatavals == (255,) * bands
        assert dataset.profile["interleave"] == "band"
        assert {c.name for c in dataset.colorinterp} <= {
            "gray",
            "undefined",
        }  # neither a picture nor an alpha
        small = dataset.read(out_shape=(bands, 350, 450))
    assert np.array_equal(small[:, 60, 40], np.full(bands, 255))
    assert small[bands - 1, 0, 0] == mean(values[bands - 1, :2, :2])


def test_streams_are_plain_deflate_and_no_larger_than_gdals(tmp_path) -> None:
    rng = np.random.default_rng(0)
    fields = gaussian_filter(rng.normal(size=(5, 1024, 1024)), (0, 12, 12))
    values = fields.argmax(axis=0).astype(np.uint8)
    noisy = rng.random(values.shape) < 0.03
    values[noisy] = rng.integers(0, 5, noisy.sum())
    path = tmp_path / "a.tif"
    write(path, values, CogStyle(nodata=255, resampling="mode", bands=("class",)))
    with rasterio.open(path) as dataset:
        assert dataset.profile["compress"] == "deflate"
    rasterio.shutil.copy(
        path, tmp_path / "gdal.tif", driver="COG", compress="DEFLATE", overview_resampling="MODE"
    )
    assert path.stat().st_size < (tmp_path / "gdal.tif").stat().st_size


@pytest.mark.parametrize("resampling", ["mode", "average"])
@pytest.mark.parametrize("all_decoded", [0, 100])
@pytest.mark.parametrize("damage", ["flip", "swap", "pixels"])
def test_a_file_that_is_not_what_was_written_never_appears(
    tmp_path, monkeypatch, resampling, all_decoded, damage
) -> None:
    def spoil(file, images, spool) -> None:
        raster = images[0]
        if damage == "swap":  # two blocks in each other's place
            raster.start[:2], raster.length[:2] = raster.start[1::-1].copy(), raster.length[1::-1].copy()
        write_cog(file, images, spool)
        if damage == "flip":
            file.seek(-100, 2)
            file.write(b"spoilt")

    def wrong(pixels, style) -> bytes:
        return compress(pixels ^ np.uint8(1), style)

    compress = cog._compress
    monkeypatch.setattr(cog, "_ALL_DECODED", all_decoded)
    monkeypatch.setattr(cog, "write_cog", spoil)
    if damage == "pixels":
        monkeypatch.setattr(cog, "_compress", wrong)
    values = np.random.default_rng(0).integers(0, 100, (1300, 1100), dtype=np.uint8)
    style = CogStyle(nodata=255, resampling=resampling, bands=("x",))
    with pytest.raises(OutputError, match=r"found a file whose pixels differ from those written"):
        write(tmp_path / "a.tif", values, style)
    assert not list(tmp_path.iterdir())


def test_memory_is_bounded_by_a_row_of_blocks(tmp_path, monkeypatch) -> None:
    """Blocks under way after each window: never more than what the row of windows has begun."""
    most = 0
    put = cog._Canvas.put

    def counting(self, window, values):
        nonlocal most
        yield from put(self, window, values)
        most = max(most, len(self._open))

    monkeypatch.setattr(cog._Canvas, "put", counting)
    write(tmp_path / "a.tif", np.zeros((9000, 1100), np.uint8), CONFIDENCE)
    assert most <= 6  # of 54: 1100 columns are three blocks wide, and windows end inside of blocks


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path) -> None:
    path = tmp_path / "confidence.tif"
    path.write_text("the old product")
    style = CONFIDENCE
    with pytest.raises(RuntimeError, match="midway"), cog_writer(path, geobox(), style, {}) as store:
        store(Window(0, 0, 10, 10), np.zeros((10, 10), np.uint8))
        raise RuntimeError("midway")
    assert path.read_text() == "the old product"
    assert [p.name for p in tmp_path.iterdir()] == ["confidence.tif"]


def test_a_missing_window_is_noticed(tmp_path) -> None:
    style = CONFIDENCE
    with (
        pytest.raises(AssertionError, match="100 of 1430000 pixels"),
        cog_writer(tmp_path / "c.tif", geobox(), style, {}) as store,
    ):
        store(Window(0, 0, 10, 10), np.zeros((10, 10), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    style = CONFIDENCE
    with (
        pytest.raises(OutputError, match=r"cannot be written: .*file/c\.tif"),
        cog_writer(tmp_path / "file" / "c.tif", geobox(), style, {}),
    ):
        pass
