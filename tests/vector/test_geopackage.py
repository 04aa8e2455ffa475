import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from geoseg.errors import LabelError, OutputError
from geoseg.legend import Legend, LegendClass
from geoseg.vector import geopackage
from geoseg.vector.area import pixel_areas
from geoseg.vector.geopackage import write_geopackage
from geoseg.vector.merge import merge_tiles
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

NODATA = 255
LEGEND = Legend(
    classes=(
        LegendClass(id=0, name="Water", color="#0000ff"),
        LegendClass(id=1, name="Woods & <trees>", color="#008000"),
        LegendClass(id=9, name="Äcker", color="#ffcc00"),
    )
)
NORTH_UP = Affine(10, 0, 500000, 0, -10, 5200000)
ENGINEERING_FEET = (
    'LOCAL_CS["site grid",LOCAL_DATUM["site",32767],UNIT["foot",0.3048],AXIS["X",EAST],AXIS["Y",NORTH]]'
)


def random_map(shape=(40, 50), seed=0):
    return np.random.default_rng(seed).choice(np.array([0, 0, 0, 1, 9, NODATA], np.uint8), shape)


def regions(classes, geobox, *, confidence=None, tile=16):
    height, width = classes.shape
    cores = [
        Window(r, c, min(tile, height - r), min(tile, width - c))
        for r in range(0, height, tile)
        for c in range(0, width, tile)
    ]
    tiles = {
        core: trace_tile(
            classes[core.slices()],
            confidence=None if confidence is None else confidence[core.slices()],
            pixel_area=pixel_areas(geobox, core),
            core=core,
            nodata=NODATA,
        )
        for core in cores
    }
    return merge_tiles(
        cores, load_edges=lambda c: tiles[c].edges, load_regions=tiles.__getitem__, scene_width=width
    )


def write(path, classes, *, crs="EPSG:32631", affine=NORTH_UP, confidence=None, **options):
    geobox = GeoBox(classes.shape, affine, crs)
    count = write_geopackage(
        path, regions(classes, geobox, confidence=confidence), geobox=geobox, legend=LEGEND, **options
    )
    return count, geopandas.read_file(path, layer=options.get("layer", "landuse"))


def query(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_polygons_come_back_with_their_columns_in_the_scenes_crs(tmp_path):
    classes = np.full((30, 30), NODATA, np.uint8)
    classes[5:15, 8:18] = 0
    classes[20:22, 0:30] = 9
    confidence = np.full((30, 30), 80, np.uint8)
    confidence[20, :] = 40
    count, frame = write(tmp_path / "a.gpkg", classes, confidence=confidence)
    assert count == len(frame) == 2
    names = ["class_id", "class_name", "area_m2", "pixels", "mean_confidence", "region_id", "geometry"]
    assert list(frame.columns) == names
    assert frame.crs.to_epsg() == 32631
    assert frame.class_id.tolist() == [0, 9]
    assert frame.class_name.tolist() == ["Water", "Äcker"]
    assert frame.pixels.tolist() == [100, 60]
    assert frame.region_id.tolist() == [5 * 30 + 8, 20 * 30]
    assert frame.mean_confidence.tolist() == [80, 60]
    assert frame.area_m2.tolist() == pytest.approx([100 * 100 / 0.9996**2, 60 * 100 / 0.9996**2], rel=1e-6)
    assert frame.geometry[0].equals(shapely.box(500080, 5199850, 500180, 5199950))
    assert frame.geometry[1].equals(shapely.box(500000, 5199780, 500300, 5199800))


def test_a_random_map_covers_its_valid_pixels_once(tmp_path):
    classes = random_map()
    _, frame = write(tmp_path / "a.gpkg", classes)
    assert frame.is_valid.all()
    assert frame.pixels.sum() == (classes != NODATA).sum()
    assert frame.area.sum() == shapely.union_all(frame.geometry.to_numpy()).area == 100 * frame.pixels.sum()
    assert set(frame.class_id) == {0, 1, 9}
    assert frame.mean_confidence.isna().all()
    assert frame.region_id.is_unique


def test_the_file_is_a_sound_geopackage(tmp_path):
    path = tmp_path / "a.gpkg"
    count, _ = write(path, random_map(), layer="cover", description="What grows", metadata={"job": "1234"})
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert query(path, "PRAGMA foreign_key_check") == []
    assert path.read_bytes()[68:72] == b"GPKG"
    assert query(path, "SELECT count(*) FROM rtree_cover_geom") == [(count,)]
    contents = query(path, "SELECT table_name, data_type, description FROM gpkg_contents ORDER BY 1")
    assert contents == [("cover", "features", "What grows"), ("layer_styles", "attributes", "")]
    assert query(path, "SELECT geometry_type_name FROM gpkg_geometry_columns") == [("POLYGON",)]
    assert "1234" in query(path, "SELECT metadata FROM gpkg_metadata")[0][0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"], "no journal is left"
    info = pyogrio.read_info(path, layer="cover")
    assert info["geometry_type"] == "Polygon"
    assert info["capabilities"]["fast_spatial_filter"]


def test_the_spatial_index_finds_what_is_there(tmp_path):
    _, frame = write(tmp_path / "a.gpkg", random_map())
    box = (500100, 5199800, 500140, 5199840)
    found = geopandas.read_file(tmp_path / "a.gpkg", layer="landuse", bbox=box)
    expected = frame[frame.intersects(shapely.box(*box))]
    assert 0 < len(found) < len(frame)
    assert sorted(found.region_id) == sorted(expected.region_id)


def test_the_default_style_is_embedded(tmp_path):
    path = tmp_path / "a.gpkg"
    write(path, random_map())
    columns = [row[1] for row in query(path, "PRAGMA table_info(layer_styles)")]
    assert columns == [
        *("id", "f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column"),
        *("styleName", "styleQML", "styleSLD", "useAsDefault", "description", "owner", "ui", "update_time"),
    ]
    ((table, geometry, default, qml, sld),) = query(
        path, "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, styleSLD FROM layer_styles"
    )
    assert (table, geometry, default) == ("landuse", "geom", 1)
    categories = ET.fromstring(qml).findall(".//category")  # noqa: S314 - our own text
    assert [c.attrib["label"] for c in categories] == ["Water", "Woods & <trees>", "Äcker"]
    assert ET.fromstring(sld.encode()).tag.endswith("StyledLayerDescriptor")  # noqa: S314


def test_no_polygons_give_a_valid_file_with_an_empty_layer(tmp_path):
    path = tmp_path / "a.gpkg"
    count, frame = write(path, np.full((20, 20), NODATA, np.uint8))
    assert count == len(frame) == 0
    assert frame.crs.to_epsg() == 32631
    assert {"class_id", "class_name", "area_m2", "region_id"} <= set(frame.columns)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert query(path, "SELECT count(*) FROM rtree_landuse_geom") == [(0,)]
    assert query(path, "SELECT count(*) FROM layer_styles") == [(1,)]


@pytest.mark.parametrize("at_once", [1, 150, 20_000])
def test_writing_twice_gives_the_same_bytes(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(geopackage, "_FEATURES_AT_ONCE", at_once)
    date = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
    for name in ("a.gpkg", "b.gpkg"):
        write(tmp_path / name, random_map(), metadata={"k": "v"}, date=date)
        time.sleep(1.1 if at_once == 1 else 0)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    dates = query(tmp_path / "a.gpkg", "SELECT DISTINCT last_change FROM gpkg_contents")
    assert dates == [("2024-02-03T04:05:06.000Z",)]


def test_how_many_are_written_at_once_does_not_matter(tmp_path, monkeypatch):
    _, whole = write(tmp_path / "a.gpkg", random_map())
    monkeypatch.setattr(geopackage, "_FEATURES_AT_ONCE", 1)
    _, single = write(tmp_path / "b.gpkg", random_map())
    assert whole.equals(single)
    assert query(tmp_path / "b.gpkg", "SELECT count(*) FROM rtree_landuse_geom") == [(len(single),)]


@pytest.mark.parametrize(
    "affine",
    [NORTH_UP, Affine(10, 0, 5e5, 0, 10, 5e6), Affine(6, 8, 5e5, 8, -6, 5e6), Affine(6, -8, 5e5, 8, 6, 5e6)],
)
def test_outer_rings_run_counter_clockwise_on_any_grid(tmp_path, affine):
    classes = random_map((12, 12))
    classes[0, 0] = 0
    _, frame = write(tmp_path / "a.gpkg", classes, affine=affine)
    assert frame.is_valid.all()
    assert frame.exterior.is_ccw.all()
    corner = frame[frame.region_id == 0].geometry.iloc[0]
    assert corner.covers(shapely.Point(affine.c, affine.f)), "pixel 0, 0 starts at the transform's origin"
    assert frame.area.sum() == pytest.approx(100 * (classes != NODATA).sum())


@pytest.mark.parametrize("crs", [None, ENGINEERING_FEET])
def test_scenes_that_are_nowhere_on_earth_keep_their_pixel_plane(tmp_path, crs):
    _, frame = write(tmp_path / "a.gpkg", random_map((9, 9)), crs=crs, affine=Affine(1, 0, 0, 0, -1, 0))
    assert tuple(frame.total_bounds) == (0, -9, 9, 0)
    if crs is None:
        assert frame.area_m2.isna().all()
    else:
        assert frame.area_m2.tolist() == pytest.approx((frame.pixels * 0.3048**2).tolist())


def test_what_is_at_the_path_is_replaced_with_its_journal(tmp_path):
    path = tmp_path / "a.gpkg"
    path.write_bytes(b"half a file")
    path.with_name("a.gpkg-journal").write_bytes(b"hot")
    write(path, random_map())
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]


def test_gdal_settings_are_restored(tmp_path):
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2001-01-01T00:00:00Z"})
    write(tmp_path / "a.gpkg", random_map())
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == "2001-01-01T00:00:00Z"
    assert pyogrio.get_gdal_config_option("OGR_SQLITE_SYNCHRONOUS") is None
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def test_a_class_that_the_legend_does_not_name_is_refused(tmp_path):
    with pytest.raises(LabelError, match=r"ids of the legend: \[0, 1, 9\]; found \[4\]"):
        write(tmp_path / "a.gpkg", np.full((4, 4), 4, np.uint8))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"the GeoPackage cannot be written: .*missing/a\.gpkg"):
        write(tmp_path / "missing" / "a.gpkg", random_map((5, 5)))


def test_errors_of_the_batches_are_not_taken_for_errors_of_the_file(tmp_path):
    def broken():
        raise FileNotFoundError("a part is gone")
        yield

    geobox = GeoBox((5, 5), NORTH_UP, "EPSG:32631")
    with pytest.raises(FileNotFoundError, match="a part is gone") as caught:
        write_geopackage(tmp_path / "a.gpkg", broken(), geobox=geobox, legend=LEGEND)
    assert not isinstance(caught.value, OutputError)
