import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from geoseg.errors import SceneError
from geoseg.vector.area import pixel_areas
from geoseg.windows import Window

ENGINEERING_FEET = (
    'LOCAL_CS["site grid",LOCAL_DATUM["site",32767],UNIT["foot",0.3048],AXIS["X",EAST],AXIS["Y",NORTH]]'
)


def block_area(geobox, window, *, points=60):
    """Geodesic area of the window's outline, its sides cut into many short geodesics."""
    t = np.linspace(0, 1, points, endpoint=False)
    zero, one = np.zeros_like(t), np.ones_like(t)
    col = window.col + window.width * np.concatenate([t, one, 1 - t, zero])
    row = window.row + window.height * np.concatenate([zero, t, one, 1 - t])
    a, b, c, d, e, f = geobox.affine[:6]
    x, y = a * col + b * row + c, d * col + e * row + f
    crs = CRS.from_user_input(geobox.crs.proj)
    base = crs.geodetic_crs
    degree = np.degrees(base.axis_info[0].unit_conversion_factor)
    lon, lat = Transformer.from_crs(crs, base, always_xy=True).transform(x, y)
    area, _ = crs.get_geod().polygon_area_perimeter(np.array(lon) * degree, np.array(lat) * degree)
    return abs(area)


def turned(degrees, *, x, y, width, height):
    """An affine with pixels of width x height, turned about the upper-left corner at (x, y)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Affine(cos * width, -sin * height, x, sin * width, cos * height, y)


GRIDS = {
    "geographic": ("EPSG:4326", Affine(0.001, 0, 7.0, 0, -0.001, 60.0)),
    "geographic south-up": ("EPSG:4326", Affine(0.001, 0, 7.0, 0, 0.002, -60.0)),
    "geographic rotated": ("EPSG:4326", turned(30, x=7, y=45, width=1e-3, height=1e-3)),
    "geographic coarse": ("EPSG:4326", Affine(0.25, 0, -50.0, 0, -0.25, 80.0)),
    "UTM": ("EPSG:32631", Affine(10, 0, 600000, 0, -10, 5200000)),
    "UTM far from its meridian": ("EPSG:32631", Affine(10, 0, 1000000, 0, -10, 5200000)),
    "UTM rotated": ("EPSG:32631", turned(20, x=6e5, y=5.2e6, width=10, height=-12)),
    "UTM south-up": ("EPSG:32733", Affine(30, 0, 400000, 0, 15, 7000000)),
    "web Mercator": ("EPSG:3857", Affine(20, 0, 1e6, 0, -20, 8399738)),
    "web Mercator, 1 km": ("EPSG:3857", Affine(1000, 0, 1e6, 0, -1000, 8399738)),
    "British grid": ("EPSG:27700", Affine(0.5, 0, 400000, 0, -0.5, 300000)),
    "US survey feet": ("EPSG:2263", Affine(3, 0, 900000, 0, -3, 200000)),
    "grads": ("EPSG:27572", Affine(25, 0, 600000, 0, -25, 2200000)),
    "over the pole": ("EPSG:3031", Affine(40, 0, -8000, 0, -40, 8000)),
    "with heights": ("EPSG:5698", Affine(5, 0, 700000, 0, -5, 6600000)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_areas_of_a_block_add_up_to_the_geodesic_area_of_its_outline(name):
    crs, affine = GRIDS[name]
    geobox = GeoBox((400, 420), affine, crs)
    window = Window(100, 130, 270, 190)
    areas = np.broadcast_to(pixel_areas(geobox, window), window.shape)
    assert areas.sum(dtype=np.float64) == pytest.approx(block_area(geobox, window, points=400), rel=1e-5)


@pytest.mark.parametrize("name", set(GRIDS) - {"British grid", "US survey feet"})
def test_area_of_a_pixel_is_that_of_its_outline(name):
    # Pixels of half a metre are left out: the oracle itself is off by more than 1e-5 there.
    crs, affine = GRIDS[name]
    geobox = GeoBox((400, 420), affine, crs)
    for row, col in [(0, 0), (255, 256), (399, 419)]:
        pixel = Window(row, col, 1, 1)
        expected = block_area(geobox, pixel, points=40)
        assert float(pixel_areas(geobox, pixel)[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_planar_area_of_web_mercator_would_be_four_times_too_large_at_latitude_60():
    crs, affine = GRIDS["web Mercator"]
    area = pixel_areas(GeoBox((10, 10), affine, crs), Window(0, 0, 10, 10))
    assert 400 / area.mean() == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("name", GRIDS)
def test_area_of_a_pixel_does_not_depend_on_the_window(name):
    crs, affine = GRIDS[name]
    geobox = GeoBox((700, 600), affine, crs)
    whole = np.broadcast_to(pixel_areas(geobox, Window(0, 0, 700, 600)), (700, 600))
    for window in [Window(0, 0, 1, 1), Window(255, 255, 3, 3), Window(300, 17, 330, 541)]:
        part = np.broadcast_to(pixel_areas(geobox, window), window.shape)
        np.testing.assert_array_equal(part, whole[window.slices()])


def test_sums_do_not_depend_on_the_order():
    crs, affine = GRIDS["UTM far from its meridian"]
    areas = pixel_areas(GeoBox((300, 300), affine, crs), Window(0, 0, 300, 300)).ravel()
    areas = areas.astype(np.float64)
    shuffled = np.random.default_rng(0).permutation(areas)
    assert np.cumsum(areas)[-1] == np.cumsum(shuffled)[-1] == areas[::-1].sum()


def test_rows_of_a_geographic_grid_share_an_area_and_the_globe_is_whole():
    geobox = GeoBox((181, 360), Affine(1, 0, -180, 0, -1, 90.5), "EPSG:4326")
    areas = pixel_areas(geobox, Window(0, 0, 181, 360))
    assert areas.shape == (181, 1)
    assert areas.sum(dtype=np.float64) * 360 == pytest.approx(5.10065621724e14, rel=1e-7)


def test_a_sphere_has_the_area_of_a_sphere():
    geobox = GeoBox((180, 360), Affine(1, 0, -180, 0, 1, -90), "+proj=longlat +R=1000 +type=crs")
    areas = pixel_areas(geobox, Window(0, 0, 180, 360))
    assert areas.sum(dtype=np.float64) * 360 == pytest.approx(4 * np.pi * 1e6, rel=1e-7)


def test_a_local_crs_gives_planar_areas_in_metres():
    geobox = GeoBox((50, 50), Affine(2, 0, 0, 0, -3, 0), ENGINEERING_FEET)
    areas = pixel_areas(geobox, Window(10, 10, 5, 5))
    assert areas.shape == (1, 1)
    assert areas[0, 0] == pytest.approx(6 * 0.3048**2)


def test_without_a_crs_areas_are_unknown():
    assert np.isnan(pixel_areas(GeoBox((5, 5), Affine.identity(), None), Window(0, 0, 5, 5))).all()


def test_pixels_at_the_border_of_a_projection_have_an_area():
    geobox = GeoBox((400, 800), Affine(50000, 0, -2e7, 0, -50000, 1e7), "ESRI:54009")
    areas = pixel_areas(geobox, Window(0, 0, 400, 800))
    assert np.isfinite(areas).all()
    assert areas[200, 400] == pytest.approx(2.5e9, rel=0.01)


def test_a_scene_outside_its_crs_is_refused():
    geobox = GeoBox((10, 10), Affine(10, 0, 9e9, 0, -10, 9e9), "ESRI:54009")
    with pytest.raises(SceneError, match="Mollweide is defined; found none"):
        pixel_areas(geobox, Window(0, 0, 10, 10))
