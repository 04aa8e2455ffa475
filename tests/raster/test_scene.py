from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import Affine

from geoseg.errors import SceneError, UsageError
from geoseg.raster.scene import open_scene, open_stack
from geoseg.windows import Window


def test_names_come_from_descriptions_then_colours_then_numbers(make_raster) -> None:
    values = np.zeros((3, 4, 5), np.uint8)
    described = make_raster(values, name="a.tif", descriptions=("B02", "B03", "B04"))
    colored = make_raster(values, name="b.tif", photometric="RGB")
    bare = make_raster(values.astype(np.uint16), name="c.tif")
    assert open_scene(described).band_names == ("B02", "B03", "B04")
    assert open_scene(colored).band_names == ("red", "green", "blue")
    assert open_scene(bare).band_names == ("band_1", "band_2", "band_3")


def test_alpha_is_not_a_band(make_raster) -> None:
    path = make_raster(np.zeros((4, 4, 5), np.uint8), photometric="RGB", alpha="YES")
    assert open_scene(path).band_names == ("red", "green", "blue")


def test_given_names_replace_the_files_own_and_underscore_leaves_out(make_raster) -> None:
    path = make_raster(np.zeros((3, 4, 5), np.uint16))
    scene = open_scene(path, bands=("nir", "_", "red"))
    assert [(b.name, b.index) for b in scene.bands] == [("nir", 1), ("red", 3)]
    with pytest.raises(UsageError, match="3 distinct names"):
        open_scene(path, bands=("nir", "red"))
    with pytest.raises(UsageError, match="3 distinct names"):
        open_scene(path, bands=("nir", "nir", "red"))


def test_a_scene_survives_pickling_and_its_fingerprint_sees_the_file_change(make_raster) -> None:
    path = make_raster(np.zeros((1, 4, 5), np.uint16))
    scene = open_scene(path)
    assert pickle.loads(pickle.dumps(scene)) == scene  # noqa: S301 - our own bytes
    assert scene.window == Window(0, 0, 4, 5)
    before = scene.fingerprint
    assert open_scene(path).fingerprint == before
    assert open_scene(path, nodata=3).fingerprint != before
    make_raster(np.zeros((1, 4, 5), np.uint16), compress="deflate")
    assert open_scene(path).fingerprint != before


def test_select_orders_bands_and_names_what_is_missing(make_raster) -> None:
    scene = open_scene(make_raster(np.zeros((2, 4, 5), np.uint8), descriptions=("red", "nir")))
    assert scene.select(["nir", "red"]).band_names == ("nir", "red")
    with pytest.raises(SceneError, match=r"Expected bands nir, blue; found bands red, nir.*--bands"):
        scene.select(["nir", "blue"])


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"crs": None}, r"no CRS: .*scene\.tif.*gdal_edit.py -a_srs"),
        ({"transform": None}, r"no transform: .*scene\.tif"),
        ({"transform": Affine(0, 0, 1, 0, 0, 2)}, "cannot be inverted"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_without_a_place_on_earth_is_refused(make_raster, profile, message) -> None:
    path = make_raster(np.zeros((1, 4, 5), np.uint8), **profile)
    with pytest.raises(SceneError, match=message):
        open_scene(path)


def test_missing_broken_and_complex_files_are_named(make_raster, tmp_path) -> None:
    with pytest.raises(SceneError, match=r"no such file: .*nowhere\.tif"):
        open_scene(tmp_path / "nowhere.tif")
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    with pytest.raises(SceneError, match=r"cannot be opened: .*text\.tif"):
        open_scene(text)
    with pytest.raises(SceneError, match=r"found complex64"):
        open_scene(make_raster(np.zeros((1, 4, 5), np.complex64)))


def test_a_stack_takes_band_files_on_one_grid(make_raster) -> None:
    files = {n: make_raster(np.zeros((1, 4, 5), np.uint8), name=f"{n}.tif") for n in ("B02", "B03")}
    scene = open_stack(files, name="pair")
    assert scene.band_names == ("B02", "B03")
    files["B8A"] = make_raster(np.zeros((1, 2, 3), np.uint8), name="B8A.tif")
    with pytest.raises(SceneError, match=r"differ in their grid: .*B8A\.tif. Expected 4 x 5 px"):
        open_stack(files, name="three")
    files["B8A"] = make_raster(np.zeros((1, 4, 5), np.int16), name="B8A.tif")
    with pytest.raises(SceneError, match=r"differ in their data type.*Expected uint8.*found int16"):
        open_stack(files, name="three")


def test_paths_are_absolute_so_that_workers_elsewhere_find_them(make_raster, monkeypatch) -> None:
    path = make_raster(np.zeros((1, 4, 5), np.uint8))
    monkeypatch.chdir(path.parent)
    here, there = open_scene("./scene.tif"), open_scene(path)
    assert here == there
    assert here.paths == (str(path),)
    assert here.fingerprint == there.fingerprint


def test_the_fingerprint_follows_the_sources_of_a_vrt_and_sidecar_masks(make_raster) -> None:
    source = make_raster(np.zeros((1, 4, 5), np.uint8), name="source.tif")
    vrt = source.with_name("mosaic.vrt")
    rasterio.shutil.copy(source, vrt, driver="VRT")
    before = open_scene(vrt).fingerprint
    make_raster(np.ones((1, 4, 5), np.uint8), name="source.tif", compress="deflate")
    assert open_scene(vrt).fingerprint != before

    before = open_scene(source).fingerprint
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(source, "r+") as dataset:
        dataset.write_mask(np.zeros((4, 5), np.uint8))
    scene = open_scene(source)
    assert scene.fingerprint != before
    assert scene.masks == ("mask",)
