"""The files people take away, opened with other tools than those that wrote them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import from_origin
from rio_cogeo import cog_validate

from geoseg import jobs
from geoseg.errors import OutputError
from geoseg.manifest import read_manifest
from geoseg.prediction import PredictOptions, prepare
from geoseg.products import Product
from geoseg.raster.scene import open_scene

SHAPE = (600, 560)
DEGREES = from_origin(-76.5, 36.0, 0.0002, 0.0001)
"""Pixels that are neither square nor of one area."""


@pytest.fixture(scope="module")
def product(tmp_path_factory, package, legend) -> Path:
    """A map in degrees, in nine tiles, large enough for overviews."""
    folder = tmp_path_factory.mktemp("product")
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 255, (3, SHAPE[0] // 8, SHAPE[1] // 8), dtype=np.uint8)
    values = coarse.repeat(8, 1).repeat(8, 2)
    values[:, 200:330, 190:300] = 0
    profile = {"driver": "GTiff", "count": 3, "height": SHAPE[0], "width": SHAPE[1], "dtype": "uint8"}
    path = folder / "scene.tif"
    with rasterio.open(path, "w", **profile, crs="EPSG:4326", transform=DEGREES, nodata=0) as dataset:
        dataset.write(values)
    scene = open_scene(path, bands=("red", "green", "blue"))
    options = PredictOptions(patch_px=128, tile_px=200)
    outcome = jobs.predict(prepare(scene, package, options), folder / "out")
    assert outcome.manifest.plan["tiles"] == 9
    return folder / "out"


@pytest.fixture(scope="module")
def classes(product) -> np.ndarray:
    with rasterio.open(product / "scene_classes.tif") as dataset:
        return dataset.read(1)


@pytest.fixture(scope="module")
def polygons(product) -> geopandas.GeoDataFrame:
    return pyogrio.read_dataframe(product / "scene.gpkg", layer="landuse")


@pytest.mark.parametrize("name", ["scene_classes.tif", "scene_confidence.tif"])
def test_rasters_are_strictly_valid_cogs_on_the_grid_of_the_scene(product, name) -> None:
    valid, errors, warnings = cog_validate(product / name, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(product / name) as dataset:
        assert (dataset.count, dataset.dtypes, dataset.nodata) == (1, ("uint8",), 255)
        assert dataset.shape == SHAPE
        assert dataset.crs == "EPSG:4326"
        assert dataset.transform.almost_equals(DEGREES, precision=1e-12)
        assert dataset.overviews(1) == [2]
        tags = dataset.tags()
    assert tags["GEOSEG_JOB"] == read_manifest(product / "scene_manifest.json").job
    assert tags["TIFFTAG_SOFTWARE"].startswith("geoseg ")


def test_the_class_raster_carries_colours_names_and_mode_overviews(product, classes, legend) -> None:
    with rasterio.open(product / "scene_classes.tif") as dataset:
        table = dataset.colormap(1)
        assert {c.id: table[c.id] for c in legend.classes} == {c.id: (*c.rgb, 255) for c in legend.classes}
        half = dataset.read(1, out_shape=(SHAPE[0] // 2, SHAPE[1] // 2))
        own = json.loads(dataset.tags()["GEOSEG_LEGEND"])
    assert [c["name"] for c in own["classes"]] == list(legend.names)
    assert set(np.unique(half)) == {0, 3, 7, 255}  # averaged ids would give others
    cells = classes.reshape(SHAPE[0] // 2, 2, SHAPE[1] // 2, 2).transpose(0, 2, 1, 3).reshape(*half.shape, 4)
    uniform = (cells == cells[..., :1]).all(axis=-1)
    assert np.array_equal(half[uniform], cells[uniform][:, 0])
    counts = (cells == half[..., None]).sum(axis=-1)
    assert (counts[half != 255] >= 1).all()  # a class that is there, never one in between
    root = ET.parse(product / "scene_classes.tif.aux.xml").getroot()  # noqa: S314 - our own file
    names = [e.text or "" for e in root.findall("PAMRasterBand/CategoryNames/Category")]
    assert {i: names[i] for i in (0, 3, 7)} == {0: "water", 3: "field & meadow", 7: "forest"}
    qml = ET.parse(product / "scene_classes.qml").getroot()  # noqa: S314
    assert {e.get("label") for e in qml.iter("paletteEntry")} == set(legend.names)


def test_confidence_is_percent_and_scaled_to_one(product, classes) -> None:
    with rasterio.open(product / "scene_confidence.tif") as dataset:
        values = dataset.read(1)
        assert dataset.scales == (0.01,)
    assert np.array_equal(values == 255, classes == 255)
    assert values[classes != 255].max() <= 100
    assert values[classes != 255].min() >= 33  # the best of three


def test_the_geopackage_has_columns_index_and_a_default_style(product, legend) -> None:
    path = product / "scene.gpkg"
    info = pyogrio.read_info(path, layer="landuse")
    assert list(info["fields"]) == [
        "class_id", "class_name", "area_m2", "pixels", "mean_confidence", "region_id"
    ]  # fmt: skip
    assert info["geometry_type"] == "Polygon"
    assert info["crs"] == "EPSG:4326"
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT count(*) FROM rtree_landuse_geom").fetchone() == (info["features"],)
        styles = base.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, styleSLD FROM layer_styles"
        ).fetchall()
        kinds = dict(base.execute("SELECT table_name, data_type FROM gpkg_contents"))
    assert kinds == {"landuse": "features", "layer_styles": "attributes"}
    [(table, column, is_default, qml, sld)] = styles
    assert (table, column, is_default) == ("landuse", "geom", 1)
    for text in (qml, sld):
        ET.fromstring(text)  # noqa: S314
        assert legend.classes[0].color in text.lower() or "43,108,176" in text


def test_polygons_are_those_of_the_whole_raster_and_cross_tiles_whole(polygons, classes) -> None:
    """The oracle is GDAL on the whole class raster at once."""
    traced = [
        (value, shapely.geometry.shape(geometry))
        for geometry, value in shapes(classes, mask=classes != 255, connectivity=4, transform=DEGREES)
    ]
    key = {(v, tuple(round(b, 9) for b in g.bounds), round(g.area, 13)) for v, g in traced}
    ours = {
        (c, tuple(round(b, 9) for b in g.bounds), round(g.area, 13))
        for c, g in zip(polygons.class_id, polygons.geometry, strict=True)
    }
    assert len(polygons) == len(traced)
    assert ours == key
    assert polygons.geometry.is_valid.all()
    assert (polygons.geometry.geom_type == "Polygon").all()
    assert polygons.pixels.max() > 40_000  # larger than any tile: it crosses them


def test_areas_are_square_metres_on_the_ellipsoid(polygons) -> None:
    """The oracle is PROJ's equal-area projection; pyproj's geodesic areas are good to 0.1 m2 a ring only."""
    equal_area = polygons.geometry.segmentize(0.0005).to_crs("+proj=laea +lat_0=35.97 +lon_0=-76.44")
    assert np.allclose(polygons.area_m2, equal_area.area, rtol=1e-5)
    assert polygons.area_m2.sum() == pytest.approx(equal_area.area.sum(), rel=1e-7)


def test_numbers_of_each_polygon_are_those_of_its_pixels(polygons, product, classes, legend) -> None:
    with rasterio.open(product / "scene_confidence.tif") as dataset:
        confidence = dataset.read(1)
    regions = np.zeros(SHAPE, np.int32)
    rasterio.features.rasterize(
        zip(polygons.geometry, range(1, len(polygons) + 1), strict=True), out=regions, transform=DEGREES
    )
    pixels = np.bincount(regions.ravel(), minlength=len(polygons) + 1)[1:]
    total = np.bincount(regions.ravel(), weights=confidence.ravel(), minlength=len(polygons) + 1)[1:]
    assert np.array_equal(pixels, polygons.pixels)
    assert np.allclose(total / pixels, polygons.mean_confidence)
    assert np.array_equal(regions == 0, classes == 255)
    ids = np.concatenate([[255], polygons.class_id])
    assert np.array_equal(ids[regions], classes)
    names = {c.id: c.name for c in legend.classes}
    assert [names[i] for i in polygons.class_id] == polygons.class_name.tolist()


def new_product(folder: Path, *, job: str = "a" * 64) -> Product:
    return Product(folder=folder, stem="scene", job=job, attempt=job)


def test_a_file_of_nobody_we_know_is_not_replaced(tmp_path) -> None:
    (tmp_path / "scene.gpkg").write_text("somebody's work")
    with pytest.raises(OutputError, match=r"scene\.gpkg.*found a file without a manifest.*--overwrite"):
        new_product(tmp_path).begin(overwrite=False)
    assert new_product(tmp_path).begin(overwrite=True) is None


def test_a_manifest_that_is_none_is_named(tmp_path) -> None:
    (tmp_path / "scene_manifest.json").write_text('{"format": "something else"}')
    with pytest.raises(OutputError, match=r"manifest cannot be read: .*scene_manifest\.json.*--overwrite"):
        new_product(tmp_path).begin(overwrite=False)


def test_temporary_files_of_a_killed_run_are_swept_and_others_are_not(tmp_path) -> None:
    ours = [
        ".scene_classes.0123abcd.scratch.tif",
        ".scene.00000000.tmp.gpkg",
        ".scene.00000000.tmp.gpkg-journal",
    ]
    others = [
        ".scene_2_classes.0123abcd.tmp.tif",
        ".scene.txt",
        "scene.0123abcd.tif",
        ".scene.north.tmp.gpkg",
    ]
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    new_product(tmp_path).reopen()
    assert {p.name for p in tmp_path.iterdir()} == set(others)


def test_jobs_never_share_parts(tmp_path) -> None:
    assert new_product(tmp_path).parts.folder != new_product(tmp_path, job="b" * 64).parts.folder
