from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import shapely
from affine import Affine
from feature_batches import LEGEND, NODATA, feature_batch, parts, random_map
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer

from geoseg.errors import UsageError
from geoseg.vector.features import Layer
from geoseg.vector.reproject import densified, placing, require_room
from geoseg.vector.wkb import encode

UTM_31 = Affine(10, 0, 500000, 0, -10, 5200000)
WGS84 = CRS.from_epsg(4326)


def blocks(shape, block, seed=0, *, holes=True):
    """Large regions with long straight borders."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.array([0, 1, 9], np.uint8), (-(-shape[0] // block), -(-shape[1] // block)))
    classes = coarse.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]].copy()
    if holes:
        classes[rng.random(shape) < 0.002] = NODATA
    return classes


def placed(classes, affine, source, target, *, size=10**9, connectivity=4):
    """Geometries in the target CRS, and the classes' features."""
    geobox = GeoBox(classes.shape, affine, source)
    batch = feature_batch(classes, geobox, connectivity=connectivity)
    how = placing(
        Layer(geobox=geobox, legend=LEGEND, crs=CRS.from_user_input(target), multi=connectivity == 8)
    )
    lots = [encode(how.place(part.outlines), multi=how.multi).to_list() for part in parts(batch, size)]
    return shapely.from_wkb([blob for lot in lots for blob in lot]), batch


def inside(lon, lat, geometries):
    tree = shapely.STRtree(geometries)
    return tree.query(shapely.points(lon, lat), predicate="intersects")


def assert_coverage(geometries):
    assert shapely.is_valid(geometries).all()
    polygons = shapely.get_parts(geometries)
    assert shapely.coverage_is_valid(polygons)
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


@pytest.mark.parametrize(
    ("affine", "source", "target"),
    [
        (UTM_31, "EPSG:32631", "EPSG:4326"),
        (Affine(300, 0, 300000, 0, -300, 5200000), "EPSG:32631", "EPSG:3035"),
        (Affine(300, 0, 300000, 0, 300, 5000000), "EPSG:32631", "EPSG:4326"),
        (Affine(180, 240, 4e5, 240, -180, 5e6), "EPSG:32631", "EPSG:3857"),
        (Affine(0.01, 0, 5, 0, -0.01, 50), "EPSG:4326", "EPSG:3035"),
        (Affine(3000, 0, 4e6, 0, -3000, 3e6), "EPSG:3035", "EPSG:4326"),
    ],
)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_the_coverage_stays_valid(affine, source, target, connectivity):
    for classes in (random_map((40, 60)), blocks((300, 260), 70)):
        geometries, _ = placed(classes, affine, source, target, connectivity=connectivity)
        assert_coverage(geometries)


def test_points_are_pyprojs():
    classes = random_map((20, 20))
    geometries, batch = placed(classes, UTM_31, "EPSG:32631", "EPSG:4326")
    raw = shapely.get_coordinates(batch.outlines.to_shapely(UTM_31))
    to = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    expected = np.stack(to.transform(*raw.T), axis=1)
    assert np.abs(shapely.get_coordinates(geometries) - expected).max() < 1e-12


@pytest.mark.parametrize("target", ["EPSG:4326", "EPSG:3035"])
def test_long_borders_follow_the_projection(target):
    """A region of 3000 x 2000 pixels of 100 m: its sides bend by hundreds of metres."""
    classes = np.zeros((2000, 3000), np.uint8)
    affine = Affine(100, 0, 300000, 0, -100, 6000000)
    (geometry,), _ = placed(classes, affine, "EPSG:32631", target)
    col = np.linspace(0, 3000, 5001)
    to = Transformer.from_crs("EPSG:32631", target, always_xy=True)
    top = shapely.points(*to.transform(300000 + 100 * col, np.full(col.shape, 6e6)))
    off = shapely.distance(geometry.exterior, top)
    pixel = 100 if target == "EPSG:3035" else 100 / 111_000
    assert off.max() < 0.08 * pixel
    corners = shapely.Polygon(np.stack(to.transform([3e5, 6e5, 6e5, 3e5], [6e6, 6e6, 5.8e6, 5.8e6]), axis=1))
    assert shapely.distance(corners.exterior, top).max() > 0.4 * pixel
    assert shapely.get_num_coordinates(geometry) < 1500


@pytest.mark.parametrize("size", [1, 4, 10**9])
def test_batches_do_not_matter(size):
    whole, _ = placed(blocks((200, 300), 90), Affine(900, 0, 3e5, 0, -900, 52e5), "EPSG:32631", "EPSG:4326")
    lots, _ = placed(
        blocks((200, 300), 90), Affine(900, 0, 3e5, 0, -900, 52e5), "EPSG:32631", "EPSG:4326", size=size
    )
    assert shapely.equals_exact(whole, lots, 0).all()


@pytest.mark.parametrize("step", [1, 3, 7])
@pytest.mark.parametrize("scale", [1, 2])
def test_both_neighbours_of_a_line_get_the_same_points(step, scale):
    outlines = feature_batch(blocks((50, 60), 17), GeoBox((50, 60), UTM_31, "EPSG:32631")).outlines
    outlines = replace(outlines, coords=outlines.coords * scale, scale=scale)
    points, offsets = densified(outlines, step)
    steps = np.abs(np.diff(points, axis=0)).max(axis=1)
    steps[offsets[1:-1] - 1] = 0
    assert steps.max() <= step * scale
    assert (points[offsets[:-1]] == points[offsets[1:] - 1]).all()
    rings = [points[a:b] for a, b in pairwise(offsets)]
    before = [outlines.coords[a:b] for a, b in pairwise(outlines.ring_offsets)]
    for ring, old in zip(rings, before, strict=True):
        assert shapely.Polygon(ring).area == pytest.approx(shapely.Polygon(old).area)
    segments = {(tuple(p), tuple(q)) for ring in rings for p, q in pairwise(ring.tolist())}
    alone = [line for line in segments if line[::-1] not in segments]
    assert 0 < len(alone) < len(segments) / 2
    beside = np.pad(blocks((50, 60), 17), 1, constant_values=NODATA) == NODATA
    for line in alone:  # beside nodata or the scene's border
        col, row = (np.mean(line, axis=0) / scale).tolist()
        around = [beside[int(row + 1 + d), int(col + 1 + e)] for d in (-0.01, 0.01) for e in (-0.01, 0.01)]
        assert any(around)


def geodesic_area(geometry):
    return sum(abs(Geod(ellps="WGS84").geometry_area_perimeter(p)[0]) for p in shapely.get_parts(geometry))


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize(
    ("source", "affine"),
    [
        ("EPSG:32601", Affine(400, 0, 330000, 0, -400, 7000000)),  # east of the line, and some west of it
        ("EPSG:32660", Affine(0, 400, 810000, 400, 0, -1000000)),
        ("EPSG:3832", Affine(3000, 0, 3.2e6, 0, -3000, 1e6)),  # PDC Mercator
        ("EPSG:4326", Affine(0.02, 0, 179.111, 0, -0.02, 10)),  # longitudes beyond 180
        ("EPSG:4326", Affine(0.05, 0, 359 - 180, 0, -0.05, 10)),
    ],
)
def test_what_crosses_the_date_line_is_cut(source, affine, connectivity):
    classes = blocks((150, 120), 33)
    geometries, batch = placed(classes, affine, source, "EPSG:4326", connectivity=connectivity)
    bounds = shapely.bounds(shapely.get_parts(geometries))
    assert bounds[:, 0].min() == -180
    assert bounds[:, 2].max() == 180
    assert (bounds[:, 2] - bounds[:, 0]).max() < 90, "nothing goes around the world"
    assert_coverage(geometries)
    assert set(shapely.get_type_id(geometries).tolist()) == {shapely.GeometryType.MULTIPOLYGON}
    areas = np.array([geodesic_area(g) for g in geometries])
    assert areas == pytest.approx(batch.area_m2, rel=3e-3)
    rng = np.random.default_rng(0)
    row, col = rng.integers(0, 150, 300), rng.integers(0, 120, 300)
    truth = classes[row, col]
    col, row = col + 0.5, row + 0.5
    x, y = affine.a * col + affine.b * row + affine.c, affine.d * col + affine.e * row + affine.f
    lon, lat = Transformer.from_crs(source, "EPSG:4326", always_xy=True).transform(x, y)
    point, hit = inside((np.asarray(lon) + 180) % 360 - 180, lat, geometries)
    assert np.array_equal(batch.class_id[hit], truth[point])
    assert len(point) == (truth != NODATA).sum()


@pytest.mark.parametrize("south", [False, True])
def test_a_region_around_a_pole_reaches_it(south):
    classes = np.zeros((101, 101), np.uint8)
    classes[20:80, 20:80] = 1
    classes[45:56, 45:56] = 9
    affine = Affine(10_000, 0, -505_000, 0, -10_000, 505_000)
    geometries, batch = placed(classes, affine, "EPSG:3031" if south else "EPSG:3413", "EPSG:4326")
    assert_coverage(geometries)
    areas = np.array([geodesic_area(g) for g in geometries])
    by_class = dict(zip(batch.class_id.tolist(), areas, strict=True))
    assert by_class[9] == pytest.approx(batch.area_m2[batch.class_id == 9][0], rel=0.02)
    assert areas == pytest.approx(batch.area_m2, rel=0.02)
    pole = -90 if south else 90
    around = dict(zip(batch.class_id.tolist(), shapely.bounds(geometries), strict=True))
    assert around[9].tolist()[0::2] == [-180, 180]
    assert around[9][1 if south else 3] == pole
    _, hit = inside([10.0, -170.0, 99.9], [pole * 0.9999] * 3, geometries)
    assert (batch.class_id[hit] == 9).all()
    assert len(hit) == 3


@pytest.mark.parametrize("south", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("corner", [(50, 50), (50, 49), (60, 50)])
def test_a_pole_where_pixels_meet_belongs_to_all_of_them(south, turned, corner):
    """Grids of polar products have a pixel's corner at the pole."""
    classes = np.zeros((100, 100), np.uint8)
    classes[: corner[0], corner[1] :] = 1
    classes[corner[0] :, corner[1] :] = 9
    a, b = (6000, 8000) if turned else (10_000, 0)
    affine = Affine(a, b, -50 * (a + b), b, -a, 50 * (a - b))
    source = "EPSG:3031" if south else "EPSG:3413"
    geometries, batch = placed(classes, affine, source, "EPSG:4326")
    assert_coverage(geometries)
    areas = np.array([geodesic_area(g) for g in geometries])
    assert areas == pytest.approx(batch.area_m2, rel=0.01)
    col, row = np.meshgrid(np.arange(45, 55) + 0.5, np.arange(45, 55) + 0.5)
    x, y = a * col + b * row + affine.c, b * col - a * row + affine.f
    lon, lat = Transformer.from_crs(source, "EPSG:4326", always_xy=True).transform(x, y)
    point, hit = inside(lon.ravel(), lat.ravel(), geometries)
    assert np.array_equal(np.sort(point), np.arange(100))
    assert np.array_equal(batch.class_id[hit], classes[45:55, 45:55].ravel()[point])


@pytest.mark.parametrize("south", [False, True])
@pytest.mark.parametrize("hook", [(10, 40), (40, 10), (70, 40), (40, 70)])
def test_a_region_around_a_pole_may_have_arms_that_run_around_it(south, hook):
    """Wherever its ring begins, another part of it may lie between there and the pole."""
    classes = np.zeros((101, 101), np.uint8)
    classes[40:61, 40:61] = 1
    spiral = np.zeros_like(classes, bool)
    spiral[30:33, 30:71] = spiral[30:71, 68:71] = spiral[68:71, 30:71] = spiral[36:71, 30:33] = True
    spiral[36:39, 30:50] = spiral[36:41, 47:50] = True  # joins the middle
    classes[spiral] = 1
    classes[hook[0] : hook[0] + 20, hook[1] : hook[1] + 20][classes[hook[0] :, hook[1] :][:20, :20] == 0] = 9
    affine = Affine(10_000, 0, -505_000, 0, -10_000, 505_000)
    geometries, batch = placed(classes, affine, "EPSG:3031" if south else "EPSG:3413", "EPSG:4326")
    assert_coverage(geometries)
    areas = np.array([geodesic_area(g) for g in geometries])
    assert areas == pytest.approx(batch.area_m2, rel=0.02)


def test_scenes_far_from_the_line_keep_simple_polygons():
    geometries, _ = placed(random_map(), UTM_31, "EPSG:32631", "EPSG:4326")
    assert set(shapely.get_type_id(geometries).tolist()) == {shapely.GeometryType.POLYGON}


@pytest.mark.parametrize(
    ("source", "affine", "target", "message"),
    [
        ("EPSG:32601", Affine(400, 0, 330000, 0, -400, 7000000), "EPSG:3857", "polygons that are torn"),
        ("EPSG:4326", Affine(1, 0, -180, 0, -1, 90), "+proj=ortho +lat_0=40 +lon_0=10 +type=crs", "outside"),
        (None, UTM_31, "EPSG:3857", "Expected a scene with a CRS"),
    ],
)
def test_a_crs_without_room_is_refused_before_work_begins(source, affine, target, message):
    with pytest.raises(UsageError, match=message):
        require_room(GeoBox((150, 120), affine, source), CRS.from_user_input(target))


@pytest.mark.parametrize("target", ["EPSG:4326", "EPSG:3857", "EPSG:3035"])
def test_a_crs_with_room_is_taken(target):
    require_room(GeoBox((1500, 1), UTM_31, "EPSG:32631"), CRS.from_user_input(target))
    if target == "EPSG:4326":
        require_room(GeoBox((150, 120), Affine(400, 0, 330000, 0, -400, 7000000), "EPSG:32601"), WGS84)


def test_a_plane_that_ends_in_the_scene_is_refused():
    classes = blocks((150, 120), 33)
    with pytest.raises(UsageError, match=r"polygons that are torn.*Choose a CRS made for this place"):
        placed(classes, Affine(400, 0, 330000, 0, -400, 7000000), "EPSG:32601", "EPSG:3857")


def test_places_without_coordinates_are_refused():
    affine = Affine(1.0, 0, -180, 0, -1.0, 90)
    with pytest.raises(UsageError, match=r"cannot be reprojected.*outside the CRS"):
        placed(
            np.zeros((180, 360), np.uint8), affine, "EPSG:4326", "+proj=ortho +lat_0=40 +lon_0=10 +type=crs"
        )


def test_a_scene_without_a_crs_cannot_be_reprojected():
    with pytest.raises(UsageError, match=r"Expected a scene with a CRS"):
        placed(random_map(), UTM_31, None, "EPSG:4326")
