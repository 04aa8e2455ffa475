from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from geoseg.errors import UsageError
from geoseg.sieve import Area
from geoseg.vector.options import Distance, PolygonOptions, parse_distance
from geoseg.windows import Window

UTM = GeoBox((300, 200), Affine(10, 0, 500_000, 0, -10, 5_200_000), "EPSG:32631")
DEGREES = GeoBox((300, 200), Affine(0.001, 0, 7, 0, -0.001, 60.15), "EPSG:4326")
NOWHERE = GeoBox((300, 200), Affine(3, 4, 0, 0, -10, 0), None)

METRES = Distance(value=10.0, unit="m")
HECTARE = Area(value=10_000.0, unit="m2")


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("10m", 10, "m"), ("0.5 km", 500, "m"), (" 2PX ", 2, "px"), (".25m", 0.25, "m"), ("1e3m", 1000, "m")],
)
def test_distances_are_read(text, value, unit) -> None:
    assert parse_distance(text) == Distance(value=value, unit=unit)


@pytest.mark.parametrize("text", ["", "10", "m", "0m", "-3m", "10ft", "nanm", "1e999m", "10 m2"])
def test_what_is_no_distance_is_refused(text) -> None:
    with pytest.raises(UsageError, match=r"this is no distance: .*Write 10m, 0\.5km or 2px"):
        parse_distance(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connectivity": 6}, "connectivity is 4 or 8, not 6"),
        ({"formats": ()}, "one or more of gpkg, parquet, "),
        ({"formats": ("shp",)}, r"not \['shp'\]"),
        ({"formats": ("gpkg", "gpkg")}, "each once"),
        ({"class_fractions": True}, "without --min-area every polygon is of one class"),
        ({"keep_outline": True}, "give one of them"),
        ({"crs": "EPSG:1"}, r"CRS is not known: 'EPSG:1'.*Write for example EPSG:3035"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        PolygonOptions(**options)


def test_every_option_is_a_fact_of_the_job() -> None:
    """And plain JSON, which is what makes the id."""
    base = PolygonOptions(min_area=HECTARE, simplify=METRES)
    others = {
        "connectivity": 8, "min_area": Area(value=10_000.0, unit="px"), "smooth": True, "keep_outline": True,
        "simplify": Distance(value=10.000000000001, unit="m"), "class_fractions": True, "crs": "EPSG:3035",
        "formats": ("fgb",),
    }  # fmt: skip
    assert set(others) == set(base.facts)
    facts = [base.facts, *(replace(base, **{name: value}).facts for name, value in others.items())]
    texts = {json.dumps(f, sort_keys=True) for f in facts}
    assert len(texts) == len(others) + 1
    assert replace(base, formats=("fgb", "gpkg")).facts == replace(base, formats=("gpkg", "fgb")).facts


def test_on_a_grid_metres_become_pixels() -> None:
    how = PolygonOptions(simplify=METRES, min_area=HECTARE).on(UTM, nodata=255, ids=[1, 2])
    assert how.scene == Window(0, 0, 300, 200)
    assert (how.connectivity, how.nodata, how.minimum, how.weights, how.mixed) == (
        4,
        255,
        HECTARE,
        (1, 1),
        None,
    )
    # Scale on the central meridian is 0.9996: a pixel is 10.004 m. Never further than asked for.
    assert how.generalise.tolerance == pytest.approx((0.9996, 0.9996), abs=1e-5)
    assert max(how.generalise.tolerance) < 0.99961
    pixels = PolygonOptions(simplify=Distance(value=1.5, unit="px")).on(UTM, nodata=0)
    assert pixels.generalise.tolerance == (1.5, 1.5)
    assert PolygonOptions().on(UTM, nodata=0).generalise is None
    smooth = PolygonOptions(smooth=True).on(UTM, nodata=0).generalise
    assert (smooth.tolerance, smooth.smooth, smooth.keep_outline) == ((0, 0), True, False)


def test_degrees_are_half_as_wide_as_high_at_latitude_60() -> None:
    how = PolygonOptions(simplify=METRES, class_fractions=True, min_area=HECTARE).on(
        DEGREES, nodata=255, ids=[4, 9]
    )
    assert how.mixed == (4, 9)
    across, down = how.weights
    assert math.gcd(across, down) == 1
    assert across / down == pytest.approx(0.5012, abs=1e-3)  # 55.80 m and 111.42 m
    cols, rows = how.generalise.tolerance
    # The parallel of 59.85 degrees is the longest.
    assert cols == pytest.approx(10 / 56.05, rel=3e-3)
    assert rows == pytest.approx(10 / 111.42, rel=1e-3)


def test_without_a_crs_only_pixels_can_be_asked_for() -> None:
    for options in (PolygonOptions(simplify=METRES), PolygonOptions(min_area=HECTARE)):
        with pytest.raises(UsageError, match=r"cannot be measured: 10.* Give the size in pixels"):
            options.on(NOWHERE, nodata=255)
    in_pixels = PolygonOptions(simplify=Distance(value=2, unit="px"), min_area=Area(value=3.0, unit="px")).on(
        NOWHERE, nodata=255
    )
    assert in_pixels.generalise.tolerance == (2, 2)
    assert in_pixels.weights[1] / in_pixels.weights[0] == pytest.approx(math.hypot(4, 10) / 3, rel=2e-3)
