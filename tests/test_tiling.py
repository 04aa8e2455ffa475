"""The lattice against brute force: every property is checked by painting pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import UsageError
from geoseg.tiling import Axis, Lattice, TilePlan
from geoseg.windows import Window


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    stride = draw(st.sampled_from([1, 2, 3, 4, 8]))
    patch = stride * draw(st.integers(1, 8))
    overlap = stride * draw(st.integers(0, patch // stride - 1))
    size = draw(st.integers(1, 3 * patch + stride))
    return Axis(size=size, patch_px=patch, overlap_px=overlap, stride_px=stride)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 4]))
    patch = stride * draw(st.integers(1, 5))
    overlap = stride * draw(st.integers(0, patch // stride - 1))
    shape = (draw(st.integers(1, 3 * patch)), draw(st.integers(1, 3 * patch)))
    lattice = Lattice.of(shape, patch_px=patch, overlap_px=overlap, stride_px=stride)
    return TilePlan(lattice=lattice, tile_px=draw(st.integers(1, 4 * patch)), blend=draw(st.booleans()))


@given(axes())
def test_supports_partition_the_axis(axis: Axis) -> None:
    owners = np.zeros(axis.size, int)
    for i in range(axis.count):
        assert axis.cut(i) < axis.cut(i + 1)
        owners[axis.cut(i) : axis.cut(i + 1)] += 1
    assert (owners == 1).all()


@given(axes())
def test_a_patch_contains_its_support_and_stays_in_the_padded_scene_on_the_stride(axis: Axis) -> None:
    assert 0 <= axis.padded - axis.size < axis.stride_px
    for i in range(axis.count):
        start = axis.start(i)
        assert start % axis.stride_px == 0
        assert axis.length % axis.stride_px == 0
        assert 0 <= start <= start + axis.length <= axis.padded
        assert start <= axis.cut(i) < axis.cut(i + 1) <= start + axis.length


@given(axes())
def test_every_pixel_keeps_half_the_overlap_from_the_patch_edge_except_at_the_border(axis: Axis) -> None:
    half = axis.overlap_px // 2
    for i in range(axis.count):
        if i > 0:
            assert axis.cut(i) - axis.start(i) >= half
        if i < axis.count - 1:
            assert axis.start(i) + axis.length - axis.cut(i + 1) >= half


@given(axes(), st.data())
def test_covering_is_what_brute_force_finds(axis: Axis, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, axis.size - 1))
    stop = data.draw(st.integers(start + 1, axis.size))
    found = [i for i in range(axis.count) if axis.start(i) < stop and axis.start(i) + axis.length > start]
    assert list(axis.covering(start, stop)) == found


@given(plans())
@settings(deadline=None)
def test_cores_partition_the_plane_and_reaches_hold_their_patches(plan: TilePlan) -> None:
    shape = plan.lattice.rows.size, plan.lattice.cols.size
    owners = np.zeros(shape, int)
    tiles = list(plan)
    assert len(tiles) == len(plan)
    for tile in tiles:
        owners[tile.core.slices()] += 1
        assert all(tile.reach.contains(p.window) for p in tile.patches)
        assert tile.reach.size <= plan.largest_reach_px
        assert tile == plan.tile(tile.row, tile.col)
    assert (owners == 1).all()


@given(plans())
@settings(deadline=None)
def test_without_blending_no_patch_runs_twice_and_supports_partition_each_core(plan: TilePlan) -> None:
    windows = [p.window for tile in plan for p in tile.patches]
    assert sum(w.size for w in windows) == plan.forwarded_px
    if plan.blend:
        return
    assert len(set(windows)) == len(windows)
    for tile in plan:
        assert sum(p.support.size for p in tile.patches) == tile.core.size
        assert all(tile.core.contains(p.support) for p in tile.patches)


@given(plans())
@settings(deadline=None)
def test_with_blending_a_tile_has_every_patch_over_its_core(plan: TilePlan) -> None:
    blended = TilePlan(lattice=plan.lattice, tile_px=plan.tile_px, blend=True)
    rows, cols = plan.lattice.shape
    everything = [plan.lattice.patch(i, j) for i in range(rows) for j in range(cols)]
    for tile in blended:
        assert list(tile.patches) == [p for p in everything if p.window.intersect(tile.core).size]


def test_an_axis_of_exactly_two_patches_has_two_full_ones() -> None:
    axis = Axis(size=128, patch_px=64, overlap_px=0, stride_px=32)
    assert [(axis.start(i), axis.cut(i)) for i in range(axis.count)] == [(0, 0), (64, 64)]


def test_worked_example_of_the_module_docstring() -> None:
    axis = Axis(size=15, patch_px=6, overlap_px=2, stride_px=2)
    assert [axis.start(i) for i in range(axis.count)] == [0, 4, 8, 10]
    assert [axis.cut(i) for i in range(axis.count + 1)] == [0, 5, 9, 12, 15]


@pytest.mark.parametrize(
    ("patch", "overlap", "message"),
    [
        (100, 0, r"patch size is off .* Use 96 or 128"),
        (64, 20, r"overlap size is off .* Use 0 or 32"),
        (64, 64, r"an overlap of 0 to 32 px"),
        (64, 96, r"overlap does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(patch: int, overlap: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Axis(size=100, patch_px=patch, overlap_px=overlap, stride_px=32)


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), overlap=st.sampled_from([0, 4, 8]),
    tile=st.integers(1, 70), blend=st.booleans(), data=st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_cores_partition_the_part_that_is_wanted(height, width, overlap, tile, blend, data) -> None:
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    extent = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    lattice = Lattice.of((height, width), patch_px=16, overlap_px=overlap, stride_px=4)
    plan = TilePlan(lattice=lattice, tile_px=tile, blend=blend, extent=extent)
    covered = np.zeros((height, width), int)
    whole = TilePlan(lattice=lattice, tile_px=tile, blend=blend)
    known = {p for t in whole for p in t.patches}
    for piece in plan:
        covered[piece.core.slices()] += 1
        assert piece.core.size
        assert set(piece.patches) <= known
        says = [p.window if blend else p.support for p in piece.patches]
        assert all(s.intersect(piece.core).size for s in says)
        seen = np.zeros((height, width), bool)
        for say in says:
            seen[say.intersect(piece.core).slices()] = True
        assert seen[piece.core.slices()].all()
    inside = np.zeros_like(covered)
    inside[extent.slices()] = 1
    assert np.array_equal(covered, inside)
    assert plan.patches == sum(len(t.patches) for t in plan)
    assert plan.largest_core_px >= max(t.core.size for t in plan)
    assert plan.largest_reach_px >= max(t.reach.size for t in plan)
    rows, cols = plan.cuts
    supports = [p.support.intersect(extent) for t in plan for p in t.patches]
    assert set(rows) == {s.row for s in supports if s.size} - {extent.row}
    assert set(cols) == {s.col for s in supports if s.size} - {extent.col}
