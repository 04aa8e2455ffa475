import numpy as np
import shapely

from geoseg.regions import Edges
from geoseg.vector.polygons import canonical, concatenate, no_polygons
from geoseg.vector.trace import TileRegions, trace_tile
from geoseg.windows import Window

NODATA = 255


def trace(classes, *, row=0, col=0, confidence=None):
    classes = np.asarray(classes, np.uint8)
    return trace_tile(
        classes,
        confidence=confidence,
        pixel_area=np.ones((1, 1)),
        core=Window(row, col, *classes.shape),
        nodata=NODATA,
    )


def test_a_region_of_10_by_10_pixels_is_a_polygon_of_10_by_10_in_the_scene():
    classes = np.full((20, 20), NODATA)
    classes[5:15, 3:13] = 4
    regions = trace(classes, row=100, col=200)
    (polygon,) = regions.polygons.to_shapely()
    assert polygon.equals(shapely.box(203, 105, 213, 115))
    assert polygon.area == 100
    assert regions.table.first_pixel.tolist() == [[105, 203]]


def test_class_0_is_traced_and_nodata_is_not():
    regions = trace([[0, 0, NODATA], [0, 3, 3]])
    assert regions.table.class_id.tolist() == [0, 3]
    assert [p.area for p in regions.polygons.to_shapely()] == [3, 2]


def test_holes_are_holes_and_islands_are_regions():
    classes = np.zeros((7, 7))
    classes[2:5, 2:5] = 1
    classes[3, 3] = 0
    outer, ring, island = trace(classes).polygons.to_shapely()
    assert (outer.area, len(outer.interiors)) == (40, 1)
    assert (ring.area, len(ring.interiors)) == (8, 1)
    assert (island.area, len(island.interiors)) == (1, 0)


def test_pixels_that_touch_at_corners_are_apart_and_all_polygons_valid():
    checkers = np.indices((8, 8)).sum(axis=0) % 2
    regions = trace(checkers)
    assert len(regions) == 64
    touching = trace([[0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert shapely.is_valid(touching.polygons.to_shapely()).all()


def test_more_polygons_than_are_converted_at_once_keep_their_labels(monkeypatch):
    monkeypatch.setattr("geoseg.vector.trace._POLYGONS_AT_ONCE", 3)
    classes = np.random.default_rng(0).integers(0, 4, (30, 30))
    regions = trace(classes)
    polygons = regions.polygons.to_shapely()
    assert [p.area for p in polygons] == regions.table.pixels.tolist()
    corners = [min((y, x) for x, y in p.exterior.coords) for p in polygons]
    assert corners == [tuple(v) for v in regions.table.first_pixel.tolist()]


def test_a_tile_without_valid_pixels_has_no_polygons():
    regions = trace(np.full((3, 3), NODATA))
    assert len(regions) == len(regions.polygons) == 0
    assert len(regions.polygons.to_shapely()) == 0


def test_regions_survive_a_file_without_pickle(tmp_path):
    rng = np.random.default_rng(3)
    classes = rng.choice([0, 1, 2, NODATA], (20, 31))
    regions = trace(classes, row=3, col=5, confidence=rng.integers(0, 101, (20, 31), dtype=np.uint8))
    np.savez(tmp_path / "part.npz", **regions.to_arrays())
    with np.load(tmp_path / "part.npz", allow_pickle=False) as stored:
        again = TileRegions.from_arrays(stored).to_arrays()
        only_edges = Edges.from_arrays(stored)
    for name, array in regions.to_arrays().items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype, name
    np.testing.assert_array_equal(only_edges.right, regions.edges.right)
    assert regions.polygons.coords.dtype == np.int32


def test_canonical_form_is_one_for_equal_polygons():
    plain = shapely.Polygon([(0, 0), (4, 0), (4, 4), (0, 4)], [[(1, 1), (2, 1), (2, 2), (1, 2)]])
    other = shapely.Polygon(
        [(4, 2), (4, 4), (1, 4), (0, 4), (0, 3), (0, 0), (4, 0)], [[(2, 2), (2, 1), (1, 1), (1, 2)]]
    )
    first, second = canonical(np.array([plain])), canonical(np.array([other]))
    np.testing.assert_array_equal(first.coords, second.coords)
    np.testing.assert_array_equal(first.ring_offsets, [0, 5, 10])
    np.testing.assert_array_equal(second.polygon_offsets, [0, 2])


def test_taking_and_concatenating_polygons_follow_the_index():
    polygons = trace(np.random.default_rng(5).integers(0, 3, (12, 12))).polygons
    index = np.array([4, 0, 4, len(polygons) - 1])
    parts = [polygons.take(index), no_polygons(), polygons.take(index[:1])]
    expected = polygons.to_shapely()[[*index, index[0]]]
    assert shapely.equals_exact(concatenate(parts).to_shapely(), expected).all()
    assert len(concatenate([])) == len(polygons.take(index[:0])) == 0
