from __future__ import annotations

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from rio_cogeo import cog_validate

from geoseg.errors import ExecutionError, OutputError
from geoseg.raster.cog import CogStyle, cog_writer
from geoseg.raster.parts import PartStore
from geoseg.windows import Window


def geobox(shape=(1300, 1100)) -> GeoBox:
    return GeoBox(shape, from_origin(500_000, 5_200_000, 10, 10), "EPSG:32631")


def write(path, values, style, order=1) -> None:
    box = geobox(values.shape)
    with cog_writer(path, box, style, {"GEOSEG_JOB": "test"}) as store:
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
    write(path, classes, CogStyle(nodata=255, resampling="mode", description="class", legend=legend))
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


def test_bytes_do_not_depend_on_the_order_windows_arrive_in(tmp_path, legend, classes) -> None:
    style = CogStyle(nodata=255, resampling="mode", description="class", legend=legend)
    write(tmp_path / "a.tif", classes, style)
    write(tmp_path / "b.tif", classes, style, order=-1)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path) -> None:
    path = tmp_path / "confidence.tif"
    path.write_text("the old product")
    style = CogStyle(nodata=255, resampling="average", description="confidence")
    with pytest.raises(RuntimeError, match="midway"), cog_writer(path, geobox(), style, {}) as store:
        store(Window(0, 0, 10, 10), np.zeros((10, 10), np.uint8))
        raise RuntimeError("midway")
    assert path.read_text() == "the old product"
    assert [p.name for p in tmp_path.iterdir()] == ["confidence.tif"]


def test_a_missing_window_is_noticed(tmp_path) -> None:
    style = CogStyle(nodata=255, resampling="average", description="confidence")
    with (
        pytest.raises(AssertionError, match="100 of 1430000 pixels"),
        cog_writer(tmp_path / "c.tif", geobox(), style, {}) as store,
    ):
        store(Window(0, 0, 10, 10), np.zeros((10, 10), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    style = CogStyle(nodata=255, resampling="average", description="confidence")
    with (
        pytest.raises(OutputError, match=r"cannot be written: .*file/c\.tif"),
        cog_writer(tmp_path / "file" / "c.tif", geobox(), style, {}),
    ):
        pass


def test_a_part_comes_back_whole_and_damage_is_noticed(tmp_path) -> None:
    store = PartStore(folder=tmp_path / "parts")
    core = Window(0, 0, 40, 30)
    classes = np.random.default_rng(0).integers(0, 9, core.shape, dtype=np.uint8)
    with pytest.raises(ExecutionError, match=r"part cannot be read: .*tile_00001_00002\.npz"):
        store.read(1, 2)
    assert store.recall(1, 2, core, "pixels") is None
    store.write(1, 2, {"classes": classes, "pixels": np.arange(3)})
    recalled = store.recall(1, 2, core, "pixels")
    assert recalled is not None
    assert recalled["pixels"].tolist() == [0, 1, 2]
    assert store.recall(1, 2, Window(0, 0, 30, 40), "pixels") is None  # another tile size
    assert store.recall(1, 2, core, "something else") is None
    assert np.array_equal(store.read(1, 2, "classes")["classes"], classes)
    path = store.path(1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    assert store.recall(1, 2, core, "pixels") is None
    flipped = bytearray(whole)
    flipped[400] ^= 1
    path.write_bytes(bytes(flipped))
    assert store.recall(1, 2, core, "pixels") is None
    with pytest.raises(ExecutionError, match="Bad CRC-32"):
        store.read(1, 2)
