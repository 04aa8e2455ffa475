from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from geoseg.errors import UsageError
from geoseg.regions import (
    OUTSIDE,
    UNKNOWN,
    Edges,
    RegionTable,
    class_mix,
    core_grid,
    edges_of,
    find_components,
    find_regions,
    link_tiles,
    measure_regions,
)
from geoseg.windows import Window

NODATA = 255
VALUES = [0, 1, 0, NODATA, 0, 1, 7]


@st.composite
def class_maps(draw):
    """Sparse maps, which shrink well, and dense random ones, where regions touch at corners."""
    shape = draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    if draw(st.booleans()):
        return draw(arrays(np.uint8, shape, elements=st.sampled_from(VALUES), fill=st.just(0)))
    values = VALUES[: draw(st.integers(2, len(VALUES)))]
    return np.random.default_rng(draw(st.integers(0, 999))).choice(np.array(values, np.uint8), shape)


def cut(size, marks):
    """Half-open spans of 0..size, cut at the marks that lie inside."""
    at = [0, *sorted({m for m in marks if 0 < m < size}), size]
    return list(pairwise(at))


def tiles_of(shape, row_marks, col_marks):
    return [
        Window(r, c, r2 - r, c2 - c)
        for r, r2 in cut(shape[0], row_marks)
        for c, c2 in cut(shape[1], col_marks)
    ]


def whole_labels(classes, connectivity=4):
    """The stupid way: one call of scipy per class, on everything at once; 0 at nodata."""
    structure = ndimage.generate_binary_structure(2, connectivity // 4)
    labels, count = np.zeros(classes.shape, np.int64), 0
    for value in set(np.unique(classes).tolist()) - {NODATA}:
        found, n = ndimage.label(classes == value, structure)
        labels[found > 0] = found[found > 0] + count
        count += n
    return labels


FIRST_AND_STOP = (np.min, np.min, lambda at: at.max() + 1, lambda at: at.max() + 1)


def sums_by_first_pixel(labels, classes, confidence, area):
    """{flat index of the first pixel: class, pixels, confidences, area and box}, by brute force."""
    result = {}
    for label in set(np.unique(labels).tolist()) - {0}:
        inside = labels == label
        known = inside & (confidence != NODATA)
        result[int(np.flatnonzero(inside)[0])] = (
            int(classes[inside][0]),
            int(inside.sum()),
            int(confidence[known].astype(int).sum()),
            int(known.sum()),
            int(confidence[inside].min()),
            float(area[inside].sum()),
            [f(at) for f, at in zip(FIRST_AND_STOP, (*np.nonzero(inside), *np.nonzero(inside)), strict=True)],
        )
    return result


def as_dict(table, width):
    ids = table.first_pixel[:, 0].astype(int) * width + table.first_pixel[:, 1]
    columns = (
        *(table.class_id, table.pixels, table.confidence_sum, table.confidence_count),
        *(table.confidence_min, table.area_m2, table.box),
    )
    return {int(i): row for i, row in zip(ids, zip(*(c.tolist() for c in columns), strict=True), strict=True)}


def fields_for(classes, seed):
    rng = np.random.default_rng(seed)
    confidence = rng.choice(np.array([0, 50, 99, 100, NODATA], np.uint8), classes.shape)
    return confidence, rng.integers(1, 1000, classes.shape).astype(np.float64)


@settings(deadline=None, max_examples=150)
@given(classes=class_maps(), seed=st.integers(0, 9), connectivity=st.sampled_from([4, 8]))
def test_regions_of_one_tile_are_those_of_scipy(classes, seed, connectivity):
    confidence, area = fields_for(classes, seed)
    core = Window(0, 0, *classes.shape)
    labels, table = find_regions(
        classes,
        confidence=confidence,
        pixel_area=area,
        core=core,
        nodata=NODATA,
        connectivity=connectivity,
    )
    expected = sums_by_first_pixel(whole_labels(classes, connectivity), classes, confidence, area)
    assert as_dict(table, core.width) == expected
    np.testing.assert_array_equal(labels == 0, classes == NODATA)
    first = [int(np.flatnonzero(labels == i)[0]) for i in range(1, labels.max(initial=0) + 1)]
    assert first == sorted(expected), "labels are numbered by first pixel"
    for i, at in enumerate(first, 1):
        assert (labels == i).sum() == expected[at][1]


@settings(deadline=None, max_examples=150)
@given(
    classes=class_maps(),
    seed=st.integers(0, 9),
    rows=st.sets(st.integers(1, 15)),
    cols=st.sets(st.integers(1, 15)),
    order=st.randoms(use_true_random=False),
    connectivity=st.sampled_from([4, 8]),
)
def test_linked_tiles_are_the_regions_of_the_whole(classes, seed, rows, cols, order, connectivity):
    confidence, area = fields_for(classes, seed)
    cores = tiles_of(classes.shape, rows, cols)
    order.shuffle(cores)
    edges, tables, labels = {}, [], []
    for core in cores:
        at = core.slices()
        found, table = find_regions(
            classes[at],
            confidence=confidence[at],
            pixel_area=area[at],
            core=core,
            nodata=NODATA,
            connectivity=connectivity,
        )
        edges[core] = edges_of(found, classes[at])
        tables.append(table)
        labels.append(found)
    ranks = {tile: rank for rank, tile in enumerate(core_grid(cores).ravel().tolist())}
    groups = link_tiles(cores, edges.__getitem__, connectivity=connectivity)

    joined, last = np.zeros(classes.shape, np.int64), {}
    fresh = groups.count
    for tile, core in enumerate(cores):
        names = np.arange(fresh, fresh + len(tables[tile]) + 1)
        crossing, group = groups.of_tile(tile)
        names[crossing] = group
        fresh += len(names)
        joined[core.slices()] = np.where(labels[tile] > 0, names[labels[tile]] + 1, 0)
        last |= {g: max(last.get(g, 0), tile) for g in group.tolist()}
    assert sums_by_first_pixel(joined, classes, confidence, area) == sums_by_first_pixel(
        whole_labels(classes, connectivity), classes, confidence, area
    )
    assert groups.last_tile().tolist() == [last[g] for g in range(groups.count)]
    assert sorted(ranks.values()) == list(range(len(cores)))


def test_a_region_that_only_touches_a_seam_is_in_no_group():
    classes = np.array([[1, 2, 3, 3]], np.uint8)
    cores = [Window(0, 0, 1, 2), Window(0, 2, 1, 2)]
    groups = link_tiles(cores, lambda core: edges(classes, core))
    assert groups.count == 0
    assert len(groups.keys) == 0


def edges(classes, core):
    tile = classes[core.slices()]
    labels, _ = find_regions(tile, confidence=None, pixel_area=np.ones((1, 1)), core=core, nodata=NODATA)
    return edges_of(labels, tile)


def test_regions_that_meet_only_in_another_tile_are_one():
    classes = np.array([[1, 1], [2, 1], [1, 1]], np.uint8)  # a bracket: its arms meet on the right
    cores = tiles_of(classes.shape, [1, 2], [1])
    groups = link_tiles(cores, lambda core: edges(classes, core))
    assert groups.count == 1
    assert [groups.of_tile(t)[0].tolist() for t in range(6)] == [[1], [1], [], [1], [1], [1]]


def test_regions_that_meet_256_times_are_still_one():
    classes = np.zeros((511, 4), np.uint8)
    classes[1::2, 1:3] = 1
    cores = [Window(0, 0, 511, 2), Window(0, 2, 511, 2)]
    groups = link_tiles(cores, lambda core: edges(classes, core))
    assert groups.count == 256
    assert groups.of_tile(0)[0][0] == groups.of_tile(1)[0][0] == 1
    assert groups.of_tile(0)[1][0] == groups.of_tile(1)[1][0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("rows", "cols"), [([1], [1]), ([1], []), ([], [1])])
def test_pixels_that_touch_at_a_corner_on_a_seam_are_one_if_8_connected(rows, cols, flip):
    classes = np.array([[1, 2], [3, 1]], np.uint8)
    classes = classes[:, ::-1].copy() if flip else classes
    cores = tiles_of(classes.shape, rows, cols)
    assert link_tiles(cores, lambda core: edges(classes, core)).count == 0
    assert link_tiles(cores, lambda core: edges(classes, core), connectivity=8).count == 1


def test_a_frame_says_what_lies_around_a_tile():
    classes = np.zeros((2, 3), np.uint8)
    framed = find_components(classes, core=Window(2, 0, 2, 3), scene=Window(0, 0, 4, 9), nodata=NODATA).framed
    assert framed[1:-1].tolist() == [[OUTSIDE, 1, 1, 1, UNKNOWN]] * 2
    assert framed[0, 1:-1].tolist() == [UNKNOWN] * 3
    assert framed[-1, 1:-1].tolist() == [OUTSIDE] * 3


@settings(deadline=None, max_examples=40)
@given(classes=class_maps(), seed=st.integers(0, 9), connectivity=st.sampled_from([4, 8]))
def test_edges_are_the_sides_of_the_labels_and_the_mix_counts_classes(classes, seed, connectivity):
    core = Window(3, 4, *classes.shape)
    found = find_components(classes, core=core, scene=core, nodata=NODATA, connectivity=connectivity)
    labels = found.labels()
    ours, theirs = found.edges(classes).to_arrays(), edges_of(labels, classes).to_arrays()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    original = np.random.default_rng(seed).choice(np.array([0, 1, 4, NODATA], np.uint8), classes.shape)
    ids = np.array([4, 0], np.uint8)
    mix = class_mix(found, original, ids, core=core)
    expected = [[np.sum(original[labels == i] == v) for v in ids] for i in range(1, found.regions + 1)]
    assert mix.tolist() == expected
    table = measure_regions(found, classes, confidence=None, pixel_area=np.ones((1, 1)), core=core, mix=mix)
    backwards = table.take(np.arange(len(table))[::-1])
    assert backwards.mix.tolist() == expected[::-1]
    assert backwards.box.tolist() == table.box.tolist()[::-1]


def test_a_table_without_a_mix_has_none_after_taking():
    _, table = find_regions(
        np.zeros((2, 2), np.uint8),
        confidence=None,
        pixel_area=np.ones((1, 1)),
        core=Window(0, 0, 2, 2),
        nodata=NODATA,
    )
    assert isinstance(table, RegionTable)
    assert table.take(np.array([0])).mix is None
    assert table.confidence_min.tolist() == [255]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_classes_and_areas_may_be_views_read_only_or_single_precision(dtype):
    rng = np.random.default_rng(4)
    wide = rng.integers(0, 3, (10, 14), dtype=np.uint8)
    area = rng.integers(1, 99, (10, 14)).astype(dtype)
    wide.flags.writeable = area.flags.writeable = False
    classes, core = wide[1:8, 2:11], Window(0, 0, 7, 9)
    _, table = find_regions(classes, confidence=classes, pixel_area=area[1:8, 2:11], core=core, nodata=NODATA)
    expected = sums_by_first_pixel(whole_labels(classes), classes, classes, area[1:8, 2:11].astype(float))
    assert as_dict(table, 9) == expected


def test_edges_keep_labels_and_classes_of_the_four_sides_and_survive_arrays():
    classes = np.array([[5, 5, 0], [5, 0, 0], [NODATA, 3, 3]], np.uint8)
    found = edges(classes, Window(0, 0, 3, 3))
    assert found.top.tolist() == [[1, 1, 2], [5, 5, 0]]
    assert found.bottom.tolist() == [[0, 3, 3], [255, 3, 3]]
    assert found.left.tolist() == [[1, 1, 0], [5, 5, 255]]
    assert found.right.tolist() == [[2, 2, 3], [0, 0, 3]]
    again = Edges.from_arrays(found.to_arrays())
    assert all(
        np.array_equal(getattr(again, s), getattr(found, s)) for s in ("top", "bottom", "left", "right")
    )


@pytest.mark.parametrize("shape", [(4, 1), (1, 5), (1, 1), (4, 5)])
def test_pixel_areas_broadcast(shape):
    classes = np.array([[0, 0, 1, 1, 1], [0, 2, 2, 1, 1], [2, 2, 2, 0, 0], [2, 2, 2, 0, 0]], np.uint8)
    area = np.random.default_rng(1).integers(1, 100, shape).astype(np.float64)
    _, table = find_regions(classes, confidence=None, pixel_area=area, core=Window(7, 9, 4, 5), nodata=NODATA)
    full = np.broadcast_to(area, (4, 5))
    regions = [classes == 0, classes == 1, classes == 2]
    regions[0] = (classes == 0) & (np.arange(4)[:, None] < 2)
    regions.append((classes == 0) & ~regions[0])
    assert table.area_m2.tolist() == [full[r].sum() for r in regions]
    _, again = find_regions(classes, confidence=None, pixel_area=full, core=Window(7, 9, 4, 5), nodata=NODATA)
    assert again.area_m2.tolist() == table.area_m2.tolist()
    assert table.first_pixel.tolist() == [[7, 9], [7, 11], [8, 10], [9, 12]]
    assert table.confidence_count.tolist() == [0, 0, 0, 0]


def test_nodata_alone_has_no_regions():
    core = Window(0, 0, 3, 4)
    labels, table = find_regions(
        np.full((3, 4), 9, np.uint8), confidence=None, pixel_area=np.ones((1, 1)), core=core, nodata=9
    )
    assert not labels.any()
    assert len(table) == 0


def test_arrays_that_are_not_of_the_cores_shape_are_refused():
    with pytest.raises(ValueError, match=r"confidence has shape \(2, 3\), its core .* \(3, 2\)"):
        find_regions(
            np.zeros((3, 2), np.uint8),
            confidence=np.zeros((2, 3), np.uint8),
            pixel_area=np.ones((1, 1)),
            core=Window(0, 0, 3, 2),
            nodata=NODATA,
        )


@pytest.mark.parametrize(
    "cores",
    [
        [],
        [Window(0, 0, 2, 2), Window(0, 3, 2, 2)],
        [Window(0, 0, 2, 2), Window(0, 2, 2, 2), Window(2, 0, 2, 2)],
        [Window(0, 0, 2, 2), Window(0, 0, 2, 2)],
        [Window(0, 0, 2, 2), Window(0, 1, 2, 2)],
        [Window(0, 0, 2, 0)],
        [Window(0, 0, 2, 2), Window(0, 2, 3, 2)],
    ],
)
def test_cores_that_are_no_grid_are_refused(cores):
    with pytest.raises(UsageError, match="tiles do not form a grid"):
        core_grid(cores)
