"""The minimum mapping unit against the rule carried out on the raster itself, one region after the other."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.errors import UsageError
from geoseg.regions import RegionTable
from geoseg.sieve import Area, TileGraph, parse_area, recode, reduce_tile, solve
from geoseg.windows import Window

NODATA = 255
VALUES = [3, 0, 7, NODATA, 254]


def structure(connectivity):
    return ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)


def label_regions(classes, connectivity):
    """Labels by one call of scipy per class, numbered by first pixel; 0 at nodata."""
    labels = np.zeros(classes.shape, np.int64)
    for value in set(np.unique(classes).tolist()) - {NODATA}:
        found, _ = ndimage.label(classes == value, structure(connectivity))
        labels[found > 0] = found[found > 0] + labels.max()
    present, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.zeros(len(present), np.int32)
    order = [i for i in np.argsort(first) if present[i]]
    rank[order] = np.arange(1, len(order) + 1)
    return rank[inverse].reshape(classes.shape)


def regions_of(classes, area, core, connectivity):
    """Labels and table of a tile, by brute force."""
    labels = label_regions(classes[core.slices()], connectivity)
    areas = area[core.slices()]
    n = int(labels.max(initial=0))
    first = [np.argwhere(labels == i + 1)[0] + (core.row, core.col) for i in range(n)]
    values = {f: np.zeros(n, np.int64) for f in RegionTable.__dataclass_fields__}
    values |= {
        "class_id": np.array([classes[tuple(at)] for at in first], np.uint8),
        "pixels": np.bincount(labels.ravel(), minlength=n + 1)[1:],
        "area_m2": np.array([areas[labels == i + 1].sum() for i in range(n)], np.float64),
        "first_pixel": np.array(first, np.int32).reshape(n, 2),
    }
    return labels, RegionTable(**values)


def borders(classes, inside, weights):
    """{class: weighted border} around a region."""
    found = {}
    height, width = classes.shape
    for r, c in np.argwhere(inside):
        for down, right, length in ((1, 0, 0), (-1, 0, 0), (0, 1, 1), (0, -1, 1)):
            i, j = r + down, c + right
            if 0 <= i < height and 0 <= j < width and not inside[i, j] and classes[i, j] != NODATA:
                found[classes[i, j]] = found.get(classes[i, j], 0) + weights[length]
    return found


def sieve_by_brute_force(classes, size, minimum, weights, connectivity, rng=None):
    """The rule, literally: labels everything anew after every step.

    With `rng`, not the smallest comes next but any that comes before all its neighbours below the minimum.
    """
    classes = classes.copy()
    while True:
        labels = label_regions(classes, connectivity)
        keys = {}
        for i in range(1, labels.max(initial=0) + 1):
            inside = labels == i
            if size[inside].sum() < minimum:
                keys[i] = (size[inside].sum(), int(inside.sum()), int(np.flatnonzero(inside)[0]))
        ready = [i for i in keys if borders(classes, labels == i, weights)]
        if not ready:
            return classes
        chosen = min(ready, key=keys.__getitem__)
        if rng is not None:
            early = [i for i in ready if comes_before_its_neighbours(i, labels, keys, connectivity)]
            chosen = rng.choice([chosen, *early])
        around = borders(classes, labels == chosen, weights)
        classes[labels == chosen] = min(around, key=lambda value: (-around[value], value))


def comes_before_its_neighbours(region, labels, keys, connectivity):
    near = set(labels[ndimage.binary_dilation(labels == region, structure(connectivity))].tolist())
    return all(keys[region] <= keys[other] for other in near & set(keys))


def tiles_of(shape, row_marks, col_marks):
    rows = [0, *sorted(m for m in row_marks if m < shape[0]), shape[0]]
    cols = [0, *sorted(m for m in col_marks if m < shape[1]), shape[1]]
    return [Window(r, c, s - r, t - c) for r, s in pairwise(rows) for c, t in pairwise(cols)]


def seams_of(core, shape):
    return core.row > 0, core.stop_row < shape[0], core.col > 0, core.stop_col < shape[1]


def sieve_by_tiles(classes, area, cores, minimum, weights, connectivity):
    """Reduce, solve and recode; also the graphs."""
    graphs, labels = {}, {}
    for core in cores:
        labels[core], table = regions_of(classes, area, core, connectivity)
        graph = reduce_tile(
            labels[core],
            table,
            minimum=minimum,
            seams=seams_of(core, classes.shape),
            weights=weights,
            connectivity=connectivity,
        )
        graphs[core] = TileGraph.from_arrays(graph.to_arrays())
    asked = []
    solved = solve(cores, lambda core: asked.append(core) or graphs[core])
    assert sorted(asked) == sorted(cores), "each graph is loaded once"
    cleaned = np.zeros_like(classes)
    for core in cores:
        recoding = graphs[core].recoding(solved[core], nodata=NODATA)
        cleaned[core.slices()] = recode(labels[core], recoding)
    return cleaned, graphs


@st.composite
def maps(draw, largest=12):
    """Noise, patches of several pixels, or lines and islands; with and without nodata."""
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    values = np.array(VALUES[: draw(st.integers(2, len(VALUES)))], np.uint8)
    share = rng.dirichlet(np.full(len(values), draw(st.sampled_from([0.5, 5.0]))))
    noise = rng.choice(values, shape, p=share)
    grain = draw(st.integers(1, 3))
    rows, cols = (np.arange(n) // grain for n in shape)
    return (
        noise[np.ix_(rows, cols)]
        if draw(st.booleans())
        else np.where(rng.random(shape) < 0.3, noise, values[0])
    )


scenes = {
    "classes": maps(),
    "seed": st.integers(0, 99),
    "minimum": st.integers(1, 40),
    "unit": st.sampled_from(["px", "m2"]),
    "weights": st.sampled_from([(1, 1), (1, 2), (5, 3)]),
    "connectivity": st.sampled_from([4, 8]),
}


def sizes(shape, unit, seed):
    """Pixel areas that often tie, some of them 0; and what regions are measured in."""
    area = np.random.default_rng(seed).integers(0 if seed % 5 == 0 else 1, 4, shape).astype(np.float64)
    return area, area if unit == "m2" else np.ones(shape)


@settings(deadline=None, max_examples=300)
@given(**scenes, rows=st.sets(st.integers(1, 11)), cols=st.sets(st.integers(1, 11)), order=st.randoms())
def test_any_tiling_gives_what_the_rule_gives(
    classes, seed, minimum, unit, weights, connectivity, rows, cols, order
):
    area, size = sizes(classes.shape, unit, seed)
    cores = tiles_of(classes.shape, rows, cols)
    order.shuffle(cores)
    found, _ = sieve_by_tiles(
        classes, area, cores, Area(value=float(minimum), unit=unit), weights, connectivity
    )
    expected = sieve_by_brute_force(classes, size, minimum, weights, connectivity)
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=100)
@given(**scenes)
def test_the_order_of_what_is_not_adjacent_changes_nothing(
    classes, seed, minimum, unit, weights, connectivity
):
    _, size = sizes(classes.shape, unit, seed)
    one, other = (
        sieve_by_brute_force(classes, size, minimum, weights, connectivity, rng)
        for rng in (None, np.random.default_rng(seed))
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("minimum", [5, 60, 2000])
def test_larger_maps_are_the_same_for_any_tiling_and_hold_nothing_smaller(connectivity, minimum):
    rng = np.random.default_rng(minimum)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 160, 200)), (0, 3, 3))
    classes = np.where(rng.random((160, 200)) < 0.2, rng.integers(0, 4, (160, 200)), smooth.argmax(axis=0))
    classes = np.where(ndimage.gaussian_filter(rng.normal(size=(160, 200)), 8) > 0.04, NODATA, classes)
    area = np.linspace(1, 2, 160, dtype=np.float32).astype(float)[:, None] * np.ones((1, 200))
    results = [
        sieve_by_tiles(
            classes.astype(np.uint8),
            area,
            tiles_of(classes.shape, range(step, 160, step), range(step + 3, 200, step)),
            Area(value=float(minimum), unit="m2"),
            (2, 3),
            connectivity,
        )[0]
        for step in (500, 70, 33)
    ]
    assert (results[0] != classes).sum() > 1000
    np.testing.assert_array_equal(results[0] == NODATA, classes == NODATA)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    labels = label_regions(results[0], connectivity)
    sums = np.bincount(labels.ravel(), weights=area.ravel())
    for region in np.flatnonzero(sums < minimum):
        assert region == 0 or not borders(results[0], labels == region, (1, 1))


def sieve_px(classes, minimum, *, weights=(1, 1), connectivity=4, rows=(), cols=()):
    classes = np.array(classes, np.uint8)
    cores = tiles_of(classes.shape, rows, cols)
    area = Area(value=float(minimum), unit="px")
    cleaned, graphs = sieve_by_tiles(classes, np.ones(classes.shape), cores, area, weights, connectivity)
    return cleaned.tolist(), graphs


def test_borders_with_all_regions_of_a_class_count_together():
    classes = [[0, 0, 0, 0], [3, 0, 0, 3], [3, 7, 7, 3], [3, 3, 9, 3], [9, 9, 9, 9]]
    expected = [[0, 0, 0, 0], [3, 0, 0, 3], [3, 3, 3, 3], [3, 3, 9, 3], [9, 9, 9, 9]]
    assert sieve_px(classes, 3, rows={3}, cols={2})[0] == expected, "3 with two 3s, 2 with the 0"
    assert sieve_px(classes, 2, rows={3}, cols={2})[0] == classes, "2 are not less than 2"


def test_ties_go_to_the_lowest_class_id():
    assert sieve_px([[9, 9, 5, 4, 4]], 2)[0] == [[9, 9, 4, 4, 4]]
    assert sieve_px([[4, 4, 5, 9, 9]], 2)[0] == [[4, 4, 4, 9, 9]]


@pytest.mark.parametrize(("weights", "winner"), [((1, 1), 2), ((3, 2), 2), ((2, 3), 6)])
def test_edges_count_what_they_are_long(weights, winner):
    classes = [[2, 2, 2, 2, 2], [6, 6, 1, 6, 6], [2, 2, 2, 2, 2]]
    cleaned, _ = sieve_px(classes, 2, weights=weights, rows={1}, cols={3})
    assert cleaned[1] == [6, 6, winner, 6, 6]


def test_islands_become_sea_and_so_do_lakes_on_them():
    classes = np.zeros((9, 9), np.uint8)
    classes[1::2, 1::2] = 7
    cleaned, _ = sieve_px(classes, 2, rows={1, 4}, cols={5})
    assert not np.any(cleaned)
    island = np.zeros((9, 9), np.uint8)
    island[2:7, 2:7] = 7
    island[4, 4] = 1
    assert sieve_px(island, 10, rows={4}, cols={4})[0] == np.where(island == 1, 7, island).tolist()
    assert not np.any(sieve_px(island, 26, rows={4}, cols={4})[0]), "24 and 1 are less than 26 together"
    assert np.sum(sieve_px(island, 25, rows={4}, cols={4})[0]) == 25 * 7, "the lake first: 25 are enough"


def test_nothing_crosses_nodata_and_what_has_no_neighbour_stays():
    classes = [[1, NODATA, 2, 2], [NODATA, NODATA, 2, 3], [5, 5, NODATA, NODATA]]
    assert sieve_px(classes, 100, cols={1, 2}, rows={2})[0] == [
        [1, NODATA, 2, 2],
        [NODATA, NODATA, 2, 2],
        [5, 5, NODATA, NODATA],
    ]


def test_regions_that_meet_at_the_corner_of_four_tiles_are_one_if_8_connected():
    classes = np.kron([[1, 0], [0, 1]], np.ones((2, 2), int))
    for board in (classes, classes[::-1]):
        assert sieve_px(board, 5, rows={2}, cols={2}, connectivity=8)[0] == board.tolist()
        assert np.ptp(sieve_px(board, 5, rows={2}, cols={2}, connectivity=4)[0]) == 0


def test_what_is_united_at_a_corner_only_has_no_border_but_counts():
    n = NODATA
    classes = [[6, 6, n, 2], [6, 3, n, n], [n, n, 6, n]]  # 3 becomes 6 and meets the single 6 below
    cleaned, graphs = sieve_px(classes, 2, connectivity=8)
    assert cleaned == [[6, 6, n, 2], [6, 6, n, n], [n, n, 6, n]]
    (graph,) = graphs.values()
    assert len(graph) == 0


def test_a_tile_decides_all_but_what_touches_seams():
    classes = np.zeros((40, 40), np.uint8)
    classes[::2, ::2] = 7
    core = Window(40, 80, 40, 40)
    labels = label_regions(classes, 4)
    _, table = regions_of(np.pad(classes, ((40, 0), (80, 0))), np.ones((80, 120)), core, 4)
    for seams, touching in (((False,) * 4, 0), ((True, False, False, False), 20), ((True,) * 4, 39)):
        graph = reduce_tile(labels, table, minimum=Area(value=4.0, unit="px"), seams=seams)
        assert len(graph) == touching
        assert set(graph.first >> 32) | set(graph.first & 0xFFFF) <= set(range(40, 120, 2))
        assert (graph.of_label < 0).sum() == 401 - touching
        assert [len(side) for side in (graph.top, graph.bottom, graph.left, graph.right)] == [
            40 * seam for seam in seams
        ]


def test_what_is_large_enough_in_its_tile_is_no_node():
    classes = np.repeat([[1, 2, 3]], 6, axis=0)
    _, graphs = sieve_px(classes, 6, rows={3}, cols={1})
    assert [len(g) for g in graphs.values()] == [1, 2, 1, 2]
    _, graphs = sieve_px(classes, 3, rows={3}, cols={1})
    assert [len(g) for g in graphs.values()] == [0, 0, 0, 0]


def small_graph(*, minimum=5.0, seams=(False, False, False, True), width=2, **rule):
    classes = np.full((2, width), 4, np.uint8)
    labels, table = regions_of(classes, np.ones((2, width)), Window(0, 0, 2, width), 4)
    return reduce_tile(labels, table, minimum=Area(value=minimum, unit="px"), seams=seams, **rule)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"minimum": 6.0}, r"different rules: \(5.0, 4, 1, 1\) and \(6.0, 4, 1, 1\)"),
        ({"connectivity": 8}, "different rules"),
        ({"weights": (1, 2)}, "different rules"),
        ({"seams": (False, False, False, False)}, "seams of 2 and 0 pixels do not fit"),
    ],
)
def test_graphs_that_do_not_belong_together_are_refused(other, message):
    cores = [Window(0, 0, 2, 2), Window(0, 2, 2, 2)]
    graphs = dict(
        zip(
            cores,
            [small_graph(), small_graph(**({"seams": (False, False, True, False)} | other))],
            strict=True,
        )
    )
    with pytest.raises(ValueError, match=message):
        solve(cores, graphs.__getitem__)


@pytest.mark.parametrize("rule", [{"connectivity": 6}, {"weights": (0, 1)}])
def test_rules_that_mean_nothing_are_refused(rule):
    with pytest.raises(ValueError, match="is not 4 or 8, or weights"):
        small_graph(**rule)


def test_cores_that_are_no_grid_are_refused():
    with pytest.raises(UsageError, match="tiles do not form a grid"):
        solve([Window(0, 0, 2, 2), Window(0, 3, 2, 2)], lambda _: small_graph())


def test_a_minimum_in_m2_needs_areas():
    classes = np.zeros((2, 2), np.uint8)
    labels, table = regions_of(classes, np.full((2, 2), np.nan), Window(0, 0, 2, 2), 4)
    with pytest.raises(UsageError, match=r"5000 m2. Expected a raster with a coordinate reference system"):
        reduce_tile(labels, table, minimum=parse_area("0.5ha"), seams=(False,) * 4)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("0.5ha", 5000.0, "m2"),
        ("400m2", 400.0, "m2"),
        ("400 m²", 400.0, "m2"),
        ("0.07km2", 70_000.0, "m2"),
        (" 1.5 KM² ", 1_500_000.0, "m2"),
        ("12px", 12.0, "px"),
        (".5ha", 5000.0, "m2"),
        ("12.ha", 120_000.0, "m2"),
    ],
)
def test_areas_are_read_as_they_are_written(text, value, unit):
    assert parse_area(text) == Area(value=value, unit=unit)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no number with a unit"),
        ("12", "no number with a unit"),
        ("ha", "no number with a unit"),
        ("-1ha", "no number with a unit"),
        ("0,5ha", "unit ',5ha'"),
        ("5 acres", "unit 'acres'"),
        ("1e3m2", "unit 'e3m2'"),
        ("0 ha", "found 0, which is out of range"),
        ("9" * 400 + "px", "which is out of range"),
    ],
)
def test_other_texts_are_refused_with_what_to_write(text, found):
    with pytest.raises(UsageError, match=found) as caught:
        parse_area(text)
    assert "Write it like 0.5ha, 400m2 or 12px" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "unit"), [(0.0, "px"), (-1.0, "m2"), (np.inf, "px"), (np.nan, "m2"), (1.0, "ha")]
)
def test_areas_hold_what_can_be_compared_with(value, unit):
    with pytest.raises(ValueError, match="an area"):
        Area(value=value, unit=unit)
    assert str(parse_area("0.5ha")) == "5000 m2"


def test_reading_an_area_compiles_nothing():
    script = (
        "import sys; from geoseg.sieve import parse_area; parse_area('1ha'); print('numba' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
