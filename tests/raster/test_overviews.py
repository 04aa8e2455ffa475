from __future__ import annotations

import numpy as np
import pytest

from geoseg.raster.overviews import means, modes, present


def reduced(blocks: np.ndarray, level: int, nodata: int, how) -> np.ndarray:
    """Brute force: every pixel from the valid pixels it stands for."""
    factor = 1 << level
    n, side, _ = blocks.shape
    out = np.empty((n, side >> level, side >> level), np.uint8)
    for at in np.ndindex(out.shape):
        rows, cols = (slice(i * factor, (i + 1) * factor) for i in at[1:])
        values = blocks[at[0], rows, cols].ravel()
        values = values[values != nodata]
        out[at] = how(values) if values.size else nodata
    return out


def mode(values: np.ndarray) -> int:
    return int(np.bincount(values).argmax())  # the lowest of equals


def mean(values: np.ndarray) -> int:
    return int(values.sum() * 2 + values.size) // (2 * values.size)


def blocks(palette: list[int], nodata: int, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(len(palette) * 1000 + nodata)
    made = rng.choice(np.array(palette, np.uint8), (3, side, side))
    made[0, :16, :16] = palette[0]  # uniform
    made[1, :8] = nodata
    made[2, 3:, 5:] = nodata  # an edge: little but padding
    return made


@pytest.mark.parametrize("nodata", [255, 0, 7])
@pytest.mark.parametrize("palette", [[1, 2], [0, 7, 3], list(range(12)), [254, 128, 7, 0]])
def test_modes_are_those_of_all_pixels_and_ties_go_to_the_lowest(palette, nodata) -> None:
    given = blocks(palette, nodata)
    found = modes(given, nodata=nodata, levels=5)
    for level, image in enumerate(found, start=1):
        assert np.array_equal(image, reduced(given, level, nodata, mode)), level


@pytest.mark.parametrize("nodata", [255, 0])
@pytest.mark.parametrize("hole", [False, True])
def test_means_are_those_of_all_valid_pixels(nodata, hole) -> None:
    given = np.random.default_rng(0).integers(1, 101, (2, 32, 32), dtype=np.uint8)
    if hole:
        given[0, 5:20, 3:30] = nodata
    for level, image in enumerate(means(given, nodata=nodata, levels=5), start=1):
        assert np.array_equal(image, reduced(given, level, nodata, mean)), level


def test_the_mode_of_a_large_area_is_not_the_mode_of_modes() -> None:
    """Class 1 wins three of four 2 x 2 blocks by a pixel; class 2 has more pixels of the sixteen."""
    two_thirds = np.array([[1, 1], [2, 2]])  # a tie, which the lower id wins
    given = np.block([[two_thirds, two_thirds], [two_thirds, np.full((2, 2), 2)]]).astype(np.uint8)[None]
    first, second = modes(given, nodata=255, levels=2)
    assert first[0].tolist() == [[1, 1], [1, 2]]
    assert second[0].tolist() == [[2]]


def test_counts_do_not_overflow_at_the_deepest_level() -> None:
    given = np.full((1, 512, 512), 3, np.uint8)
    given[0, :, :255] = 4
    assert modes(given, nodata=255, levels=9)[-1].tolist() == [[[3]]]
    assert means(np.full((1, 512, 512), 254, np.uint8), nodata=255, levels=9)[-1].tolist() == [[[254]]]


def test_no_levels_are_wanted_of_a_small_raster() -> None:
    given = np.zeros((1, 512, 512), np.uint8)
    assert modes(given, nodata=255, levels=0) == []
    assert means(given, nodata=255, levels=0) == []
    assert means(np.full((1, 512, 512), 255, np.uint8), nodata=255, levels=0) == []


@pytest.mark.parametrize("values", [[0], [255], [0, 255], [3, 4, 5, 200], list(range(256))])
def test_present_values_ascend(values) -> None:
    given = np.random.default_rng(0).permutation(np.repeat(np.array(values, np.uint8), 4))
    assert list(present(given)) == values
