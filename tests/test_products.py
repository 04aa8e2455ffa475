"""The files people take away, opened with other tools than those that wrote them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
from geoseg.files import unclaimed
from geoseg.manifest import Counts, Manifest, differences, read_manifest
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
        "region_id", "class_id", "class_name", "area_m2", "perimeter_m", "pixels", "mean_confidence",
        "min_confidence",
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
    assert kinds == {"landuse": "features", "layer_styles": "attributes", "class_summary": "attributes"}
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
    lowest = np.full(len(polygons) + 1, 255)
    np.minimum.at(lowest, regions.ravel(), confidence.ravel())
    assert np.array_equal(lowest[1:], polygons.min_confidence)
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


SCENE = {
    "files": ["/a.tif"], "bands": ["red"], "shape": [90, 80], "transform": [10.0, 0.0, 0.0, 0.0, -10.0, 0.0],
    "crs": "EPSG:32631", "dtype": "uint8", "fingerprint": "1",
}  # fmt: skip
FACTS = {
    "scene": SCENE,
    "package": {"folder": "/models/a", "fingerprint": "2"},
    "plan": {"patch_px": 64, "tile_px": 4096, "blend": False, "window": [0, 0, 90, 80], "tiles": 1},
    "options": {"blend": False, "views": "one", "confidence": "margin", "aoi": None, "runtime": "auto"},
}


def manifest_of(facts: dict, *, job: str = "b" * 64) -> Manifest:
    return Manifest(
        job=job, created="2026-11-20T10:00:00+00:00", **facts, execution={}, versions={"geoseg": "0.0.7"},
        counts=Counts(valid=1, nodata=0, classes=()), polygons=None, seconds={}, outputs=(),
    )  # fmt: skip


def changed(**changes: dict) -> dict:
    return {key: facts | changes.get(key, {}) for key, facts in FACTS.items()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"plan": {"tile_px": 64, "tiles": 4}, "options": {"views": "all", "confidence": None}},
            [
                "--tile-size: 4096 there, 64 now",
                "--tta: one there, all now",
                "--confidence: margin there, none now",
            ],
        ),
        ({"plan": {"blend": True}, "options": {"blend": True}}, ["--stitch: no there, yes now"]),
        (
            {"plan": {"window": [0, 0, 9, 9]}, "options": {"aoi": "f00"}},
            ["--aoi or --bbox: another area"],
        ),
        (
            {"scene": {"fingerprint": "7"}},
            ["the scene: its files have changed since, or --nodata or --resampling is another"],
        ),
        (
            {
                "scene": {"files": ["/b.tif"], "shape": [9, 9], "fingerprint": "7"},
                "plan": {"window": [0, 0, 9, 9]},
            },
            [
                "the scene's files: /a.tif there, /b.tif now",
                "the scene's shape: 90, 80 there, 9, 9 now",
            ],
        ),
        ({"package": {"fingerprint": "8"}}, ["the model: it has changed since in /models/a"]),
        (
            {"package": {"others": [{"folder": "/models/c", "fingerprint": "8"}]}},
            ["the model: /models/a there, /models/a, /models/c now"],
        ),
        ({"options": {"polygons": {"min_area": 3}}}, ["--no-polygons: none there, {'min_area': 3} now"]),
        ({}, ["nothing that is recorded; it was made by geoseg 0.0.7"]),
    ],
)
def test_what_another_job_did_otherwise_is_told(changes, told) -> None:
    assert differences(manifest_of(FACTS), changed(**changes)) == told


def test_options_inside_options_are_compared_one_by_one() -> None:
    one, other = (changed(options={"polygons": {"a": 1, "min_area": size}}) for size in (3, 4))
    assert differences(manifest_of(one), other)[0].endswith(": 3 there, 4 now")


def test_the_product_of_another_job_is_not_replaced_and_compared(tmp_path) -> None:
    (tmp_path / "scene_manifest.json").write_text(manifest_of(FACTS).to_json())
    mine = Product(folder=tmp_path, stem="scene", job="a" * 64, facts=changed(plan={"tile_px": 64}))
    told = r"job, b{12} of 2026-11-20.*, which differs in --tile-size: 4096 there, 64 now\. Give --overwrite"
    with pytest.raises(OutputError, match=told):
        mine.finished()
    with pytest.raises(OutputError, match=r"of another job, b{12} of 2026-11-20T10:00:00\+00:00\. Give"):
        new_product(tmp_path).finished()


def leave(product: Product, *, days: float = 0) -> Path:
    """What an interrupted run leaves, last changed so many days ago; returns its folder."""
    part = product.parts.path(0, 0)
    part.parent.mkdir(parents=True)
    part.write_text("a part")
    for path in (part, part.parent, product.work):
        os.utime(path, (time.time() - 86400 * days,) * 2)
    return product.work


def test_a_finished_product_removes_what_interrupted_runs_of_other_jobs_left(tmp_path) -> None:
    mine = new_product(tmp_path)
    dead, running, here, unknown, old, elsewhere, old_elsewhere = (
        new_product(tmp_path, job=letter * 64) for letter in "bcdef01"
    )
    for product in (dead, elsewhere, old_elsewhere):
        with product.claimed():
            leave(product)
    (elsewhere.work / "claim").write_text("another machine")
    (old_elsewhere.work / "claim").write_text("another machine")
    for path in old_elsewhere.work.rglob("*"):
        os.utime(path, (0, 0))
    os.utime(old_elsewhere.work, (0, 0))
    leave(unknown, days=1)
    leave(old, days=8)
    names = (f".scene-2-{'a' * 16}.work", ".scene-north.work", f"scene-{'a' * 16}.work")
    not_ours = [tmp_path / name for name in names]
    for folder in not_ours:
        folder.mkdir()
        os.utime(folder, (0, 0))
    script = (
        "import sys\nfrom pathlib import Path\nfrom geoseg.products import Product\n"
        "p = Product(folder=Path(sys.argv[1]), stem='scene', job='c' * 64, attempt='c' * 64)\n"
        "with p.claimed():\n    p.parts.folder.mkdir()\n    print('ready', flush=True)\n    input()\n"
    )
    command, pipe = [sys.executable, "-c", script, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with here.claimed(), mine.claimed():
            leave(here)
            leave(mine)
            mine.complete(manifest_of(FACTS))
        left = {path for path in tmp_path.iterdir() if path.is_dir()}
        assert left == {*not_ours, running.work, here.work, unknown.work, elsewhere.work}
        other.kill()
    mine.complete(manifest_of(FACTS))
    left = {path for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {*not_ours, unknown.work, elsewhere.work}


def test_a_run_that_left_no_part_leaves_nothing(tmp_path) -> None:
    product = new_product(tmp_path)
    with pytest.raises(ZeroDivisionError), product.claimed():
        assert product.work.exists()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), product.claimed():
        leave(product)
        raise ZeroDivisionError
    assert product.parts.path(0, 0).exists()


def test_a_run_that_begins_while_its_folder_is_removed_makes_it_anew(tmp_path) -> None:
    product = new_product(tmp_path)
    with product.claimed():
        leave(product)
    begun = threading.Event()

    def begin() -> bool:
        with product.claimed():
            begun.set()
            return (product.work / "claim").exists()

    with ThreadPoolExecutor(1) as pool:
        with unclaimed(product.work / "claim") as free:
            assert free is True
            later = pool.submit(begin)
            assert not begun.wait(0.2)
            shutil.rmtree(product.work)
        assert later.result(10)


def test_jobs_never_share_parts(tmp_path) -> None:
    assert new_product(tmp_path).parts.folder != new_product(tmp_path, job="b" * 64).parts.folder
