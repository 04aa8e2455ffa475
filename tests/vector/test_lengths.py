"""Lengths against geodesics that are cut short, areas against shapely, on every kind of grid."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from test_area import ENGINEERING_FEET, GRIDS

from geoseg.vector.lengths import Ruler, outlined_area
from geoseg.vector.outlines import Outlines, no_outlines

RING = [(130, 90), (400, 90), (400, 95), (391, 95), (391, 370), (130, 370), (130, 90)]
HOLE = [(200, 200), (200, 260), (300, 260), (300, 200), (200, 200)]
SLANTED = [(10, 390), (20, 395), (60, 399), (15, 399), (10, 390)]


def outlines(*regions: list[list[tuple[float, float]]], scale: int = 1) -> Outlines:
    """Each region one polygon: an outer ring and holes, in pixels."""
    rings = [ring for region in regions for ring in region]
    coords = (np.concatenate([np.array(r, float) for r in rings]) * scale).astype(np.int32)
    return Outlines(
        coords=coords,
        fixed=np.ones(len(coords), bool),
        ring_offsets=np.cumsum([0, *map(len, rings)]),
        polygon_offsets=np.cumsum([0, *map(len, regions)]),
        region_offsets=np.arange(len(regions) + 1),
        scale=scale,
    )


def geodesic(geobox: GeoBox, rings: list[list[tuple[float, float]]], *, points: int = 2000) -> float:
    """Length of all rings, each side cut into so many geodesics."""
    crs = CRS.from_user_input(geobox.crs.proj)
    base = crs.geodetic_crs
    degree = math.degrees(base.axis_info[0].unit_conversion_factor)
    t, total = np.linspace(0, 1, points + 1), 0.0
    for ring in rings:
        for (x0, y0), (x1, y1) in pairwise(ring):
            col, row = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
            a, b, c, d, e, f = geobox.affine[:6]
            lon, lat = Transformer.from_crs(crs, base, always_xy=True).transform(
                a * col + b * row + c, d * col + e * row + f
            )
            total += crs.get_geod().line_length(np.array(lon) * degree, np.array(lat) * degree)
    return total


GRIDS_AND_ACROSS_THE_DATE_LINE = {
    **GRIDS,
    "date line": ("EPSG:4326", Affine(0.01, 0, 178, 0, -0.01, 62)),
    "date line, projected": ("EPSG:32601", Affine(60, 0, 300000, 0, -60, 7000000)),
    "sheared": ("EPSG:32631", Affine(10, 4, 600000, 2, -11, 5200000)),
}


@pytest.mark.parametrize("name", GRIDS_AND_ACROSS_THE_DATE_LINE)
def test_perimeters_are_those_of_geodesics(name) -> None:
    crs, affine = GRIDS_AND_ACROSS_THE_DATE_LINE[name]
    geobox = GeoBox((400, 420), affine, crs)
    lengths, areas = Ruler.of(geobox).measure(outlines([RING, HOLE], [SLANTED]))
    # Geodesics of a centimetre are as long as the rounding of degrees lets them be.
    points = 20 if name in {"British grid", "US survey feet"} else 500
    tolerance = 5e-6
    assert lengths[0] == pytest.approx(geodesic(geobox, [RING, HOLE], points=points), rel=tolerance)
    assert lengths[1] == pytest.approx(geodesic(geobox, [SLANTED], points=points), rel=tolerance)
    assert areas.tolist() == [shapely.Polygon(RING, [HOLE]).area, shapely.Polygon(SLANTED).area]


def test_half_pixels_are_half_pixels() -> None:
    crs, affine = GRIDS["UTM rotated"]
    ruler = Ruler.of(GeoBox((400, 420), affine, crs))
    ring = [(10.5, 20), (10, 20.5), (11, 21), (12, 20.5), (10.5, 20)]
    half, area = ruler.measure(outlines([ring], scale=2))
    tenth, same = ruler.measure(outlines([ring], scale=20))
    assert half.tolist() == pytest.approx(tenth.tolist(), rel=1e-14)
    assert area.tolist() == same.tolist() == [shapely.Polygon(ring).area]


def test_a_length_depends_on_the_points_alone() -> None:
    """Not on what else is in the batch: so not on tiles either."""
    ruler = Ruler.of(GeoBox((400, 420), GRIDS["UTM"][1], "EPSG:32631"))
    both = ruler.measure(outlines([RING, HOLE], [SLANTED]))
    alone = [ruler.measure(outlines(region)) for region in ([RING, HOLE], [SLANTED])]
    assert [float(v[0]) for v, _ in alone] == both[0].tolist()


def test_web_mercator_is_twice_too_long_at_latitude_60() -> None:
    ruler = Ruler.of(GeoBox((400, 420), GRIDS["web Mercator"][1], "EPSG:3857"))
    assert ruler.pixel_size_m == pytest.approx((10, 10), rel=0.01)
    assert ruler.measure(outlines([RING]))[0][0] == pytest.approx(
        10 * shapely.LinearRing(RING).length, rel=0.01
    )


def test_a_local_crs_is_planar_and_none_is_unknown() -> None:
    affine = Affine(2, 0, 0, 0, -3, 0)
    ruler = Ruler.of(GeoBox((400, 420), affine, ENGINEERING_FEET))
    ring = [(0, 0), (3, 4), (3, 0), (0, 0)]
    expected = (math.hypot(6, 12) + 12 + 6) * 0.3048
    assert ruler.measure(outlines([ring]))[0].tolist() == pytest.approx([expected], rel=1e-14)
    lengths, areas = Ruler.of(GeoBox((9, 9), affine, None)).measure(outlines([ring]))
    assert np.isnan(lengths).all()
    assert areas.tolist() == [6]


def test_nothing_has_no_length() -> None:
    ruler = Ruler.of(GeoBox((9, 9), GRIDS["UTM"][1], "EPSG:32631"))
    assert [len(v) for v in ruler.measure(no_outlines())] == [0, 0]


def test_the_poles_are_reached() -> None:
    """Rows of the globe's own grid shrink to nothing, and stay as long as they are from pole to pole."""
    ruler = Ruler.of(GeoBox((181, 360), Affine(1, 0, -180, 0, -1, 90.5), "EPSG:4326"))
    ring = [(0, 0), (360, 0), (360, 181), (0, 181), (0, 0)]
    assert ruler.measure(outlines([ring]))[0][0] == pytest.approx(2 * 20_003_931.5, rel=2e-2)
    inside = [(0, 1), (360, 1), (360, 180), (0, 180), (0, 1)]
    parallel = 2 * math.pi * 6378137 * math.cos(math.radians(89.5)) / math.sqrt(1 - 0.00669437999)
    assert ruler.measure(outlines([inside]))[0][0] == pytest.approx(
        2 * parallel + 2 * (20_003_931.5 - 2 * 55_847), rel=1e-4
    )


@pytest.mark.parametrize("name", GRIDS)
def test_reach_is_never_further_than_asked_and_not_much_nearer(name) -> None:
    crs, affine = GRIDS[name]
    geobox = GeoBox((400, 420), affine, crs)
    ruler = Ruler.of(geobox)
    metres = 1.7 * ruler.pixel_size_m[0]
    down, across = ruler.reach_px(metres)
    for row, col in [(5, 5), (200, 210), (390, 10)]:
        far = []
        for angle in np.linspace(0, math.pi, 13):
            x, y = col + across * math.cos(angle), row + down * math.sin(angle)
            # A thousandth: what Outlines can say in 32-bit integers of so fine a scale.
            ring = [(col, row), (round(x, 3), round(y, 3)), (col, row)]
            far.append(float(ruler.measure(outlines([ring], scale=1000))[0][0]) / 2)
        assert max(far) <= metres * 1.001
    largest = max(float(ruler.down.max() / ruler.down.min()), float(ruler.along.max() / ruler.along.min()))
    assert max(down * ruler.pixel_size_m[0], across * ruler.pixel_size_m[1]) > 0.999 * metres / largest / 1.42


def test_reach_is_rounded_down() -> None:
    ruler = Ruler.of(GeoBox((100, 100), Affine(10, 0, 0, 0, -10, 0), ENGINEERING_FEET))
    assert ruler.reach_px(3.048 * 2) == (2, 2)
    assert ruler.reach_px(1) == (0.328083, 0.328083)  # 1 / 3.048 = 0.32808399


def test_area_of_outlines_that_were_moved() -> None:
    area = outlined_area(np.array([50.0, 50.0]), np.array([10, 10]), np.array([10.0, 12.0]))
    assert area.tolist() == [50, 60]
