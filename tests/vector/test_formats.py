import json
from dataclasses import replace

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from feature_batches import LEGEND, feature_batch, parts, random_map
from odc.geo.geobox import GeoBox
from pyproj import CRS

from geoseg.errors import LabelError, OutputError, UsageError
from geoseg.vector import formats
from geoseg.vector.features import Layer
from geoseg.vector.formats import FORMATS, write_features

NORTH_UP = Affine(10, 0, 500000, 0, -10, 5200000)
GEOBOX = GeoBox((40, 50), NORTH_UP, "EPSG:32631")
LAYER = Layer(geobox=GEOBOX, legend=LEGEND, description="What grows", metadata={"job": "1234"})
COLUMNS = [
    *("region_id", "class_id", "class_name", "area_m2", "perimeter_m", "pixels"),
    *("mean_confidence", "min_confidence", "geometry"),
]


@pytest.fixture(scope="module")
def batch():
    confidence = np.random.default_rng(0).integers(0, 101, (40, 50)).astype(np.uint8)
    confidence[:20] = 255
    return feature_batch(random_map(), GEOBOX, confidence=confidence)


def read(path):
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return pyogrio.read_dataframe(path, **({"layer": "landuse"} if path.suffix == ".gpkg" else {}))


def geometry_of(batch):
    return batch.outlines.to_shapely(NORTH_UP)


@pytest.mark.parametrize("name", ["parquet", "fgb", "gpkg"])
@pytest.mark.parametrize("size", [7, 10**6])
def test_formats_in_the_scenes_crs_hold_what_was_written(tmp_path, batch, name, size):
    path = tmp_path / f"a.{name}"
    totals = write_features({name: path}, parts(batch, size), layer=LAYER)
    frame = read(path).sort_values("region_id")
    assert totals.count == len(frame) == len(batch)
    assert frame.columns.tolist() == COLUMNS
    assert frame.crs.to_epsg() == 32631
    assert shapely.equals(frame.geometry.to_numpy(), geometry_of(batch)).all()
    assert frame.geometry.exterior.is_ccw.all()
    for column in ("region_id", "class_id", "area_m2", "perimeter_m", "pixels"):
        assert frame[column].tolist() == getattr(batch, column).tolist()
    assert frame.class_name.tolist() == [
        dict(zip(LEGEND.ids, LEGEND.names, strict=True))[i] for i in batch.class_id
    ]
    none = batch.confidence_count == 0
    assert none.any()
    assert np.array_equal(frame.mean_confidence.isna(), none)
    assert np.array_equal(frame.min_confidence.isna(), none)
    assert frame.min_confidence[~none].tolist() == batch.min_confidence[~none].tolist()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_geojson_follows_its_rfc(tmp_path, batch):
    path = tmp_path / "a.geojson"
    write_features({"geojson": path}, [batch], layer=replace(LAYER, crs=CRS.from_epsg(3857)))
    document = json.loads(path.read_text())
    assert "crs" not in document
    assert document["type"] == "FeatureCollection"
    feature = document["features"][0]
    assert list(feature["properties"]) == COLUMNS[:-1]
    assert feature["properties"]["mean_confidence"] is None
    lon, lat = feature["geometry"]["coordinates"][0][0]
    assert (lon, lat) == pytest.approx((3, 46.953), abs=0.01), "longitude comes first"
    frame = read(path)
    assert len(frame) == len(batch)
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.exterior.is_ccw.all(), "right-hand rule"
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    back = frame.to_crs(32631)
    assert back.area.to_numpy() == pytest.approx(shapely.area(geometry_of(batch)), abs=1)


def test_geojson_is_cut_at_the_date_line(tmp_path):
    geobox = GeoBox((10, 40), Affine(0.1, 0, 178, 0, -0.1, 5), "EPSG:4326")
    whole = feature_batch(np.zeros((10, 40), np.uint8), geobox)
    write_features({"geojson": tmp_path / "a.geojson"}, [whole], layer=Layer(geobox=geobox, legend=LEGEND))
    (geometry,) = read(tmp_path / "a.geojson").geometry
    assert geometry.equals(shapely.union(shapely.box(178, 4, 180, 5), shapely.box(-180, 4, -178, 5)))


def test_parquet_says_what_it_is(tmp_path, batch):
    path = tmp_path / "a.parquet"
    write_features({"parquet": path}, parts(batch, 100), layer=LAYER)
    metadata = pq.read_metadata(path).metadata
    assert metadata[b"description"] == b"What grows"
    assert metadata[b"job"] == b"1234"
    geo = json.loads(metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["geometry_types"] == ["Polygon"]
    assert column["orientation"] == "counterclockwise"
    assert CRS.from_json_dict(column["crs"]).to_epsg() == 32631
    assert column["bbox"] == shapely.total_bounds(geometry_of(batch)).tolist()
    box = (500100, 5199800, 500140, 5199840)
    found = geopandas.read_parquet(path, bbox=box)
    bounds = shapely.bounds(geometry_of(batch))
    hit = (
        (bounds[:, 0] <= box[2])
        & (bounds[:, 2] >= box[0])
        & (bounds[:, 1] <= box[3])
        & (bounds[:, 3] >= box[1])
    )
    assert sorted(found.region_id) == sorted(batch.region_id[hit])


def test_pmtiles_hold_every_region_at_the_deepest_zoom(tmp_path):
    rng = np.random.default_rng(0)
    classes = rng.choice(np.array([0, 1, 9], np.uint8), (8, 8)).repeat(6, 0).repeat(6, 1)
    geobox = GeoBox(classes.shape, NORTH_UP, "EPSG:32631")
    whole = feature_batch(classes, geobox)
    write_features(
        {"pmtiles": tmp_path / "a.pmtiles"}, [whole], layer=Layer(geobox=geobox, legend=LEGEND, name="cover")
    )
    info = pyogrio.read_info(tmp_path / "a.pmtiles")
    assert info["layer_name"] == "cover"
    frame = read(tmp_path / "a.pmtiles").dissolve("region_id").to_crs(32631)
    assert frame.index.tolist() == sorted(whole.region_id.tolist())
    assert frame.area.to_numpy() == pytest.approx(100.0 * whole.pixels[np.argsort(whole.region_id)], rel=0.15)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pmtiles"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_features_give_the_same_bytes(tmp_path, batch, name):
    some = batch.part(0, 60)
    paths = [tmp_path / f"{i}.{name}" for i in (1, 2)]
    for path in paths:
        write_features({name: path}, parts(some, 25), layer=LAYER)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_all_formats_come_from_one_pass(tmp_path, batch, monkeypatch):
    monkeypatch.setattr(formats, "_FEATURES_AT_ONCE", 50)
    some, asked = batch.part(0, 300), []

    def once():
        for part in parts(some, 30):
            asked.append(len(part))
            yield part

    paths = {name: tmp_path / f"a.{name}" for name in FORMATS if name != "pmtiles"}
    totals = write_features(paths, once(), layer=LAYER)
    assert totals.count == sum(asked) == 300
    for name, path in paths.items():
        alone = tmp_path / f"alone.{name}"
        write_features({name: alone}, parts(some, 30), layer=LAYER)
        assert path.read_bytes() == alone.read_bytes(), name


@pytest.mark.parametrize("name", ["gpkg", "parquet", "fgb", "geojson", "pmtiles"])
def test_no_features_are_an_empty_file(tmp_path, name):
    path = tmp_path / f"a.{name}"
    assert write_features({name: path}, [], layer=LAYER).count == 0
    assert len(read(path)) == 0


@pytest.mark.parametrize("name", ["gpkg", "parquet", "fgb"])
def test_reprojection_is_asked_for_by_crs(tmp_path, batch, name):
    path = tmp_path / f"a.{name}"
    write_features({name: path}, [batch], layer=replace(LAYER, crs=CRS.from_epsg(3035)))
    frame = read(path)
    assert frame.crs.to_epsg() == 3035
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert frame.sort_values("region_id").area_m2.tolist() == batch.area_m2.tolist()


@pytest.mark.parametrize("name", ["gpkg", "parquet", "fgb", "geojson"])
def test_regions_of_several_pieces(tmp_path, name):
    whole = feature_batch(random_map(), GEOBOX, connectivity=8)
    path = tmp_path / f"a.{name}"
    write_features({name: path}, parts(whole, 100), layer=replace(LAYER, multi=True))
    frame = read(path)
    assert set(frame.geom_type) == {"MultiPolygon"}
    assert (shapely.get_num_geometries(frame.geometry.to_numpy()) > 1).any()


@pytest.mark.parametrize("names", [["fgb"], ["parquet"], ["gpkg"], ["gpkg", "fgb", "parquet"]])
def test_errors_of_the_batches_come_through_as_they_are(tmp_path, batch, names, monkeypatch):
    monkeypatch.setattr(formats, "_FEATURES_AT_ONCE", 1)

    def broken():
        yield batch.part(0, 50)
        yield batch.part(50, 100)
        raise FileNotFoundError("a part is gone")

    with pytest.raises(FileNotFoundError, match="a part is gone") as caught:
        write_features({n: tmp_path / f"a.{n}" for n in names}, broken(), layer=LAYER)
    assert not isinstance(caught.value, OutputError)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()], "nothing half made is left"


@pytest.mark.parametrize("names", [["fgb"], ["parquet"], ["parquet", "fgb", "gpkg"]])
def test_a_class_without_a_name_is_refused(tmp_path, batch, names):
    legend = replace(LEGEND, classes=LEGEND.classes[:2])
    with pytest.raises(LabelError, match="polygons of a class without a name"):
        write_features(
            {n: tmp_path / f"a.{n}" for n in names}, parts(batch, 9), layer=replace(LAYER, legend=legend)
        )


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_that_is_not_there_is_named(tmp_path, batch, name):
    with pytest.raises(OutputError, match=rf"cannot be written: .*missing/a\.{name}"):
        write_features({name: tmp_path / "missing" / f"a.{name}"}, [batch], layer=LAYER)


def test_one_writer_that_fails_ends_the_others(tmp_path, batch, monkeypatch):
    monkeypatch.setattr(formats, "_FEATURES_AT_ONCE", 1)
    paths = {
        "gpkg": tmp_path / "missing" / "a.gpkg",
        "fgb": tmp_path / "a.fgb",
        "parquet": tmp_path / "a.parquet",
    }
    with pytest.raises(OutputError, match="the GeoPackage cannot be written"):
        write_features(paths, parts(batch, 5), layer=LAYER)


@pytest.mark.parametrize("names", [["shp"], ["gpkg", "kml"], []])
def test_unknown_formats_are_refused(tmp_path, batch, names):
    with pytest.raises(UsageError, match="Expected one or more of gpkg, parquet, fgb, geojson, pmtiles"):
        write_features({n: tmp_path / f"a.{n}" for n in names}, [batch], layer=LAYER)


@pytest.mark.parametrize("name", ["geojson", "pmtiles"])
def test_formats_of_the_web_need_a_crs(tmp_path, name):
    geobox = GeoBox((5, 5), NORTH_UP, None)
    layer = Layer(geobox=geobox, legend=LEGEND)
    with pytest.raises(UsageError, match="Expected a scene with a CRS"):
        write_features({name: tmp_path / f"a.{name}"}, [], layer=layer)


@pytest.mark.parametrize("name", ["fgb", "parquet", "gpkg"])
def test_others_do_without(tmp_path, name):
    geobox = GeoBox((40, 50), NORTH_UP, None)
    path = tmp_path / f"a.{name}"
    write_features(
        {name: path}, [feature_batch(random_map(), geobox)], layer=Layer(geobox=geobox, legend=LEGEND)
    )
    frame = read(path)
    assert frame.crs is None or not frame.crs.is_geographic
    assert frame.area_m2.isna().all()
