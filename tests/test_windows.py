from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.windows import Window

windows = st.builds(Window, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))


def painted(window: Window) -> np.ndarray:
    plane = np.zeros((24, 24), bool)
    plane[window.slices()] = True
    return plane


@given(windows, windows)
def test_intersect_is_the_pixels_in_both(a: Window, b: Window) -> None:
    assert np.array_equal(painted(a.intersect(b)), painted(a) & painted(b))


@given(windows, windows)
def test_contains_means_no_pixel_outside(a: Window, b: Window) -> None:
    assert a.contains(b) == (not (painted(b) & ~painted(a)).any())


@given(windows.filter(lambda w: w.size), windows.filter(lambda w: w.size))
def test_cover_is_the_bounding_box(a: Window, b: Window) -> None:
    rows, cols = np.nonzero(painted(a) | painted(b))
    covered = a.cover(b)
    assert (covered.row, covered.stop_row - 1) == (rows.min(), rows.max())
    assert (covered.col, covered.stop_col - 1) == (cols.min(), cols.max())


def test_slices_relative_to_an_origin() -> None:
    assert Window(5, 7, 2, 3).slices(origin=Window(4, 4, 9, 9)) == (slice(1, 3), slice(3, 6))


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative size: height -1"):
        Window(0, 0, -1, 1)
