"""Whatever the tiling, merging gives what one tile over the whole scene gives, to the bit."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from scipy import ndimage

from geoseg.errors import ExecutionError
from geoseg.vector.area import pixel_areas
from geoseg.vector.merge import RegionBatch, merge_tiles
from geoseg.vector.outlines import Outlines, concatenate
from geoseg.vector.simplify import Generalisation
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

NODATA = 255
VALUES = [0, 1, 0, NODATA, 0, 1, 5]
GEOBOX = GeoBox((64, 64), Affine(10, 0, 300000, 0, -10, 7000000), "EPSG:32631")
COLUMNS = tuple(RegionBatch.__slots__[:-1])
"""Every column but the outlines."""
OFFSETS = ("region_offsets", "polygon_offsets", "ring_offsets")


@st.composite
def class_maps(draw):
    """Sparse maps, which shrink well, and dense random ones, where regions touch at corners."""
    shape = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    if draw(st.booleans()):
        return draw(arrays(np.uint8, shape, elements=st.sampled_from(VALUES), fill=st.just(0)))
    values = VALUES[: draw(st.integers(2, len(VALUES)))]
    return np.random.default_rng(draw(st.integers(0, 999))).choice(np.array(values, np.uint8), shape)


CUTS = st.sets(st.integers(1, 17), max_size=5)
CONNECTIVITY = st.sampled_from([4, 8])


def spans(size, marks):
    at = [0, *sorted({m for m in marks if 0 < m < size}), size]
    return list(pairwise(at))


def tiling(shape, rows, cols):
    return [
        Window(r, c, r2 - r, c2 - c) for r, r2 in spans(shape[0], rows) for c, c2 in spans(shape[1], cols)
    ]


def every(step, shape):
    return tiling(shape, range(step, shape[0], step), range(step, shape[1], step))


def traced(classes, cores, *, confidence=None, connectivity=4, how=None):
    scene = Window(0, 0, *classes.shape)
    return {
        core: trace_tile(
            classes[core.slices()],
            confidence=None if confidence is None else confidence[core.slices()],
            pixel_area=pixel_areas(GEOBOX, core),
            core=core,
            scene=scene,
            nodata=NODATA,
            connectivity=connectivity,
            generalise=how,
            original=classes[core.slices()] % 3,
            original_ids=np.arange(3, dtype=np.uint8),
        )
        for core in cores
    }


def batches_of(tiles, width, *, connectivity=4, how=None):
    return merge_tiles(
        list(tiles),
        load_edges=lambda core: tiles[core].edges,
        load_regions=tiles.__getitem__,
        scene_width=width,
        connectivity=connectivity,
        generalise=how,
    )


def merged(classes, cores, **options):
    """All batches of a tiling as one."""
    confidence = options.pop("confidence", None)
    tiles = traced(classes, cores, confidence=confidence, **options)
    batches = list(batches_of(tiles, classes.shape[1], **options))
    assert all((np.diff(batch.region_id) > 0).all() for batch in batches)
    order = np.argsort(np.concatenate([batch.region_id for batch in batches]))
    columns = {name: np.concatenate([getattr(b, name) for b in batches])[order] for name in COLUMNS}
    return RegionBatch(**columns, outlines=concatenate([b.outlines for b in batches]).take(order))


def assert_same(found, expected, *, but=""):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in {*OFFSETS, "coords", "fixed"} - {but}:
        assert getattr(found.outlines, name).tobytes() == getattr(expected.outlines, name).tobytes(), name


def whole(classes):
    """{region id: (class, geometry)} from one call of rasterio on everything."""
    result = {}
    for geometry, value in shapes(classes, mask=classes != NODATA, connectivity=4):
        polygon = shapely.geometry.shape(geometry)
        col, row = min(polygon.exterior.coords, key=lambda p: (p[1], p[0]))
        result[int(row) * classes.shape[1] + int(col)] = (int(value), polygon)
    return result


def assert_polygons_of(found, classes):
    expected = whole(classes)
    assert sorted(expected) == found.region_id.tolist()
    polygons = found.outlines.to_shapely()
    np.testing.assert_array_equal(found.class_id, [expected[i][0] for i in found.region_id.tolist()])
    np.testing.assert_array_equal(shapely.area(polygons), found.pixels)
    reference = [expected[i][1] for i in found.region_id.tolist()]
    assert shapely.is_valid(polygons).all()
    assert shapely.equals_exact(shapely.simplify(polygons, 0), reference, normalize=True).all()


@settings(deadline=None, max_examples=150)
@given(classes=class_maps(), rows=CUTS, cols=CUTS, seed=st.integers(0, 99), connectivity=CONNECTIVITY)
def test_any_tiling_gives_the_same_bits_as_one_tile(classes, rows, cols, seed, connectivity):
    confidence = np.random.default_rng(seed).choice(np.array([3, 50, 100, NODATA], np.uint8), classes.shape)
    options = {"confidence": confidence, "connectivity": connectivity}
    expected = merged(classes, [Window(0, 0, *classes.shape)], **options)
    assert_same(merged(classes, tiling(classes.shape, rows, cols), **options), expected)


@settings(deadline=None, max_examples=60)
@given(classes=class_maps(), rows=CUTS, cols=CUTS)
def test_merged_tiles_are_the_polygons_of_the_whole_raster(classes, rows, cols):
    found = merged(classes, tiling(classes.shape, rows, cols))
    assert_polygons_of(found, classes)
    assert np.isnan(found.mean_confidence).all()
    assert (found.min_confidence == NODATA).all()
    assert found.pixels.sum() == (classes != NODATA).sum()


@settings(deadline=None, max_examples=40)
@given(classes=class_maps(), rows=CUTS, cols=CUTS, seed=st.integers(0, 99), connectivity=CONNECTIVITY)
def test_sums_are_those_of_the_pixels(classes, rows, cols, seed, connectivity):
    confidence = np.random.default_rng(seed).choice(np.array([3, 50, 100, NODATA], np.uint8), classes.shape)
    cores = tiling(classes.shape, rows, cols)
    found = merged(classes, cores, confidence=confidence, connectivity=connectivity)
    area = pixel_areas(GEOBOX, Window(0, 0, *classes.shape)) * np.ones(classes.shape)
    around = np.ones((3, 3)) if connectivity == 8 else None
    labels = {v: ndimage.label(classes == v, around)[0] for v in np.unique(classes)}
    for i, (region, class_id) in enumerate(zip(found.region_id.tolist(), found.class_id, strict=True)):
        inside = labels[class_id] == labels[class_id].ravel()[region]
        known = confidence[inside & (confidence != NODATA)]
        rows_inside, cols_inside = np.nonzero(inside)
        assert np.flatnonzero(inside)[0] == region
        assert found.pixels[i] == inside.sum()
        assert found.area_m2[i] == area[inside].astype(np.float64).sum()
        assert found.min_confidence[i] == known.min(initial=NODATA)
        assert found.confidence_count[i] == len(known)
        np.testing.assert_allclose(found.mean_confidence[i], known.mean() if len(known) else np.nan)
        low, high = (rows_inside.min(), cols_inside.min()), (rows_inside.max() + 1, cols_inside.max() + 1)
        assert found.box[i].tolist() == [*low, *high]
        assert found.mix[i].tolist() == [inside.sum() * (class_id % 3 == k) for k in range(3)]
    assert found.area_m2.sum() == area[classes != NODATA].astype(np.float64).sum()


@settings(deadline=None, max_examples=40)
@given(classes=class_maps(), rows=CUTS, cols=CUTS, connectivity=CONNECTIVITY)
def test_outlines_are_a_coverage_without_gap_or_overlap(classes, rows, cols, connectivity):
    found = merged(classes, tiling(classes.shape, rows, cols), connectivity=connectivity)
    geometries = found.outlines.to_shapely()
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)
    assert shapely.area(shapely.coverage_union_all(geometries)) == (classes != NODATA).sum()


GENERALISATIONS = st.builds(
    Generalisation,
    tolerance=st.sampled_from([(0, 0), (0.8, 0.8), (1.5, 1.0), (3, 3), (9, 9)]),
    smooth=st.booleans(),
    keep_outline=st.booleans(),
)


@settings(deadline=None, max_examples=150)
@given(classes=class_maps(), rows=CUTS, cols=CUTS, connectivity=CONNECTIVITY, how=GENERALISATIONS)
def test_generalised_lines_do_not_tell_the_tiling(classes, rows, cols, connectivity, how):
    expected = merged(classes, [Window(0, 0, *classes.shape)], connectivity=connectivity, how=how)
    found = merged(classes, tiling(classes.shape, rows, cols), connectivity=connectivity, how=how)
    assert_same(found, expected, but="fixed")
    assert shapely.coverage_is_valid(found.outlines.to_shapely())
    assert found.outlines.scale == how.scale


@pytest.mark.parametrize("smooth", [False, True])
def test_lines_do_not_sweep_over_what_lies_in_a_tile_their_region_does_not_touch(smooth):
    classes = np.zeros((18, 20), np.uint8)
    classes[6:, :14] = 1  # a right angle around the tile on the lower left, where 0 does not come
    cores = tiling(classes.shape, [10], [10])
    how = Generalisation(tolerance=(10, 10), smooth=smooth)
    straight = merged(classes, cores, how=how)
    assert np.diff(straight.outlines.ring_offsets).tolist() == [6, 4]
    classes[11, 8] = 2  # an island in that tile, between the angle and the line that would cut it off
    bent = merged(classes, cores, how=how)
    assert np.diff(bent.outlines.ring_offsets)[:2].tolist() == [7, 5]
    assert_same(bent, merged(classes, [Window(0, 0, 18, 20)], how=how), but="fixed")


def test_vertices_beside_nodata_that_stay_are_in_the_way_on_seams_too():
    classes = np.full((3, 24), NODATA, np.uint8)
    classes[:, :3] = [[3, 3, 3], [4, 4, 3], [NODATA, 4, 3]]
    how = Generalisation(tolerance=(3, 2), smooth=True, keep_outline=True)
    found = merged(classes, tiling(classes.shape, [2], [2, 23]), how=how)
    assert_same(found, merged(classes, [Window(0, 0, 3, 24)], how=how), but="fixed")


def test_a_polygon_across_many_tiles_is_one_polygon_with_its_hole():
    classes = np.full((40, 40), 2, np.uint8)
    classes[10:30, 10:30] = NODATA
    polygon = shapely.box(0, 0, 40, 40) - shapely.box(10, 10, 30, 30)
    for step in (3, 7, 13, 40):
        found = merged(classes, every(step, classes.shape))
        assert found.region_id.tolist() == [0]
        assert found.pixels.tolist() == [1200]
        assert shapely.equals_exact(found.outlines.to_shapely()[0], polygon, normalize=True)


def test_regions_inside_one_another_keep_their_holes():
    classes = np.zeros((30, 30), np.uint8)
    for ring in range(14):  # rings of alternating classes around one another, each with a hole of its own
        classes[ring : 30 - ring, ring : 30 - ring] = ring % 2
    classes[0, 3], classes[27, 12], classes[12, 12] = 5, 5, 5
    for step in (4, 11, 15):
        assert_polygons_of(merged(classes, every(step, classes.shape)), classes)


def test_a_vertex_is_where_the_neighbour_across_the_seam_has_one():
    classes = np.array([[1, 1, 0], [1, 1, 2]], np.uint8)
    found = merged(classes, tiling(classes.shape, [], [2]))
    assert found.outlines.coords[:7].tolist() == [[0, 0], [0, 2], [2, 2], [2, 1], [2, 0], [0, 0], [2, 0]]
    assert found.outlines.fixed[:6].tolist() == [True] * 6


def test_a_whole_tile_inside_a_region_gives_its_holes_to_the_right_polygon():
    classes = np.full((12, 12), 1, np.uint8)
    classes[5, 5], classes[6, 8] = 0, NODATA  # holes in the middle one of nine tiles
    found = merged(classes, every(4, classes.shape), connectivity=8)
    assert [polygon.interiors.__len__() for polygon in found.outlines.to_shapely()] == [2, 0]


# The same class at both sides of the diagonal, connected around, across other tiles, or not at all.
SADDLES = {
    "not connected": [[1, 0], [0, 1]],
    "connected on the right": [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]],
    "a hole that touches the outline": [[1, 1, 1], [1, 0, 1], [1, 1, 0]],
    "two holes that touch": [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]],
    "a chain of holes": [[1] * 5, [1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 0]],
}


@pytest.mark.parametrize("name", SADDLES)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_pixels_that_touch_at_corners_are_right_for_every_tiling(name, connectivity):
    classes = np.array(SADDLES[name], np.uint8)
    height, width = classes.shape
    expected = merged(classes, [Window(0, 0, height, width)], connectivity=connectivity)
    assert shapely.is_valid(expected.outlines.to_shapely()).all()
    for rows in ([], *([r] for r in range(1, height)), range(1, height)):
        for cols in ([], *([c] for c in range(1, width)), range(1, width)):
            cores = tiling(classes.shape, rows, cols)
            assert_same(merged(classes, cores, connectivity=connectivity), expected)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_regions_are_finished_as_soon_as_their_last_tile_has_been_read(connectivity):
    classes = np.repeat(np.arange(6, dtype=np.uint8), 10)[:, None] * np.ones((1, 8), np.uint8)
    cores = tiling(classes.shape, range(5, 60, 5), [4])
    tiles, read = traced(classes, cores, connectivity=connectivity), []

    def noted(core):
        read.append(core)
        return tiles[core]

    batches = merge_tiles(
        cores,
        load_edges=lambda core: noted(core).edges,
        load_regions=noted,
        scene_width=8,
        connectivity=connectivity,
    )
    next(batches)
    assert len(read) == len(cores) + 1, "edges of all tiles, then one tile per batch"
    finished = [0, *(len(batch) for batch in batches)]
    assert finished == [0, 0, 0, 1] * 6
    assert read == cores + cores


def test_parts_of_another_map_are_refused():
    classes = np.random.default_rng(0).integers(0, 2, (8, 8), dtype=np.uint8)
    cores = tiling(classes.shape, [], [4])
    tiles, others = traced(classes, cores), traced(classes[::-1].copy(), cores)
    mixed = {cores[0]: tiles[cores[0]], cores[1]: others[cores[1]]}
    with pytest.raises(ExecutionError, match="do not fit together"):
        list(
            merge_tiles(
                cores,
                load_edges=lambda core: tiles[core].edges,
                load_regions=mixed.__getitem__,
                scene_width=8,
            )
        )


def test_a_scene_without_any_class_has_no_regions():
    classes = np.full((6, 7), NODATA, np.uint8)
    found = merged(classes, every(3, classes.shape), connectivity=8)
    assert len(found) == 0
    assert isinstance(found.outlines, Outlines)
    assert len(found.outlines) == 0


@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_large_noisy_map_agrees_too(connectivity):
    rng = np.random.default_rng(8)
    field = ndimage.gaussian_filter(rng.random((96, 96)), 1.5)
    classes = np.digitize(field, np.quantile(field, [0.2, 0.5, 0.8])).astype(np.uint8)
    classes[rng.random(classes.shape) < 0.1] = NODATA
    found = merged(classes, tiling(classes.shape, range(5, 90, 9), [1, 2, 20, 63]), connectivity=connectivity)
    if connectivity == 4:
        assert_polygons_of(found, classes)
    assert_same(found, merged(classes, [Window(0, 0, 96, 96)], connectivity=connectivity))
