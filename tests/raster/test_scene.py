from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import Affine

from geoseg.errors import SceneError, UsageError
from geoseg.raster.read import read_window
from geoseg.raster.scene import open_scene, open_stack
from geoseg.windows import Window

UTM_10M = Affine(10, 0, 500_000, 0, -10, 5_200_000)


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


def test_a_stack_takes_band_files_that_cover_one_grid(make_raster) -> None:
    files = {n: make_raster(np.zeros((1, 4, 5), np.uint8), name=f"{n}.tif") for n in ("B02", "B03")}
    scene = open_stack(files, name="pair")
    assert scene.band_names == ("B02", "B03")
    files["B8A"] = make_raster(np.zeros((1, 2, 3), np.uint8), name="B8A.tif")
    with pytest.raises(
        SceneError, match=r"differ in their extent: .*B8A\.tif. Expected a file that covers 4 x 5 px"
    ):
        open_stack(files, name="three")
    files["B8A"] = make_raster(np.zeros((1, 4, 5), np.uint8), name="B8A.tif", crs="EPSG:32632")
    with pytest.raises(SceneError, match=r"differ in their grid: .*B8A\.tif. Expected one CRS.*EPSG:32631"):
        open_stack(files, name="three")
    turned = UTM_10M @ Affine.rotation(30)
    files["B8A"] = make_raster(np.zeros((1, 40, 50), np.uint8), name="B8A.tif", transform=turned)
    with pytest.raises(SceneError, match=r"differ in their grid: .*B8A\.tif. Expected one CRS and parallel"):
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


NESTED = """<VRTDataset rasterXSize="5" rasterYSize="4"><SRS>EPSG:32631</SRS>
<GeoTransform>500000, 10, 0, 5200000, 0, -10</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><NoDataValue>9</NoDataValue><ComplexSource>
<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="5" ySize="4"/><DstRect xOff="0" yOff="0" xSize="5" ySize="4"/>
<NODATA>9</NODATA></ComplexSource></VRTRasterBand></VRTDataset>"""


def test_a_vrt_of_a_vrt_with_relative_sources(make_raster, tmp_path, monkeypatch) -> None:
    """The innermost file shows in the pixels, the validity and the fingerprint, wherever one stands."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    values = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
    leaf = make_raster(values, name="a/b/leaf.tif")
    (tmp_path / "a" / "inner.vrt").write_text(NESTED.format(source="b/leaf.tif"))
    outer = tmp_path / "outer.vrt"
    outer.write_text(NESTED.format(source="a/inner.vrt"))
    monkeypatch.chdir(tmp_path / "a")
    scene = open_scene("../outer.vrt")
    pixels = read_window(scene, Window(1, 1, 3, 4))
    assert np.array_equal(pixels.values[pixels.valid[None]], values[:, 1:, 1:][values[:, 1:, 1:] != 9])
    assert pixels.valid.sum() == 11
    assert str(leaf) in scene.files
    assert scene == open_scene(outer)
    before = open_scene(outer).fingerprint
    leaf.with_name("leaf.tif.msk").write_bytes(b"")
    assert open_scene(outer).fingerprint != before
    make_raster(values, name="a/b/leaf.tif", compress="deflate")
    assert open_scene(outer).fingerprint != before


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
