"""Vectorising any class raster: small tiles, foreign legends, real land cover."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.transform import from_origin
from scipy import ndimage

from geoseg import outlining, polygonize
from geoseg.errors import ExecutionError, GeosegError, LabelError, OutputError, SceneError, UsageError
from geoseg.execute import Execution
from geoseg.legend import CodedClass, CodedLegend, Legend, LegendClass
from geoseg.polygonize import output_paths, vectorize
from geoseg.raster.legends import legend_tag
from geoseg.sieve import parse_area
from geoseg.vector.options import FORMATS, PolygonOptions, parse_distance


def blobs(shape=(120, 90), *, ids=(0, 7, 3), nodata=255, seed=0) -> np.ndarray:
    """Coarse classes with single odd pixels and a hole without data."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.array(ids, np.uint8), (shape[0] // 10, shape[1] // 10))
    values = coarse.repeat(10, 0).repeat(10, 1)
    odd = rng.random(shape) < 0.05
    values[odd] = rng.choice(np.array(ids, np.uint8), odd.sum())
    values[30:55, 20:48] = nodata
    return values


def features(path: Path) -> set[tuple]:
    _, _, geometry, columns = pyogrio.raw.read(path, layer="landuse")
    columns = [np.where(c != c, -1, c) if c.dtype.kind == "f" else c for c in columns]  # noqa: PLR0124 - NaN
    return set(zip(geometry.tolist(), *(c.tolist() for c in columns), strict=True))


EVERYTHING = {
    "as it is": {},
    "8": {"connectivity": 8},
    "min area": {"min_area": parse_area("0.1ha"), "class_fractions": True},
    "simplify": {"simplify": parse_distance("14m")},
    "smooth, keep outline": {"smooth": True, "keep_outline": True},
    "all at once": {
        "connectivity": 8,
        "min_area": parse_area("5px"),
        "simplify": parse_distance("1.5px"),
        "smooth": True,
    },
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_small_tiles_give_the_polygons_of_one_large_tile(
    make_raster, legend, tmp_path, monkeypatch, name
) -> None:
    path, options = make_raster(blobs(), nodata=255), PolygonOptions(**EVERYTHING[name])
    whole = vectorize(path, tmp_path / "whole.gpkg", legend=legend, options=options)
    monkeypatch.setattr(polygonize, "TILE_PX", 23)
    seen = []
    cut = vectorize(
        path,
        tmp_path / "cut.gpkg",
        legend=legend,
        options=options,
        execution=Execution(threads=3),
        on_progress=lambda *event: seen.append(event),
    )
    assert seen[-1] == ("cleaning" if options.min_area else "tiles", 24, 24)
    assert cut.polygons == whole.polygons > 15
    assert cut.pixels == whole.pixels
    assert cut.classes == whole.classes
    assert features(tmp_path / "cut.gpkg") == features(tmp_path / "whole.gpkg")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".gpkg", ".gpkg", ".tif"]
    again = vectorize(
        path, tmp_path / "again.gpkg", legend=legend, options=options, execution=Execution(threads=1)
    )
    assert again.path.read_bytes() == cut.path.read_bytes()


def test_worker_processes_make_the_same_file(make_raster, legend, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(polygonize, "TILE_PX", 50)
    path, options = make_raster(blobs(), nodata=255), PolygonOptions(**EVERYTHING["all at once"])
    made = [
        vectorize(path, tmp_path / f"{n}.gpkg", legend=legend, options=options, execution=execution).path
        for n, execution in enumerate([Execution(threads=1), Execution(workers=1)])
    ]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_polygons_hold_the_pixels_of_their_class(make_raster, legend, tmp_path) -> None:
    values = blobs()
    found = vectorize(make_raster(values, nodata=255), tmp_path / "out.gpkg", legend=legend)
    assert found.pixels == {i: int((values == i).sum()) for i in (0, 3, 7, 255)}
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    burnt = np.full(values.shape, 255, np.uint8)
    with rasterio.open(tmp_path / "scene.tif") as dataset:
        grid = dataset.transform
    rasterio.features.rasterize(zip(frame.geometry, frame.class_id, strict=True), out=burnt, transform=grid)
    assert np.array_equal(burnt, values)
    assert set(frame.class_name) == {"water", "forest", "field & meadow"}
    assert frame.mean_confidence.isna().all()


def test_confidence_becomes_a_mean_per_polygon(make_raster, legend, tmp_path) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[:, 15:] = 7
    percent = np.full((20, 30), 90, np.uint8)
    percent[:, :15] = 40
    percent[:10, :15] = 60
    percent[0, 0] = 255  # unknown: not counted
    classes = make_raster(values, name="classes.tif", nodata=255)
    confidence = make_raster(percent, name="confidence.tif", nodata=255)
    vectorize(classes, tmp_path / "out.gpkg", legend=legend, confidence=confidence)
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg", layer="landuse").set_index("class_name")
    assert frame.mean_confidence["forest"] == 90
    assert frame.mean_confidence["water"] == pytest.approx((149 * 60 + 150 * 40) / 299)
    elsewhere = make_raster(percent[:-1], name="small.tif", nodata=255)
    with pytest.raises(SceneError, match=r"does not lie on the class raster: .*small\.tif"):
        vectorize(classes, tmp_path / "other.gpkg", legend=legend, confidence=elsewhere)


def test_the_rasters_own_legend_is_used_before_one_is_made_up(make_raster, legend, tmp_path) -> None:
    path = make_raster(blobs(), nodata=255)
    made_up = vectorize(path, tmp_path / "a.gpkg").legend
    assert made_up.names == ("class 0", "class 3", "class 7")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**legend_tag(legend))
    assert vectorize(path, tmp_path / "b.gpkg").legend == legend


def test_a_legend_with_another_nodata_value(make_raster, tmp_path) -> None:
    """Class 0 is nodata here, and what the file masks is, too."""
    legend = Legend(classes=(LegendClass(id=7, name="a", color="#000000"),), nodata=0)
    path = make_raster(blobs(ids=(0, 7)), nodata=255)
    found = vectorize(path, tmp_path / "out.gpkg", legend=legend)
    assert set(found.pixels) == {0, 7}
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    assert set(frame.class_id) == {7}
    assert frame.pixels.sum() == found.pixels[7]


def test_the_files_nodata_value_decides_what_is_no_class(make_raster, tmp_path) -> None:
    values = blobs(ids=(1, 2), nodata=0)
    found = vectorize(make_raster(values, nodata=0), tmp_path / "a.gpkg")
    assert (found.legend.nodata, found.legend.names) == (0, ("class 1", "class 2"))
    assert found.pixels[0] == (values == 0).sum()


def test_255_that_nobody_declared_is_refused_not_dropped(make_raster, legend, tmp_path) -> None:
    """A mask of 0 and 255 would otherwise lose its foreground in silence."""
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:10] = 255
    with pytest.raises(LabelError, match=r"holds 255, and nothing says what it means.*-a_nodata 255"):
        vectorize(make_raster(mask), tmp_path / "out.gpkg")
    assert not (tmp_path / "out.gpkg").exists()
    declared = vectorize(make_raster(mask, name="b.tif", nodata=255), tmp_path / "out.gpkg")
    assert declared.polygons == 1
    assert vectorize(make_raster(mask, name="c.tif"), tmp_path / "c.gpkg", legend=legend).polygons == 1


def test_what_cannot_be_a_class_raster_is_refused(make_raster, legend, tmp_path) -> None:
    out = tmp_path / "out.gpkg"

    def refused(path: Path, message: str, kind: type[GeosegError], **options) -> None:
        with pytest.raises(kind, match=message):
            vectorize(path, options.pop("out", out), **options)
        assert not list(tmp_path.glob("*.gpkg"))
        assert not list(tmp_path.glob(".*"))

    bands = make_raster(np.zeros((3, 9, 9), np.uint8), name="rgb.tif")
    refused(bands, r"not a class raster: .*rgb\.tif.*found 3 bands .*--band 1 to --band 3", SceneError)
    refused(bands, r"no such band: .*rgb\.tif\. Expected one of 1, 2, 3; found --band 4", UsageError, band=4)
    real = make_raster(np.zeros((9, 9), np.float32), name="real.tif")
    refused(real, r"not a class raster: .*real\.tif.*found float32.*--as-integer", SceneError)
    half = make_raster(np.full((9, 9), 1.5, np.float32), name="half.tif")
    refused(half, r"values are not whole numbers: half.*found 1\.5", SceneError, as_integer=True)
    many = make_raster(np.arange(400, dtype=np.int32).reshape(20, 20), name="many.tif")
    refused(
        many, r"too many different values.*many\.tif\. Expected at most 254 classes; found 400", SceneError
    )
    coded = make_raster(np.array([[7, 300]], np.uint16), name="coded.tif")
    refused(coded, r"not in the legend: .*Expected class ids 0, 3, 7 or nodata 255; found 300", LabelError,
            legend=legend)  # fmt: skip
    refused(tmp_path / "none.tif", r"no such file: .*none\.tif", SceneError)
    classes = make_raster(blobs(ids=(0, 3, 9, 11)), name="classes.tif", nodata=255)
    refused(classes, r"not in the legend: .*Expected class ids 0, 3, 7 or nodata 255; found 9, 11",
            LabelError, legend=legend)  # fmt: skip
    refused(
        classes, r"unknown output format: .*out\.shp.*ends in \.gpkg, ", OutputError, out=tmp_path / "out.shp"
    )
    refused(
        classes, "a cleaned raster is what --min-area leaves", UsageError, cleaned=tmp_path / "cleaned.tif"
    )
    empty = make_raster(np.full((9, 9), 255, np.uint8), name="empty.tif", nodata=255)
    refused(empty, r"no class in the raster: .*empty\.tif", LabelError)
    (tmp_path / "file").write_text("")
    refused(
        classes, "output folder cannot be written: .*file", OutputError, out=tmp_path / "file" / "out.gpkg"
    )


def test_what_is_there_stays_without_overwrite(make_raster, legend, tmp_path) -> None:
    path, out = make_raster(blobs(), nodata=255), tmp_path / "out.gpkg"
    out.write_text("somebody's work")
    with pytest.raises(OutputError, match=r"something already: .*out\.gpkg.*--overwrite"):
        vectorize(path, out, legend=legend)
    assert out.read_text() == "somebody's work"
    unknown = make_raster(blobs(ids=(0, 99)), name="unknown.tif", nodata=255)
    with pytest.raises(LabelError):
        vectorize(unknown, out, legend=legend, overwrite=True)
    assert out.read_text() == "somebody's work"
    vectorize(path, out, legend=legend, overwrite=True)
    assert pyogrio.read_info(out, layer="landuse")["features"] > 50


def test_contradictory_execution_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="either --workers"):
        Execution(workers=1, scheduler="tcp://nowhere:1")


@pytest.mark.data
def test_real_land_cover_in_a_crs_without_a_code(real_data, tmp_path) -> None:
    """NOAA C-CAP: 21 classes of 30 m in custom Albers, an equal-area projection."""
    path = real_data / "s2-nc-coast" / "labels_image.tif"
    with rasterio.open(path) as dataset:
        values, valid = dataset.read(1), dataset.read_masks(1) > 0
        grid, crs = dataset.transform, dataset.crs
    found = vectorize(path, tmp_path / "out.gpkg")
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    pixel_m2 = abs(grid.determinant)
    assert frame.pixels.sum() == valid.sum()
    assert frame.area_m2.sum() == pytest.approx(valid.sum() * pixel_m2, rel=1e-4)
    assert frame.geometry.area.sum() == pytest.approx(valid.sum() * pixel_m2, rel=1e-9)
    by_class = frame.groupby("class_id").pixels.sum().to_dict()
    assert by_class == {int(i): int(((values == i) & valid).sum()) for i in np.unique(values[valid])}
    assert frame.geometry.is_valid.all()
    assert rasterio.CRS.from_user_input(frame.crs) == crs
    largest = frame.loc[frame.pixels.idxmax()]
    outline = frame.loc[[largest.name]].geometry.segmentize(3000).to_crs(4326).iloc[0]
    geodesic = abs(Geod(ellps="WGS84").geometry_area_perimeter(outline)[0])
    assert largest.area_m2 == pytest.approx(geodesic, rel=1e-3)


def test_areas_are_true_where_planar_ones_are_not(make_raster, legend, tmp_path) -> None:
    """Web Mercator at latitude 60: a pixel of 10 m is 5 m wide."""
    grid = from_origin(1_000_000, 8_399_738, 10, 10)
    path = make_raster(np.zeros((40, 50), np.uint8), crs="EPSG:3857", transform=grid, nodata=255)
    vectorize(path, tmp_path / "out.gpkg", legend=legend)
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg", layer="landuse")
    assert frame.area_m2.tolist() == pytest.approx([40 * 50 * 25], rel=0.01)


def test_after_a_minimum_mapping_unit_raster_and_polygons_are_one(make_raster, legend, tmp_path) -> None:
    values = blobs(seed=3)
    cleaned = tmp_path / "cleaned.tif"
    options = PolygonOptions(min_area=parse_area("12px"), class_fractions=True)
    found = vectorize(
        make_raster(values, nodata=255),
        tmp_path / "out.gpkg",
        legend=legend,
        options=options,
        cleaned=cleaned,
    )
    assert found.cleaned == cleaned
    with rasterio.open(cleaned) as dataset:
        after, grid = dataset.read(1), dataset.transform
    assert np.array_equal(after == 255, values == 255)
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    regions = np.zeros(values.shape, np.int32)
    shapes = zip(frame.geometry, range(1, len(frame) + 1), strict=True)
    rasterio.features.rasterize(shapes, out=regions, transform=grid)
    assert np.array_equal(np.concatenate([[255], frame.class_id])[regions], after)
    labels = sum(ndimage.label(after == i)[1] for i in (0, 3, 7))
    assert len(frame) == labels < 60
    assert frame.pixels.min() >= 12
    before = np.where(values == 255, 0, values)
    for class_id in (0, 3, 7):
        part = np.bincount(regions.ravel(), weights=(before == class_id).ravel())[1:]
        assert np.allclose(frame[f"share_{class_id}"], part / frame.pixels, rtol=0, atol=1e-12)
    assert (frame[["share_0", "share_3", "share_7"]].sum(axis=1) - 1).abs().max() < 1e-12
    assert {row.class_id: row.pixels for row in found.classes} == {
        i: int((after == i).sum()) for i in (0, 3, 7)
    }


@pytest.mark.parametrize("smooth", [False, True])
def test_generalised_polygons_are_a_coverage_without_gaps(make_raster, legend, tmp_path, smooth) -> None:
    values = blobs(seed=4)
    path = make_raster(values, nodata=255)
    raw = vectorize(path, tmp_path / "raw.gpkg", legend=legend)
    options = PolygonOptions(simplify=parse_distance("15m"), smooth=smooth, keep_outline=True)
    found = vectorize(path, tmp_path / "out.gpkg", legend=legend, options=options)
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert len(frame) == raw.polygons
    assert frame.geometry.area.sum() == pytest.approx(100 * (values != 255).sum(), rel=1e-12)
    assert shapely.get_num_coordinates(frame.geometry.to_numpy()).sum() < 6_000
    # The scene is on the central meridian, where UTM is 0.9996 of true length.
    assert frame.area_m2.tolist() == pytest.approx((frame.geometry.area / 0.9996**2).tolist(), rel=1e-5)
    assert frame.perimeter_m.tolist() == pytest.approx((frame.geometry.length / 0.9996).tolist(), rel=1e-5)
    change = {row.class_id: row.area_change_m2 for row in found.classes}
    for row in raw.classes:
        mine = frame[frame.class_id == row.class_id]
        assert mine.area_m2.sum() - row.area_m2 == pytest.approx(change[row.class_id], abs=1e-3)
    assert any(abs(value) > 1 for value in change.values())
    with rasterio.open(path) as dataset:
        burnt = np.full(values.shape, 255, np.uint8)
        shapes = zip(frame.geometry, frame.class_id, strict=True)
        rasterio.features.rasterize(shapes, out=burnt, transform=dataset.transform)
    inner = ndimage.minimum_filter(values, 5) == ndimage.maximum_filter(values, 5)
    assert np.array_equal(burnt[inner], values[inner])  # centres further than 15 m from any border
    assert (burnt != values).sum() > 0


def test_every_format_holds_the_same(make_raster, legend, tmp_path) -> None:
    path = make_raster(blobs(), nodata=255)
    found = vectorize(path, tmp_path / "out", legend=legend, options=PolygonOptions(formats=FORMATS))
    assert found.paths == {f: tmp_path / f"out.{f}" for f in FORMATS}
    pixels = sum(n for i, n in found.pixels.items() if i != 255)
    frames = {f: pyogrio.read_dataframe(found.paths[f], layer="landuse") for f in ("gpkg", "fgb")}
    frames["geojson"] = pyogrio.read_dataframe(found.paths["geojson"])
    frames["parquet"] = geopandas.read_parquet(found.paths["parquet"])
    for frame in frames.values():
        assert (len(frame), frame.pixels.sum()) == (found.polygons, pixels)
    assert frames["geojson"].crs == "EPSG:4326"
    assert frames["parquet"].crs == frames["fgb"].crs == "EPSG:32631"
    assert found.paths["pmtiles"].read_bytes().startswith(b"PMTiles")
    assert not list(tmp_path.glob(".*"))


def test_polygons_in_another_crs_still_share_their_borders(make_raster, legend, tmp_path) -> None:
    path = make_raster(blobs(), nodata=255)
    found = vectorize(path, tmp_path / "out.gpkg", legend=legend, options=PolygonOptions(crs="EPSG:3035"))
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    assert frame.crs == "EPSG:3035"
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    assert frame.geometry.area.sum() == pytest.approx(frame.area_m2.sum(), rel=1e-4)  # an equal-area CRS


CODES = {0: 311, 3: 112, 7: 3111}


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32"])
def test_codes_of_other_types_are_kept(make_raster, tmp_path, dtype) -> None:
    values = blobs()
    coded = np.full(values.shape, 9999, dtype)
    for class_id, code in CODES.items():
        coded[values == class_id] = code
    path = make_raster(coded, nodata=9999)
    options = PolygonOptions(min_area=parse_area("3px"), class_fractions=True)
    found = vectorize(
        path, tmp_path / "out.gpkg", as_integer=True, options=options, cleaned=tmp_path / "cleaned.tif"
    )
    assert found.legend.names == ("class 112", "class 311", "class 3111")
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    assert set(frame.class_id) == set(CODES.values())
    assert {"share_112", "share_311", "share_3111"} <= set(frame.columns)
    with rasterio.open(tmp_path / "cleaned.tif") as dataset:
        after, grid = dataset.read(1), dataset.transform
        assert dataset.nodata == 65535
    burnt = np.full(values.shape, 65535, np.uint16)
    rasterio.features.rasterize(zip(frame.geometry, frame.class_id, strict=True), out=burnt, transform=grid)
    assert np.array_equal(burnt, after)
    assert np.array_equal(after == 65535, values == 255)
    by_code = {found.codes[i]: n for i, n in found.pixels.items() if i in found.codes}
    assert by_code == {code: int((values == i).sum()) for i, code in CODES.items()}


def test_a_legend_of_codes_names_them(make_raster, tmp_path) -> None:
    values = np.array([[311, 311, 0], [112, 112, 0]], np.uint16)
    classes = (
        CodedClass(id=311, name="Broad-leaved forest", color="#80ff00"),
        CodedClass(id=112, name="Discontinuous urban fabric", color="#ff0000"),
    )
    path = make_raster(values)
    found = vectorize(path, tmp_path / "out.gpkg", legend=CodedLegend(classes=classes, nodata=0))
    frame = pyogrio.read_dataframe(found.path, layer="landuse").set_index("class_id")
    assert frame.class_name.to_dict() == {c.id: c.name for c in classes}
    assert frame.pixels.to_dict() == {311: 2, 112: 2}
    with pytest.raises(LabelError, match=r"Expected class ids 112, 311 or nodata None; found 0"):
        vectorize(path, tmp_path / "b.gpkg", legend=CodedLegend(classes=classes))


def test_small_codes_of_wide_types_stay_what_they_are(make_raster, tmp_path) -> None:
    values = blobs(ids=(10, 80)).astype(np.int16)
    values[values == 255] = -9999
    found = vectorize(make_raster(values, nodata=-9999), tmp_path / "out.gpkg")
    assert found.legend.ids.tolist() == [10, 80]
    assert found.codes == {10: 10, 80: 80}
    assert set(pyogrio.read_dataframe(found.path, layer="landuse").class_id) == {10, 80}


def test_one_band_of_several(make_raster, legend, tmp_path) -> None:
    values = np.stack([blobs(seed=1), blobs(seed=2)])
    path = make_raster(values, nodata=255)
    second = vectorize(path, tmp_path / "b.gpkg", legend=legend, band=2)
    alone = vectorize(
        make_raster(values[1], name="one.tif", nodata=255), tmp_path / "one.gpkg", legend=legend
    )
    assert features(second.path) == features(alone.path)


def test_an_interrupted_run_goes_on(make_raster, legend, tmp_path, monkeypatch) -> None:
    """In the first pass, then in the second: nothing is done twice, and the bytes are the same."""
    monkeypatch.setattr(polygonize, "TILE_PX", 25)
    path, out = make_raster(blobs(), nodata=255), tmp_path / "out" / "map.gpkg"
    options = PolygonOptions(min_area=parse_area("6px"), smooth=True)
    expected = vectorize(path, tmp_path / "expected.gpkg", legend=legend, options=options)
    with monkeypatch.context() as patched:
        patched.setattr(polygonize, "trace_part", failing_after(7, outlining.trace_part))
        with pytest.raises(ExecutionError, match="out of luck"):
            vectorize(path, out, legend=legend, options=options, execution=Execution(threads=1))
    assert len(list(out.parent.glob(".map-*.work/parts/*.npz"))) == 7
    with monkeypatch.context() as patched:
        patched.setattr(outlining, "clean_tile", failing_after(4, outlining.clean_tile))
        with pytest.raises(ExecutionError, match="out of luck"):
            vectorize(path, out, legend=legend, options=options, execution=Execution(threads=1))
    assert len(list(out.parent.glob(".map-*.work/cleaned/*.npz"))) == 4
    seen = []
    found = vectorize(
        path, out, legend=legend, options=options, on_progress=lambda *event: seen.append(event)
    )
    assert found.reused_tiles == 20
    assert ("cleaning", 4, 20) in seen
    assert out.read_bytes() == expected.path.read_bytes()
    assert [p.name for p in out.parent.iterdir()] == ["map.gpkg"]


def failing_after(count, function):
    """The function, which fails once it has been called so often."""
    left = [count]

    def fails(task):
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError("out of luck")
        return function(task)

    return fails


def test_parts_of_another_run_are_not_taken_for_ours(make_raster, legend, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(polygonize, "TILE_PX", 60)
    path, out = make_raster(blobs(), nodata=255), tmp_path / "map.gpkg"
    with monkeypatch.context() as patched:
        patched.setattr(polygonize, "trace_part", failing_after(2, outlining.trace_part))
        with pytest.raises(ExecutionError):
            vectorize(path, out, legend=legend, execution=Execution(threads=1))
    (left,) = out.parent.glob(".map-*.work")
    smooth = vectorize(path, out, legend=legend, options=PolygonOptions(smooth=True))
    assert smooth.reused_tiles == 0
    assert not left.exists()  # nobody will come back for them under this name


@pytest.mark.parametrize(
    ("out", "formats", "expected"),
    [
        ("a.gpkg", None, {"gpkg": "a.gpkg"}),
        ("a.FGB", None, {"fgb": "a.FGB"}),
        ("a.gpkg", ("gpkg", "geojson"), {"gpkg": "a.gpkg", "geojson": "a.geojson"}),
        ("a.v2", ("parquet", "pmtiles"), {"parquet": "a.v2.parquet", "pmtiles": "a.v2.pmtiles"}),
    ],
)
def test_names_of_outputs(tmp_path, out, formats, expected) -> None:
    assert output_paths(tmp_path / out, formats) == {f: tmp_path / name for f, name in expected.items()}


@pytest.mark.parametrize(
    ("out", "formats", "message"),
    [
        ("a", None, r"unknown output format: .*ends in \.gpkg, \.parquet, .*found no ending"),
        ("a.tif", None, r"found \.tif"),
        ("a.gpkg", ("fgb",), r"name is of another format: .*ends in \.fgb; found \.gpkg"),
    ],
)
def test_names_that_say_nothing_or_the_wrong_thing(tmp_path, out, formats, message) -> None:
    with pytest.raises(OutputError, match=message):
        output_paths(tmp_path / out, formats)


GRIDS = {
    "degrees": ("EPSG:4326", Affine(0.001, 0, 7.0, 0, -0.0007, 61.0)),
    "across the date line": ("EPSG:4326", Affine(0.001, 0, 179.97, 0, -0.001, -17.0)),
    "rotated": ("EPSG:32631", Affine(9, 3, 600000, 3, -9, 5200000)),
    "south-up": ("EPSG:32733", Affine(10, 0, 400000, 0, 10, 7000000)),
    "oblong": ("EPSG:32631", Affine(20, 0, 500000, 0, -5, 5200000)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_any_grid(make_raster, legend, tmp_path, name) -> None:
    """Valid, upright polygons whose numbers are those of geodesics."""
    crs, transform = GRIDS[name]
    path = make_raster(blobs(), nodata=255, crs=crs, transform=transform)
    options = PolygonOptions(min_area=parse_area("5ha" if "0.0" in str(transform.a) else "900m2"))
    found = vectorize(path, tmp_path / "out.gpkg", legend=legend, options=options)
    frame = pyogrio.read_dataframe(found.path, layer="landuse")
    assert frame.geometry.is_valid.all()
    assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry.to_numpy())).all()
    outlines = frame.geometry.segmentize(abs(transform.a) / 2).to_crs(4326)
    geod = Geod(ellps="WGS84")
    near = [geod.geometry_area_perimeter(outline) for outline in outlines]
    assert frame.area_m2.tolist() == pytest.approx([abs(area) for area, _ in near], rel=1e-4)
    assert frame.perimeter_m.tolist() == pytest.approx([length for _, length in near], rel=1e-4)
    assert frame.area_m2.min() >= (50_000 if options.min_area.value > 1000 else 900)


def test_a_mask_of_0_and_255_has_one_class(make_raster, tmp_path) -> None:
    values = np.where(blobs() == 3, 255, 0).astype(np.uint8)
    found = vectorize(make_raster(values, nodata=0), tmp_path / "mask.gpkg")
    frame = geopandas.read_file(found.paths["gpkg"], layer="landuse")
    assert set(frame["class_id"]) == {255}
    assert frame["pixels"].sum() == np.count_nonzero(values)
