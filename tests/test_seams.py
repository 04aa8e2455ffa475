from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from geoseg import seams
from geoseg.seams import Grid, GridScore, Tally, in_words, panes, tally, warning
from geoseg.tiling import Lattice, TilePlan
from geoseg.windows import Window

NODATA = 255


def score(classes: np.ndarray, rows, cols, stride: int = 8) -> GridScore | None:
    grid = Grid(rows=tuple(rows), cols=tuple(cols), stride_px=stride)

    def read(window: Window) -> np.ndarray:
        assert Window(0, 0, *classes.shape).contains(window)
        return classes[window.slices()]

    parts = (tally(read, p, grid, shape=classes.shape, nodata=NODATA) for p in panes(classes.shape))
    return sum(parts, Tally()).score()


def field(seed: int, shape=(768, 768)) -> np.ndarray:
    """Hills some 20 px wide, of standard deviation 0.3."""
    hills = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    for _ in range(3):
        hills = uniform_filter(hills, 15)
    return hills * (0.3 / hills.std())


def decided(value: np.ndarray) -> np.ndarray:
    """Four classes by thresholds: outlines run along contours, as in a map."""
    return (value > -0.25).view(np.uint8) + (value > 0) + (value > 0.2)


def with_patches(value: np.ndarray, *, step: int, bias: float) -> np.ndarray:
    """The map of a network that is biased by a constant of its own in every patch."""
    count = value.shape[0] // step
    biases = np.random.default_rng(0).normal(size=(count, count)) * bias
    return decided(value + biases.repeat(step, 0).repeat(step, 1))


def brute(classes: np.ndarray, rows, cols, segment: int, stride: int) -> tuple[int, float, int, float]:
    """Pixel pair by pixel pair."""
    found, expected, pairs, squares = 0, 0.0, 0, 0.0
    for raster, lines in ((classes, rows), (classes.T, cols)):
        size, length = raster.shape
        for line in lines:
            if not 0 < line < size:
                continue
            beside = [line + k * stride for k in (-3, -2, -1, 1, 2, 3)]
            beside = [b for b in beside if 0 < b < size and all(abs(b - other) >= 2 for other in lines)]
            for start in range(0, length, segment):
                counts = []
                for at in (line, *beside):
                    two = [
                        (int(raster[at - 1, i]), int(raster[at, i]))
                        for i in range(start, min(start + segment, length))
                    ]
                    two = [pair for pair in two if NODATA not in pair]
                    counts.append((len(two), sum(a != b for a, b in two)))
                (n, t), others = counts[0], counts[1:]
                m, u = sum(x for x, _ in others), sum(x for _, x in others)
                if n and m:
                    found, pairs = found + t, pairs + n
                    expected += n * u / m
                    squares += (t - n * u / m) ** 2
    return found, expected, pairs, squares


@pytest.mark.parametrize("stride", [8, 10])
@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_every_pair_of_pixels(seed, stride, monkeypatch) -> None:
    monkeypatch.setattr(seams, "SEGMENT_PX", 16)
    monkeypatch.setattr(seams, "PANE_PX", 48)
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(20, 130, 2).tolist())
    classes = rng.integers(0, 3, shape, dtype=np.uint8)
    classes[rng.random(shape) < 0.1] = NODATA
    classes[: shape[0] // 3, : shape[1] // 2] = NODATA
    rows, cols = (sorted(rng.choice(side + 2, 4, replace=False).tolist()) for side in shape)
    found, expected, pairs, squares = brute(classes, rows, cols, 16, stride)
    result = score(classes, rows, cols, stride)
    assert result is not None
    assert (result.on * result.pairs, result.pairs) == pytest.approx((found, pairs))
    assert result.off == pytest.approx(expected / pairs)
    assert result.ratio == pytest.approx((found + 1) / (expected + 1))
    assert result.z == pytest.approx((found - expected) / squares**0.5)


def test_a_map_without_seams_never_warns() -> None:
    """On lattices of any phase; half of the maps are of a network that decides 16 x 16 px at once."""
    for seed in range(100):
        classes = decided(field(seed, (512, 512)))
        if seed % 2:
            classes = classes[::16, ::16].repeat(16, 0).repeat(16, 1)
        lines = range(16 * (1 + seed % 3), 512, 64)
        found = score(classes, lines, lines, stride=16)
        assert found is not None
        assert warning(found) is None, (seed, found)


@pytest.mark.parametrize("seed", range(6))
def test_a_faint_grid_warns(seed) -> None:
    """Patches differ by a few hundredths of the range of scores: one pixel in twenty changes its class."""
    lines = range(128, 1536, 128)
    seamless = field(seed, (1536, 1536))
    faint = with_patches(seamless, step=128, bias=0.02)
    assert (faint != decided(seamless)).mean() < 0.06
    found = score(faint, lines, lines)
    assert found is not None
    assert 1.25 < found.ratio < 2
    assert str(warning(found)).startswith("the lattice of patches shows: the class changes 1.")
    beside = score(faint, range(64, 1536, 128), range(64, 1536, 128))
    assert warning(beside) is None  # the same map, away from its seams
    assert "meet as beside it: the lattice of patches shows" in in_words(found)
    assert "the lattice of patches does not show" in in_words(beside)


def test_the_edge_of_the_data_is_no_seam() -> None:
    classes = np.zeros((600, 600), np.uint8)
    classes[:, 300:] = NODATA
    classes[::7] = 1
    classes[:, 300:] = NODATA
    found = score(classes, [], [300])
    assert found is None
    with_rows = score(classes, [301], [300])
    assert with_rows is not None
    assert with_rows.pairs == 300


@pytest.mark.parametrize(
    ("rows", "cols", "classes"),
    [
        ([], [], np.zeros((9, 9), np.uint8)),
        ([4], [4], np.full((9, 9), NODATA, np.uint8)),
        ([1], [], np.zeros((2, 2), np.uint8)),
    ],
)
def test_no_pairs_no_score(rows, cols, classes) -> None:
    assert score(classes, rows, cols) is None
    assert warning(None) is None
    assert in_words(None) == "no two patches meet over data"


def test_a_map_of_one_class_has_a_score_and_nothing_to_warn_of() -> None:
    found = score(np.zeros((600, 600), np.uint8), [300], [300])
    assert found == GridScore(on=0.0, off=0.0, ratio=1.0, pairs=1200, z=0.0)
    assert warning(found) is None


def test_transitions_on_lines_alone_have_a_finite_ratio() -> None:
    stripes = (np.arange(2048) // 128 % 2).astype(np.uint8)
    classes = np.repeat(stripes[:, None], 2048, axis=1)
    found = score(classes, range(128, 2048, 128), [])
    assert found is not None
    assert found.on == 1.0
    assert all(np.isfinite(value) for value in dataclasses.astuple(found))
    assert warning(found)


def test_lines_count_from_the_wanted_part_of_the_scene() -> None:
    lattice = Lattice.of((1000, 700), patch_px=128, overlap_px=32, stride_px=32)
    whole = Grid.of(TilePlan(lattice=lattice, tile_px=256))
    assert whole.rows[:3] == (112, 208, 304)
    assert whole.stride_px == 32
    part = Grid.of(TilePlan(lattice=lattice, tile_px=256, extent=Window(150, 100, 200, 150)))
    assert (part.rows, part.cols) == ((58, 154), (12, 108))


def test_lines_are_compared_a_whole_number_of_strides_away_if_the_lattice_leaves_room() -> None:
    wide = Grid(rows=(128, 256), cols=(), stride_px=32)
    assert wide.beside(128, wide.rows, 300).tolist() == [32, 64, 96, 160, 192, 224]
    narrow = Grid(rows=tuple(range(32, 300, 32)), cols=(), stride_px=32)
    assert narrow.beside(128, narrow.rows, 300).tolist() == [80, 112, 144, 176]
    none = Grid(rows=tuple(range(8, 300, 8)), cols=(), stride_px=8)
    assert none.beside(128, none.rows, 300).tolist() == []
