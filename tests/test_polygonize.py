"""Vectorising any class raster: small tiles, foreign legends, real land cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from pyproj import Geod
from rasterio.transform import from_origin

from geoseg import polygonize
from geoseg.errors import GeosegError, LabelError, OutputError, SceneError, UsageError
from geoseg.execute import Execution
from geoseg.legend import Legend, LegendClass
from geoseg.polygonize import vectorize
from geoseg.raster.legends import legend_tag


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


@pytest.mark.parametrize("threads", [1, 3])
def test_small_tiles_give_the_polygons_of_one_large_tile(
    make_raster, legend, tmp_path, monkeypatch, threads
) -> None:
    path = make_raster(blobs(), nodata=255)
    whole = vectorize(path, tmp_path / "whole.gpkg", legend=legend)
    monkeypatch.setattr(polygonize, "TILE_PX", 17)
    seen = []
    cut = vectorize(
        path,
        tmp_path / "cut.gpkg",
        legend=legend,
        execution=Execution(threads=threads),
        on_progress=lambda *event: seen.append(event),
    )
    assert seen[-1] == ("tiles", 48, 48)
    assert cut.polygons == whole.polygons > 50
    assert cut.pixels == whole.pixels
    assert features(tmp_path / "cut.gpkg") == features(tmp_path / "whole.gpkg")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".gpkg", ".gpkg", ".tif"]


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
    """A mask of 0 and 255 with nodata 0 is neither empty nor silently cut: 255 is no class id."""
    values = blobs(ids=(1, 2), nodata=0)
    found = vectorize(make_raster(values, nodata=0), tmp_path / "a.gpkg")
    assert (found.legend.nodata, found.legend.names) == (0, ("class 1", "class 2"))
    assert found.pixels[0] == (values == 0).sum()
    values[0, 0] = 255
    with pytest.raises(LabelError, match=r"Expected class ids 0 to 254 \(nodata is 0\); found pixels of 255"):
        vectorize(make_raster(values, nodata=0), tmp_path / "b.gpkg")


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
    refused(bands, r"not a class raster: .*rgb\.tif.*found 3 band\(s\) of uint8", SceneError)
    real = make_raster(np.zeros((9, 9), np.float32), name="real.tif")
    refused(real, r"found 1 band\(s\) of float32.*-ot Byte", SceneError)
    refused(tmp_path / "none.tif", r"no such file: .*none\.tif", SceneError)
    classes = make_raster(blobs(ids=(0, 3, 9, 11)), name="classes.tif", nodata=255)
    refused(classes, r"not in the legend: .*Expected class ids 0, 3, 7 or nodata 255; found 9, 11",
            LabelError, legend=legend)  # fmt: skip
    refused(
        classes, r"unknown output format: .*out\.shp.*ends in \.gpkg", OutputError, out=tmp_path / "out.shp"
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
