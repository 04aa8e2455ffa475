"""Tracing tiles against rasterio, polygon by polygon, and against definitions, pixel by pixel."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import shapes
from scipy import ndimage

from geoseg.regions import Edges, find_components
from geoseg.vector.simplify import Generalisation
from geoseg.vector.trace import TileRegions, outline, trace_tile
from geoseg.windows import Window

NODATA = 255
VALUES = [0, 1, 0, NODATA, 0, 1, 5]


@st.composite
def class_maps(draw):
    """Sparse maps, which shrink well, and dense random ones, where regions touch at corners."""
    shape = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    if draw(st.booleans()):
        return draw(arrays(np.uint8, shape, elements=st.sampled_from(VALUES), fill=st.just(0)))
    values = VALUES[: draw(st.integers(2, len(VALUES)))]
    return np.random.default_rng(draw(st.integers(0, 999))).choice(np.array(values, np.uint8), shape)


def trace(classes, *, row=0, col=0, scene=None, **options):
    classes = np.asarray(classes, np.uint8)
    core = Window(row, col, *classes.shape)
    options = {"confidence": None, "pixel_area": np.ones((1, 1)), "nodata": NODATA} | options
    return trace_tile(classes, core=core, scene=scene or core, **options)


def whole(classes):
    """Polygons of rasterio in the order of their first pixels, row-major."""
    found = [shapely.geometry.shape(g) for g, _ in shapes(classes, mask=classes != NODATA, connectivity=4)]
    return sorted(found, key=lambda p: min((y, x) for x, y in p.exterior.coords))


def window_of(classes, row, col):
    """The four pixels around a lattice point; -1 outside."""
    framed = np.pad(classes.astype(int), 1, constant_values=-1)
    return framed[row : row + 2, col : col + 2]


def borders_at(classes, row, col):
    (nw, ne), (sw, se) = window_of(classes, row, col)
    return int(nw != ne) + int(ne != se) + int(se != sw) + int(sw != nw)


def rings_of(outlines):
    """Every ring as (points without the closing one, whether each is fixed)."""
    bounds = outlines.ring_offsets.tolist()
    for start, stop in pairwise(bounds):
        yield outlines.coords[start : stop - 1].tolist(), outlines.fixed[start : stop - 1].tolist()


def steps_of(ring):
    """All lattice points of a rectilinear ring, one unit apart."""
    for (col, row), (next_col, next_row) in zip(ring, [*ring[1:], ring[0]], strict=True):
        length = abs(next_col - col) + abs(next_row - row)
        way = ((next_col - col) // length, (next_row - row) // length)
        yield from ((col + i * way[0], row + i * way[1], way) for i in range(length))


@settings(deadline=None, max_examples=150)
@given(classes=class_maps())
def test_outlines_are_the_polygons_of_rasterio_and_a_coverage(classes):
    regions = trace(classes)
    found, expected = regions.outlines.to_shapely(), whole(classes)
    assert len(found) == len(expected) == len(regions)
    assert shapely.is_valid(found).all()
    assert shapely.equals(found, expected).all()
    assert shapely.coverage_is_valid(found)
    for polygon, other in zip(found, expected, strict=True):
        assert len(polygon.interiors) == len(other.interiors)


@settings(deadline=None, max_examples=100)
@given(classes=class_maps())
def test_8_connected_outlines_are_the_pieces_of_scipys_regions(classes):
    regions = trace(classes, connectivity=8)
    polygons = trace(classes).outlines.to_shapely()
    found = regions.outlines.to_shapely()
    labels = find_components(
        classes,
        core=Window(0, 0, *classes.shape),
        scene=Window(0, 0, *classes.shape),
        nodata=NODATA,
        connectivity=8,
    ).labels()
    for value in set(np.unique(classes).tolist()) - {NODATA}:
        expected, _ = ndimage.label(classes == value, np.ones((3, 3)))
        inside = expected > 0
        assert len(np.unique(np.stack([expected[inside], labels[inside]]), axis=1).T) == expected.max()
    assert labels.max(initial=0) == len(found)
    assert shapely.is_valid(found).all()
    assert [p.area for p in found] == regions.table.pixels.tolist()
    pieces = sorted(
        shapely.get_parts(found).tolist(), key=lambda p: min((y, x) for x, y in p.exterior.coords)
    )
    assert shapely.equals_exact(np.array(pieces, object), polygons).all()


@settings(deadline=None, max_examples=100)
@given(classes=class_maps())
def test_vertices_are_turns_and_nodes_and_what_is_fixed_are_nodes_and_the_scenes_border(classes):
    height, width = classes.shape
    outlines = trace(classes).outlines
    for ring, fixed in rings_of(outlines):
        points = list(steps_of(ring))
        for (col, row, way), (*_, way_in) in zip(points, [points[-1], *points[:-1]], strict=True):
            node = borders_at(classes, row, col) > 2
            assert ([col, row] in ring) == (node or way != way_in)
            if [col, row] in ring:
                edge = row in (0, height) or col in (0, width)
                assert fixed[ring.index([col, row])] == (node or edge)


@settings(deadline=None, max_examples=100)
@given(classes=class_maps())
def test_rings_have_one_spelling(classes):
    outlines = trace(classes, connectivity=8).outlines
    start = outlines.ring_offsets[:-1]
    assert np.array_equal(outlines.coords[start], outlines.coords[outlines.ring_offsets[1:] - 1])
    starts = outlines.coords[start].tolist()
    outer = set(outlines.polygon_offsets[:-1].tolist())
    for number, (ring, _) in enumerate(rings_of(outlines)):
        assert ring[0] == min(ring) == starts[number]
        assert len({tuple(point) for point in ring}) == len(ring), "a ring meets itself nowhere"
        col, row = np.array(ring, np.int64).T
        area = (col * np.roll(row, -1) - np.roll(col, -1) * row).sum()
        assert (area < 0) == (number in outer)
    for first, stop in zip(outlines.polygon_offsets[:-1], outlines.polygon_offsets[1:], strict=True):
        assert starts[first:stop] == sorted(starts[first:stop])
    for first, stop in zip(outlines.region_offsets[:-1], outlines.region_offsets[1:], strict=True):
        mine = [starts[i] for i in outlines.polygon_offsets[first:stop]]
        assert mine == sorted(mine)


@settings(deadline=None, max_examples=100)
@given(classes=class_maps(), cuts=st.tuples(*[st.integers(0, 5)] * 4), connectivity=st.sampled_from([4, 8]))
def test_seams_have_a_vertex_at_every_lattice_point_and_mark_who_touches_them(classes, cuts, connectivity):
    height, width = classes.shape
    top, left = min(cuts[0], height - 1), min(cuts[1], width - 1)
    bottom, right = max(top + 1, height - cuts[2]), max(left + 1, width - cuts[3])
    scene = Window(100, 200, height, width)
    tile = classes[top:bottom, left:right]
    regions = trace(tile, row=100 + top, col=200 + left, scene=scene, connectivity=connectivity)
    rows = {row + 100 for row in (top, bottom) if row not in (0, height)}
    cols = {col + 200 for col in (left, right) if col not in (0, width)}
    touching = shapely.box(0, 0, 0, 0)
    for ring, fixed in rings_of(regions.outlines):
        for col, row, _ in steps_of(ring):
            if row in rows or col in cols:
                assert not fixed[ring.index([col, row])]
        for (col, row), stays in zip(ring, fixed, strict=True):
            if row not in rows and col not in cols:
                edge = row in (100, 100 + height) or col in (200, 200 + width)
                assert stays == (edge or borders_at(classes, row - 100, col - 200) > 2)
    lines = [shapely.box(200, row, 200 + width, row) for row in rows]
    lines += [shapely.box(col, 100, col, 100 + height) for col in cols]
    found = regions.outlines.to_shapely()
    touching = np.zeros(len(found), bool)
    for line in lines:
        touching |= shapely.intersects(found, shapely.LineString(line.exterior))
    assert regions.touching.tolist() == touching.tolist()


def test_keeping_the_outline_fixes_what_lies_beside_nodata():
    classes = np.ones((9, 9), np.uint8)
    classes[0, :], classes[4:6, 3:5], classes[4, 3], classes[7, 7] = NODATA, NODATA, 1, 2
    found = find_components(classes, core=Window(0, 0, 9, 9), scene=Window(0, 0, 9, 9), nodata=NODATA)
    core = Window(0, 0, 9, 9)
    free, kept = outline(found, core), outline(found, core, keep_outline=True)
    assert np.array_equal(free.coords, kept.coords)
    for (ring, before), (_, after) in zip(rings_of(free), rings_of(kept), strict=True):
        for (col, row), was, now in zip(ring, before, after, strict=True):
            assert now == (was or NODATA in window_of(classes, row, col))
    assert kept.fixed.sum() > free.fixed.sum()
    generalise = Generalisation(tolerance=(0.01, 0.01), keep_outline=True)
    corner = [[3, 5], [4, 4]]  # of the step in the hole
    bent = trace(classes, generalise=generalise).outlines.to_shapely()[0]
    assert all(shapely.Point(c).touches(bent) for c in corner)


def test_a_region_of_10_by_10_pixels_is_a_polygon_of_10_by_10_in_the_scene():
    classes = np.full((20, 20), NODATA)
    classes[5:15, 3:13] = 4
    regions = trace(classes, row=100, col=200)
    (polygon,) = regions.outlines.to_shapely()
    assert polygon.equals(shapely.box(203, 105, 213, 115))
    assert polygon.area == 100
    assert regions.table.first_pixel.tolist() == [[105, 203]]
    assert regions.table.box.tolist() == [[105, 203, 115, 213]]
    assert regions.outlines.coords.tolist() == [[203, 105], [203, 115], [213, 115], [213, 105], [203, 105]]


def test_class_0_is_traced_and_nodata_is_not():
    regions = trace([[0, 0, NODATA], [0, 3, 3]])
    assert regions.table.class_id.tolist() == [0, 3]
    assert [p.area for p in regions.outlines.to_shapely()] == [3, 2]


def test_holes_are_holes_and_islands_are_regions():
    classes = np.zeros((7, 7))
    classes[2:5, 2:5] = 1
    classes[3, 3] = 0
    outer, ring, island = trace(classes).outlines.to_shapely()
    assert (outer.area, len(outer.interiors)) == (40, 1)
    assert (ring.area, len(ring.interiors)) == (8, 1)
    assert (island.area, len(island.interiors)) == (1, 0)


def test_holes_of_single_pixels_that_touch_at_corners_are_apart():
    classes = np.zeros((6, 6))
    classes[1, 1] = classes[2, 2] = classes[3, 1] = 1
    for connectivity, regions in ((4, 4), (8, 2)):
        found = trace(classes, connectivity=connectivity).outlines.to_shapely()
        assert len(found) == regions
        assert shapely.get_num_interior_rings(shapely.get_parts(found)).max() == 3
        assert shapely.is_valid(found).all()


def test_a_ring_that_closes_at_a_corner_is_an_outer_ring_and_a_hole():
    classes = np.full((3, 3), 2)
    classes[1, 1] = classes[0, 2] = NODATA
    (polygon,) = trace(classes).outlines.to_shapely()
    assert shapely.is_valid(polygon)
    assert (polygon.area, len(polygon.interiors)) == (7, 1)


def test_pixels_that_touch_at_corners_are_apart_and_all_polygons_valid():
    checkers = np.indices((8, 8)).sum(axis=0) % 2
    assert len(trace(checkers)) == 64
    regions = trace(checkers, connectivity=8)
    assert len(regions) == 2
    assert shapely.get_num_geometries(regions.outlines.to_shapely()).tolist() == [32, 32]


@pytest.mark.parametrize("shape", [(3, 3), (1, 1)])
def test_a_tile_without_valid_pixels_has_no_outlines(shape):
    regions = trace(np.full(shape, NODATA), connectivity=8)
    assert len(regions) == len(regions.outlines) == len(regions.touching) == 0
    assert len(regions.outlines.to_shapely()) == 0


@pytest.mark.parametrize("original", [False, True])
def test_regions_survive_a_file_without_pickle(tmp_path, original):
    rng = np.random.default_rng(3)
    classes = rng.choice(np.array([0, 1, 2, NODATA], np.uint8), (20, 31))
    options = {"original": classes // 2, "original_ids": np.array([0, 1], np.uint8)} if original else {}
    regions = trace(
        classes,
        row=3,
        col=5,
        scene=Window(0, 0, 99, 99),
        confidence=rng.integers(0, 101, (20, 31), dtype=np.uint8),
        generalise=Generalisation(tolerance=(1.0, 1.0), smooth=True),
        **options,
    )
    np.savez(tmp_path / "part.npz", **regions.to_arrays())
    with np.load(tmp_path / "part.npz", allow_pickle=False) as stored:
        again = TileRegions.from_arrays(stored)
        only_edges = Edges.from_arrays(stored)
    for name, array in regions.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)
        assert again.to_arrays()[name].dtype == array.dtype, name
    np.testing.assert_array_equal(only_edges.right, regions.edges.right)
    assert again.outlines.coords.dtype == np.int32
    assert again.outlines.scale == 2
    assert len(again.obstacles) > 0
    assert (again.table.mix is not None) == original
    if original:
        assert (
            again.table.mix.sum() == (classes != NODATA).sum() - (classes[classes != NODATA] // 2 > 1).sum()
        )


def test_all_classes_are_counted_if_none_are_named():
    original = np.array([[3, 200]], np.uint8)
    mix = trace([[1, 1]], original=original).table.mix
    assert mix.shape == (1, 256)
    assert np.flatnonzero(mix[0]).tolist() == [3, 200]
