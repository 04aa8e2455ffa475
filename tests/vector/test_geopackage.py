import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from feature_batches import LEGEND, NODATA, feature_batch, parts, random_map
from odc.geo.geobox import GeoBox

from geoseg.errors import LabelError, OutputError
from geoseg.vector import geopackage
from geoseg.vector.features import Layer
from geoseg.vector.geopackage import write_geopackage

NORTH_UP = Affine(10, 0, 500000, 0, -10, 5200000)
ENGINEERING_FEET = (
    'LOCAL_CS["site grid",LOCAL_DATUM["site",32767],UNIT["foot",0.3048],AXIS["X",EAST],AXIS["Y",NORTH]]'
)


def write(
    path, classes, *, crs="EPSG:32631", affine=NORTH_UP, confidence=None, size=300, connectivity=4, **layer
):
    geobox = GeoBox(classes.shape, affine, crs)
    batch = feature_batch(classes, geobox, confidence=confidence, connectivity=connectivity)
    whole = Layer(geobox=geobox, legend=LEGEND, multi=connectivity == 8, **layer)
    totals = write_geopackage(path, parts(batch, size), layer=whole)
    return totals.count, geopandas.read_file(path, layer=whole.name)


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
    assert list(frame.columns) == [
        *("region_id", "class_id", "class_name", "area_m2", "perimeter_m", "pixels"),
        *("mean_confidence", "min_confidence", "geometry"),
    ]
    assert frame.crs.to_epsg() == 32631
    assert frame.class_id.tolist() == [0, 9]
    assert frame.class_name.tolist() == ["Water", "Äcker"]
    assert frame.pixels.tolist() == [100, 60]
    assert frame.region_id.tolist() == [5 * 30 + 8, 20 * 30]
    assert frame.mean_confidence.tolist() == [80, 60]
    assert frame.min_confidence.tolist() == [80, 40]
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
    assert frame.min_confidence.isna().all()
    assert frame.region_id.is_unique


def test_the_file_is_a_sound_geopackage(tmp_path):
    path = tmp_path / "a.gpkg"
    count, _ = write(path, random_map(), name="cover", description="What grows", metadata={"job": "1234"})
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert query(path, "PRAGMA foreign_key_check") == []
    assert path.read_bytes()[68:72] == b"GPKG"
    assert query(path, "SELECT count(*) FROM rtree_cover_geom") == [(count,)]
    assert query(path, "SELECT rtreecheck('rtree_cover_geom')") == [("ok",)]
    contents = query(path, "SELECT table_name, data_type, description FROM gpkg_contents ORDER BY 1")
    assert contents == [
        ("class_summary", "attributes", "Totals of cover by class"),
        ("cover", "features", "What grows"),
        ("layer_styles", "attributes", ""),
    ]
    assert query(path, "SELECT geometry_type_name FROM gpkg_geometry_columns") == [("POLYGON",)]
    assert "1234" in query(path, "SELECT metadata FROM gpkg_metadata")[0][0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"], "no journal is left"
    info = pyogrio.read_info(path, layer="cover")
    assert info["geometry_type"] == "Polygon"
    assert info["capabilities"]["fast_spatial_filter"]


def gdals_own(path, frame, name="landuse"):
    """The same layer as GDAL writes and indexes it."""
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    pyogrio.write_dataframe(
        frame, path, layer=name, driver="GPKG", GEOMETRY_NAME="geom", IDENTIFIER=name, SPATIAL_INDEX="YES"
    )
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def test_everything_but_the_rows_is_as_gdal_leaves_it(tmp_path):
    mine, theirs = tmp_path / "a.gpkg", tmp_path / "b.gpkg"
    _, frame = write(mine, random_map(), confidence=random_map(seed=3) % 101)
    gdals_own(theirs, frame)
    schema = (
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name LIKE '%landuse%' ORDER BY 1, 2"
    )
    assert query(mine, schema) == query(theirs, schema)
    for table in ("gpkg_extensions", "gpkg_ogr_contents", "gpkg_geometry_columns", "sqlite_sequence"):
        here, there = (query(p, f"SELECT * FROM {table}") for p in (mine, theirs))  # noqa: S608 - our names
        assert set(there) <= set(here), table
    contents = "SELECT * FROM gpkg_contents WHERE table_name = 'landuse'"
    assert query(mine, contents) == query(theirs, contents)
    rows = "SELECT * FROM landuse ORDER BY fid"
    assert query(mine, rows) == query(theirs, rows)
    boxes = "SELECT * FROM rtree_landuse_geom ORDER BY id"
    assert query(mine, boxes) == query(theirs, boxes)


def test_the_spatial_index_finds_what_is_there(tmp_path):
    _, frame = write(tmp_path / "a.gpkg", random_map((120, 120)))
    assert len(frame) > 51**2
    rng = np.random.default_rng(0)
    for west, north in rng.integers(-50, 1200, (25, 2)).tolist():
        box = (500000 + west, 5200000 - north - 95, 500000 + west + 95, 5200000 - north)
        found = geopandas.read_file(tmp_path / "a.gpkg", layer="landuse", bbox=box)
        expected = frame[frame.intersects(shapely.box(*box))]
        assert sorted(found.region_id) == sorted(expected.region_id)


def test_gdal_edits_the_file_and_keeps_index_and_count(tmp_path):
    path = tmp_path / "a.gpkg"
    count, frame = write(path, random_map())
    pyogrio.write_dataframe(frame.iloc[:9], path, layer="landuse", append=True)
    assert query(path, "SELECT feature_count FROM gpkg_ogr_contents") == [(count + 9,)]
    assert query(path, "SELECT rtreecheck('rtree_landuse_geom')") == [("ok",)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert query(path, "SELECT count(*), max(fid) FROM landuse") == [(count + 9, count + 9)]


def test_a_table_sums_up_the_classes(tmp_path):
    classes = random_map()
    _, frame = write(tmp_path / "a.gpkg", classes, confidence=np.full(classes.shape, 70, np.uint8))
    table = pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="class_summary")
    assert table.class_id.tolist() == [0, 1, 9]
    assert table.class_name.tolist() == ["Water", "Woods & <trees>", "Äcker"]
    assert table.color.tolist() == ["#0000ff", "#008000", "#ffcc00"]
    assert table.polygons.tolist() == frame.groupby("class_id").size().tolist()
    assert table.pixels.tolist() == [(classes == i).sum() for i in (0, 1, 9)]
    assert table.area_m2.tolist() == pytest.approx(frame.groupby("class_id").area_m2.sum().tolist())
    assert table.share.sum() == pytest.approx(1)
    assert table.mean_confidence.tolist() == [70, 70, 70]
    assert table.area_change_m2.isna().all()


def test_regions_of_several_pieces_are_multipolygons(tmp_path):
    count, frame = write(tmp_path / "a.gpkg", random_map(), connectivity=8)
    assert set(frame.geom_type) == {"MultiPolygon"}
    assert frame.is_valid.all()
    assert frame.geometry.count_coordinates().sum() > 0
    assert (shapely.get_num_geometries(frame.geometry.to_numpy()) > 1).any()
    assert frame.area.sum() == 100 * frame.pixels.sum()
    assert query(tmp_path / "a.gpkg", "SELECT geometry_type_name FROM gpkg_geometry_columns") == [
        ("MULTIPOLYGON",)
    ]
    assert count == len(frame)


def test_shares_and_codes_are_columns_and_styled(tmp_path):
    geobox = GeoBox((40, 50), NORTH_UP, "EPSG:32631")
    batch = feature_batch(random_map(), geobox)
    shares = np.random.default_rng(0).random((len(batch), 2))
    layer = Layer(geobox=geobox, legend=LEGEND, share_ids=(1, 9), codes={0: 111, 1: 312, 9: 3_000_000_000})
    write_geopackage(tmp_path / "a.gpkg", parts(replace(batch, shares=shares), 100), layer=layer)
    frame = pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="landuse")
    assert frame.columns[-3:].tolist() == ["share_312", "share_3000000000", "geometry"]
    assert np.array_equal(frame[["share_312", "share_3000000000"]].to_numpy(), shares)
    assert set(frame.class_id) == {111, 312, 3_000_000_000}
    table = pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="class_summary")
    assert table.class_id.tolist() == [111, 312, 3_000_000_000]
    ((qml, sld),) = query(tmp_path / "a.gpkg", "SELECT styleQML, styleSLD FROM layer_styles")
    values = [c.attrib["value"] for c in ET.fromstring(qml).findall(".//category")]  # noqa: S314 - our own text
    assert values == ["111", "312", "3000000000"]
    assert "<ogc:Literal>3000000000</ogc:Literal>" in sld


@pytest.mark.parametrize(
    "options", [{"OGR_SQLITE_JOURNAL": "WAL"}, {"OGR_SQLITE_PRAGMA": "auto_vacuum=1,page_size=8192"}]
)
def test_however_gdal_is_told_to_make_files(tmp_path, options):
    pyogrio.set_gdal_config_options(options)
    try:
        _, frame = write(tmp_path / "a.gpkg", random_map())
    finally:
        pyogrio.set_gdal_config_options(dict.fromkeys(options))
    assert query(tmp_path / "a.gpkg", "PRAGMA integrity_check") == [("ok",)]
    assert frame.pixels.sum() == (random_map() != NODATA).sum()


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
    monkeypatch.setattr(geopackage, "_MOST_AT_ONCE", 3)
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
        write_geopackage(tmp_path / "a.gpkg", broken(), layer=Layer(geobox=geobox, legend=LEGEND))
    assert not isinstance(caught.value, OutputError)
