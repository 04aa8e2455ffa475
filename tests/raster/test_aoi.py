from __future__ import annotations

import pickle

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.features import geometry_mask
from rasterio.transform import Affine

from geoseg.errors import UsageError
from geoseg.raster.aoi import Aoi, read_aoi
from geoseg.raster.scene import open_scene
from geoseg.windows import Window

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
LEFT, TOP = 500_000, 5_200_000


@pytest.fixture
def scene(make_raster):
    return open_scene(make_raster(np.zeros((1, 60, 80), np.uint8)))


@pytest.fixture
def make_file(tmp_path):
    def write(geometries, *, crs="EPSG:32631", name="area.gpkg", layer="area"):
        path = tmp_path / name
        geopandas.GeoDataFrame({"n": range(len(geometries))}, geometry=geometries, crs=crs).to_file(
            path, layer=layer, driver="GPKG"
        )
        return path

    return write


def px(x: float, y: float) -> tuple[float, float]:
    """A place given in columns and rows, in the scene's CRS."""
    return LEFT + 10 * x, TOP - 10 * y


def blob(cx: float, cy: float, size: float, seed: int = 0) -> shapely.Polygon:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.random(12)) * 2 * np.pi
    radius = size * (0.4 + 0.6 * rng.random(12))
    return shapely.Polygon(
        [px(cx + r * np.cos(a), cy + r * np.sin(a)) for r, a in zip(radius, angle, strict=True)]
    )


def test_without_an_area_it_is_the_whole_scene(scene) -> None:
    area = read_aoi(None, None, scene)
    assert area == Aoi(extent=Window(0, 0, 60, 80))
    assert area.mask(Window(50, 70, 10, 10), scene.geobox).all()


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((*px(10, 30), *px(20, 25)), Window(25, 10, 5, 10)),
        ((*px(10.4, 30.2), *px(20.1, 24.9)), Window(24, 10, 7, 11)),
        ((*px(10 + 1e-7, 30 - 1e-7), *px(20 - 1e-7, 25 + 1e-7)), Window(25, 10, 5, 10)),
        ((*px(-5, 100), *px(3, 55)), Window(55, 0, 5, 3)),
        ((*px(7.2, 8.3), *px(7.21, 8.2)), Window(8, 7, 1, 1)),
    ],
)
def test_a_box_on_the_grid_is_a_window_snapped_outwards(scene, box, window) -> None:
    area = read_aoi(None, box, scene)
    assert area == Aoi(extent=window)
    inside = area.mask(scene.window, scene.geobox)
    assert inside[window.slices()].all()
    assert inside.sum() == window.size


@given(
    seeds=st.lists(st.integers(0, 999), min_size=1, max_size=3),
    row=st.integers(0, 59),
    col=st.integers(0, 79),
    height=st.integers(0, 60),
    width=st.integers(0, 80),
)
@SHARED
def test_the_mask_is_rasterios_and_the_same_in_every_window(
    scene, monkeypatch, seeds, row, col, height, width
) -> None:
    monkeypatch.setattr("geoseg.raster.aoi._BLOCK_PX", 16)
    shapes = [blob(10 + s % 60, 10 + s % 37, 25, s) for s in seeds]
    area = Aoi(extent=scene.window, wkb=shapely.to_wkb(shapely.union_all(shapes)))
    affine = Affine(10, 0, LEFT, 0, -10, TOP)
    expected = geometry_mask([shapely.union_all(shapes)], (60, 80), affine, invert=True)
    whole = area.mask(scene.window, scene.geobox)
    assert np.array_equal(whole, expected)
    window = Window(row, col, min(height, 60 - row), min(width, 80 - col))
    assert np.array_equal(area.mask(window, scene.geobox), whole[window.slices()])


def test_the_extent_holds_the_whole_area(scene, make_file) -> None:
    shapes = [blob(30, 30, 20), blob(55, 40, 9, seed=2)]
    area = read_aoi(make_file(shapes), None, scene)
    whole = area.mask(scene.window, scene.geobox)
    expected = geometry_mask(shapes, (60, 80), Affine(10, 0, LEFT, 0, -10, TOP), invert=True)
    assert np.array_equal(whole, expected)
    rows, cols = np.nonzero(whole)
    for edge, first in ((area.extent.row, rows.min()), (area.extent.col, cols.min())):
        assert first - 1 <= edge <= first
    for edge, last in ((area.extent.stop_row, rows.max()), (area.extent.stop_col, cols.max())):
        assert last + 1 <= edge <= last + 2


def test_edges_through_pixel_centres_fall_the_same_way_in_every_split(scene, make_file, monkeypatch) -> None:
    """Ties are where rounding would show: an edge through centres, diagonals through corners and centres."""
    monkeypatch.setattr("geoseg.raster.aoi._BLOCK_PX", 8)
    corners = [(3.5, 2.5), (40.5, 39.5), (70.5, 39.5), (70.5, 9.5), (33.5, 9.5)]
    area = read_aoi(make_file([shapely.Polygon([px(*c) for c in corners])]), None, scene)
    whole = area.mask(scene.window, scene.geobox)
    for step in (1, 7, 13):
        for row in range(0, 60, step):
            strip = Window(row, 0, min(step, 60 - row), 80)
            assert np.array_equal(area.mask(strip, scene.geobox), whole[strip.slices()])
    assert whole.any()


def test_holes_and_touching_parts_are_kept_apart_and_together(scene, make_file) -> None:
    outer = shapely.box(*px(5, 50), *px(50, 5)).difference(shapely.box(*px(20, 30), *px(30, 20)))
    island = shapely.box(*px(24, 26), *px(26, 24))
    area = read_aoi(make_file([outer, island, shapely.MultiPolygon()]), None, scene)
    inside = area.mask(scene.window, scene.geobox)
    assert inside.sum() == 45 * 45 - 10 * 10 + 4
    assert area.extent == Window(5, 5, 45, 45)


def test_an_area_in_another_crs_follows_its_curved_edges(make_raster, make_file) -> None:
    """A parallel over 3 degrees bends by 1.5 km in UTM: straight between its ends it would be far off."""
    scene = open_scene(
        make_raster(np.zeros((1, 400, 800), np.uint8), transform=Affine(300, 0, 400_000, 0, -300, 5_260_000))
    )
    degrees = shapely.box(1.9, 46.8, 4.8, 47.2)
    area = read_aoi(make_file([degrees], crs="EPSG:4326"), None, scene)
    rows, cols = np.indices((400, 800))
    back = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    lon, lat = back.transform(400_000 + 300 * (cols + 0.5), 5_260_000 - 300 * (rows + 0.5))
    expected = (lon > 1.9) & (lon < 4.8) & (lat > 46.8) & (lat < 47.2)
    inside = area.mask(scene.window, scene.geobox)
    assert expected.sum() > 50_000
    assert (inside != expected).sum() < 150  # of about 2000 pixels on the edge, those within 0.1 px of it
    box = read_aoi(None, (1.9, 46.8, 4.8, 47.2), scene, bbox_crs="EPSG:4326")
    assert np.array_equal(box.mask(scene.window, scene.geobox), inside)


def test_an_area_of_the_whole_world_is_cut_before_it_is_reprojected(scene, make_file) -> None:
    """Most of it has no place in the scene's UTM zone."""
    area = read_aoi(make_file([shapely.box(-180, -90, 180, 90)], crs="EPSG:4326"), None, scene)
    assert area.extent == scene.window
    assert area.mask(scene.window, scene.geobox).all()
    assert len(area.wkb) < 5_000


def test_a_scene_across_the_date_line(make_raster, make_file) -> None:
    scene = open_scene(
        make_raster(
            np.zeros((1, 50, 50), np.uint8),
            crs="EPSG:32601",
            transform=Affine(1000, 0, 250_000, 0, -1000, 5_000_000),
        )
    )
    sides = [shapely.box(179, 40, 180, 50), shapely.box(-180, 40, -179, 50)]
    area = read_aoi(make_file(sides, crs="EPSG:4326"), None, scene)
    assert area.mask(scene.window, scene.geobox).mean() > 0.99


def test_a_turned_grid_takes_a_box_as_a_polygon(make_raster) -> None:
    scene = open_scene(make_raster(np.zeros((1, 40, 40), np.uint8), transform=Affine(8, 6, LEFT, 6, -8, TOP)))
    box = (LEFT + 150, TOP - 40, LEFT + 250, TOP + 30)
    area = read_aoi(None, box, scene)
    rows, cols = np.indices((40, 40)) + 0.5
    x, y = LEFT + 8 * cols + 6 * rows, TOP + 6 * cols - 8 * rows
    expected = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
    assert np.array_equal(area.mask(scene.window, scene.geobox), expected)


def test_it_travels_and_its_digest_tells_areas_apart(scene, make_file) -> None:
    area = read_aoi(make_file([blob(30, 30, 20)]), None, scene)
    copy = pickle.loads(pickle.dumps(area))  # noqa: S301 - our own bytes
    assert copy == area
    assert copy.digest == area.digest
    others = [
        read_aoi(None, None, scene),
        read_aoi(make_file([blob(30, 30, 20, seed=1)]), None, scene),
        Aoi(extent=area.extent),
    ]
    assert len({a.digest for a in [area, *others]}) == 4


def test_repaired_polygons_count_and_points_and_lines_do_not(scene, make_file) -> None:
    bow_tie = shapely.Polygon([px(10, 10), px(30, 30), px(30, 10), px(10, 30)])
    inside = read_aoi(make_file([bow_tie]), None, scene).mask(scene.window, scene.geobox)
    assert inside.sum() == pytest.approx(200, abs=20)
    with pytest.raises(
        UsageError, match=r"area of interest: .*area\.gpkg. Expected polygons; found LineString, Point"
    ):
        read_aoi(make_file([shapely.Point(px(1, 1)), shapely.LineString([px(1, 1), px(2, 2)])]), None, scene)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_cannot_be_used_is_told(scene, make_file, tmp_path) -> None:
    path = make_file([blob(30, 30, 20)])
    with pytest.raises(UsageError, match="given twice"):
        read_aoi(path, (0, 0, 1, 1), scene)
    with pytest.raises(UsageError, match="Expected a vector file"):
        read_aoi(tmp_path / "none.gpkg", None, scene)
    with pytest.raises(UsageError, match=r"found no feature"):
        read_aoi(make_file([shapely.Polygon()], name="empty.gpkg"), None, scene)
    with pytest.raises(UsageError, match=r"Expected a CRS; found none"):
        read_aoi(make_file([blob(30, 30, 20)], crs=None, name="nowhere.gpkg"), None, scene)
    with pytest.raises(UsageError, match=r"does not meet the scene: .*far\.gpkg.*Expected a part of scene"):
        read_aoi(make_file([blob(300, 300, 20)], name="far.gpkg"), None, scene)
    with pytest.raises(UsageError, match="does not meet the scene"):
        read_aoi(make_file([shapely.box(100, -40, 101, -39)], crs="EPSG:4326", name="far.gpkg"), None, scene)
    with pytest.raises(UsageError, match=r"does not meet the scene: box 1, 2, 3, 4"):
        read_aoi(None, (1, 2, 3, 4), scene)
    with pytest.raises(UsageError, match="the box is empty: xmin 3"):
        read_aoi(None, (3, 2, 1, 4), scene)
    with pytest.raises(UsageError, match=r"CRS of the area is not known: EPSG:99999999"):
        read_aoi(None, (1, 2, 3, 4), scene, bbox_crs="EPSG:99999999")


def test_a_file_of_several_layers_needs_a_choice(scene, make_file) -> None:
    make_file([blob(30, 30, 20)], layer="a")
    path = make_file([blob(10, 10, 5)], layer="b")
    with pytest.raises(UsageError, match=r"--aoi-layer to say which; found a, b"):
        read_aoi(path, None, scene)
    with pytest.raises(UsageError, match=r"Expected layer 'c'; found a, b"):
        read_aoi(path, None, scene, layer="c")
    small, large = (read_aoi(path, None, scene, layer=n).extent.size for n in ("b", "a"))
    assert small < large
