import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.errors import UsageError
from geoseg.vector.simplify import Generalisation, finish_arcs, generalise_tile
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

NODATA = 255
CORNER_CUT = np.sqrt(2) / 4
"""How far smoothing moves a border, in pixels."""


def options(col, row=None, *, smooth=False, keep_outline=False):
    tolerance = (col, col if row is None else row)
    return Generalisation(tolerance=tolerance, smooth=smooth, keep_outline=keep_outline)


HOW = st.builds(
    options,
    st.sampled_from([0.4, 0.8, 1.0, 1.5, 2.5, 6.0]),
    st.sampled_from([None, 0.7, 3.0]),
    smooth=st.booleans(),
    keep_outline=st.booleans(),
)


@st.composite
def class_maps(draw, values=(0, 1, 2, NODATA)):
    """Sparse maps, random ones, and smooth ones with winding borders and islands."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    kind = draw(st.sampled_from(["sparse", "random", "fractal"]))
    if kind == "sparse":
        return draw(arrays(np.uint8, shape, elements=st.sampled_from(values), fill=st.just(0)))
    seed = draw(st.integers(0, 9999))
    if kind == "random":
        return np.random.default_rng(seed).choice(np.array(values, np.uint8), shape)
    return np.array(values, np.uint8)[fractal(32, seed, len(values))[: shape[0], : shape[1]]]


def fractal(size, seed, classes, slope=1.8):
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(size, size)))
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    distance[0, 0] = 1
    height = np.real(np.fft.ifft2(noise * distance**-slope))
    return np.digitize(height, np.quantile(height, np.arange(1, classes) / classes))


def trace(classes, *, how=None, connectivity=4):
    classes = np.asarray(classes, np.uint8)
    core = Window(0, 0, *classes.shape)
    return trace_tile(
        classes,
        confidence=None,
        pixel_area=np.ones((1, 1)),
        core=core,
        scene=core,
        nodata=NODATA,
        connectivity=connectivity,
        generalise=how,
    )


def raw_and_generalised(classes, how, connectivity=4):
    raw, found = trace(classes, connectivity=connectivity), trace(classes, how=how, connectivity=connectivity)
    assert len(found) == len(raw)
    assert len(found.obstacles) == 0
    return raw, raw.outlines.to_shapely(), found.outlines.to_shapely()


def scaled(geometries, how):
    return shapely.transform(geometries, lambda xy: xy / how.tolerance)


def lines(geometries):
    return shapely.union_all(shapely.boundary(geometries))


def by_class(classes, col):
    """Polygons of the regions of one class, generalised."""
    found = trace(classes, how=col if isinstance(col, Generalisation) else options(col))
    return dict(zip(found.table.class_id.tolist(), found.outlines.to_shapely(), strict=True))


@settings(deadline=None, max_examples=150)
@given(class_maps(), HOW, st.sampled_from([4, 8]))
def test_regions_stay_whole_valid_and_side_by_side(classes, how, connectivity):
    _, raw, found = raw_and_generalised(classes, how, connectivity)
    assert shapely.is_valid(found).all()
    assert (shapely.area(found) > 0).all()
    assert shapely.coverage_is_valid(found)
    np.testing.assert_array_equal(shapely.get_num_geometries(found), shapely.get_num_geometries(raw))
    holes = [sum(len(part.interiors) for part in shapely.get_parts(g)) for g in found]
    assert holes == [sum(len(part.interiors) for part in shapely.get_parts(g)) for g in raw]
    assert shapely.get_num_coordinates(found).sum() <= 3 * shapely.get_num_coordinates(raw).sum()


@settings(deadline=None, max_examples=150)
@given(class_maps(), HOW)
def test_neighbours_stay_the_same(classes, how):
    _, raw, found = raw_and_generalised(classes, how)

    def beside(geometries):
        tree = shapely.STRtree(geometries)
        one, other = tree.query(geometries, predicate="touches")
        shared = shapely.length(shapely.intersection(geometries[one], geometries[other])) > 0
        return set(zip(one[shared].tolist(), other[shared].tolist(), strict=True))

    assert beside(found) == beside(raw)


@settings(deadline=None, max_examples=150)
@given(class_maps(), HOW)
def test_pixel_centres_beyond_the_tolerance_keep_their_class(classes, how):
    regions, raw, found = raw_and_generalised(classes, how)
    rows, cols = np.indices(classes.shape).reshape(2, -1) + 0.5
    centres = shapely.points(cols, rows)
    far = shapely.distance(scaled(centres, how), scaled(lines(raw), how)) > 1 + 1e-9
    class_of = np.full(len(centres), NODATA)
    at, region = shapely.STRtree(found).query(centres, predicate="within")
    class_of[at] = regions.table.class_id[region]
    np.testing.assert_array_equal(class_of[far], classes.ravel()[far])


@settings(deadline=None, max_examples=150)
@given(class_maps(), HOW)
def test_borders_move_by_no_more_than_the_tolerance(classes, how):
    _, raw, found = raw_and_generalised(classes, how)
    before, after = scaled(lines(raw), how), scaled(lines(found), how)
    most = max(1, CORNER_CUT / min(how.tolerance) if how.smooth else 1) + 1e-9
    assert shapely.hausdorff_distance(before, after, densify=0.1) <= most if len(raw) else True


@settings(deadline=None, max_examples=60)
@given(class_maps(values=(0, 1, 2)), HOW)
def test_without_nodata_the_scene_stays_covered(classes, how):
    _, _, found = raw_and_generalised(classes, how)
    assert shapely.area(found).sum() == pytest.approx(classes.size, abs=1e-9)
    assert shapely.equals(shapely.union_all(found), shapely.box(0, 0, *classes.shape[::-1]))


@settings(deadline=None, max_examples=60)
@given(class_maps(), st.sampled_from([0.7, 1.5, 4.0]), st.booleans())
def test_borders_with_nodata_stay_where_they_are_if_asked_for(classes, tolerance, smooth):
    _, raw, found = raw_and_generalised(classes, options(tolerance, smooth=smooth, keep_outline=True))
    assert shapely.equals(shapely.union_all(found), shapely.union_all(raw))


def test_borders_with_nodata_are_simplified_otherwise():
    classes = np.where(np.add.outer(np.arange(30), np.arange(30)) < 30, 0, NODATA)
    (found,) = trace(classes, how=options(1)).outlines.to_shapely()
    assert shapely.get_num_coordinates(found) <= 6
    (kept,) = trace(classes, how=options(1, keep_outline=True)).outlines.to_shapely()
    assert shapely.get_num_coordinates(kept) > 50


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("slope", [0.13, 0.37, 0.5, 0.81, 1.0, 1.9])
def test_a_slanted_border_becomes_straight_at_a_tolerance_of_hardly_more_than_a_pixel(slope, smooth):
    rows, cols = np.indices((80, 80)) + 0.5
    below = rows > slope * cols + 5.3
    found = by_class(below, options(1.2, smooth=smooth))
    border = shapely.intersection(found[0].boundary, found[1].boundary)
    assert shapely.get_num_coordinates(shapely.line_merge(border)) <= 4
    assert found[1].area == pytest.approx(below.sum(), abs=0.36 * border.length)


def test_rectangles_keep_their_corners_and_smoothing_cuts_them():
    classes = np.zeros((20, 30))
    classes[5:15, 10:25] = 1
    assert by_class(classes, 1)[1].equals(shapely.box(10, 5, 25, 15))
    smoothed = by_class(classes, options(0, smooth=True))
    cut = shapely.Polygon(
        [(10, 5.5), (10.5, 5), (24.5, 5), (25, 5.5), (25, 14.5), (24.5, 15), (10.5, 15), (10, 14.5)]
    )
    assert smoothed[1].normalize() == cut.normalize()


def test_smoothing_alone_keeps_every_pixel_centre():
    classes = fractal(48, 5, 4)
    regions, _, found = raw_and_generalised(classes, options(0, smooth=True))
    rows, cols = np.indices(classes.shape).reshape(2, -1) + 0.5
    at, region = shapely.STRtree(found).query(shapely.points(cols, rows), predicate="within")
    np.testing.assert_array_equal(at, np.arange(classes.size))
    np.testing.assert_array_equal(regions.table.class_id[region], classes.ravel())


@pytest.mark.parametrize("smooth", [False, True])
def test_a_line_does_not_sweep_over_an_island(smooth):
    classes = np.zeros((20, 40))
    classes[10:] = 1
    classes[8:10, 12:18] = 1  # a bump, and on both sides of its foot an island
    classes[8, 20] = classes[8, 9] = 2
    found = trace(classes, how=options(9, smooth=smooth))
    polygons = found.outlines.to_shapely()
    assert shapely.coverage_is_valid(polygons)
    assert [len(p.interiors) for p in polygons] == [2, 0, 0, 0]
    islands = shapely.area(polygons[found.table.class_id == 2])
    assert islands.tolist() == [0.5 if smooth else 1] * 2


@pytest.mark.parametrize("smooth", [False, True])
def test_a_region_between_two_nodes_does_not_collapse(smooth):
    classes = np.zeros((30, 30))
    rows, cols = np.indices((30, 30))
    classes[rows > cols] = 1
    classes[abs(rows - cols) < np.minimum(2, (rows + cols) / 15 - 1)] = 2  # a sliver along the border
    found = by_class(classes, options(20, smooth=smooth))
    assert found[2].area > 0
    assert len(found[2].exterior.coords) >= 4
    assert shapely.coverage_is_valid(list(found.values()))


def test_one_pixel_stays_a_square():
    classes = np.zeros((5, 5))
    classes[2, 2] = 1
    assert by_class(classes, 3)[1].equals(shapely.box(2, 2, 3, 3))
    assert by_class(classes, options(3, smooth=True))[1].area == 0.5


def test_tolerances_apply_along_columns_and_rows():
    classes = np.zeros((30, 60))
    classes[15:] = 1
    classes[14, 20:40] = 1  # a step of one row
    assert len(by_class(classes, options(1.1, 0.6))[1].exterior.coords) > 6
    assert len(by_class(classes, options(0.6, 1.1))[1].exterior.coords) <= 6


def test_nothing_to_simplify_is_no_error():
    found = trace(np.full((4, 4), NODATA), how=options(2))
    assert len(found) == 0
    assert found.outlines.scale == 2
    whole = trace(np.zeros((4, 4)), how=options(2)).outlines
    assert whole.to_shapely()[0].equals(shapely.box(0, 0, 4, 4))
    assert finish_arcs(whole, np.empty((0, 2), np.int32), options(2)).fixed.all()


def test_a_tile_gives_the_obstacles_near_its_seams_only():
    classes = np.zeros((64, 64))
    classes[30:32, 30:32] = classes[40, 61] = 1
    core, scene = Window(0, 0, 64, 64), Window(0, 0, 64, 100)
    outlines = trace_tile(
        classes.astype(np.uint8),
        confidence=None,
        pixel_area=np.ones((1, 1)),
        core=core,
        scene=scene,
        nodata=NODATA,
    ).outlines
    found, obstacles = generalise_tile(outlines, core=core, scene=scene, how=options(1))
    near = set(map(tuple, (obstacles / 2).tolist()))
    assert {(61, 40), (62, 40), (62, 41), (61, 41)} <= near
    assert (30, 30) not in near
    assert all(col < 64 for col, _ in near)
    on_seam = found.coords[:, 0] == 128
    assert on_seam.any()
    assert not found.fixed[on_seam].any()


def test_obstacles_lie_up_to_two_tolerances_from_a_seam():
    classes = np.zeros((64, 64), np.uint8)
    classes[40, 58] = 1
    core, scene = Window(0, 0, 64, 64), Window(0, 0, 64, 100)
    found = trace_tile(
        classes,
        confidence=None,
        pixel_area=np.ones((1, 1)),
        core=core,
        scene=scene,
        nodata=NODATA,
        generalise=options(3),
    )
    assert {(116, 80), (118, 80), (116, 82), (118, 82)} <= set(map(tuple, found.obstacles.tolist()))


@pytest.mark.parametrize("tolerance", [(0, 1), (-1, -1), (1, np.inf), (np.nan, 1)])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(UsageError, match="cannot be simplified by this tolerance"):
        Generalisation(tolerance=tolerance)


def test_outlines_are_generalised_once():
    how = options(1)
    outlines = trace(np.zeros((3, 3)), how=how).outlines
    with pytest.raises(ValueError, match="not in units of 1/2"):
        generalise_tile(outlines, core=Window(0, 0, 3, 3), scene=Window(0, 0, 3, 3), how=how)
