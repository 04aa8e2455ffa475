from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import LabelError, SceneError
from geoseg.legend import CodedClass, CodedLegend, Legend
from geoseg.raster.classes import _encode, by_codes, open_class_band, values_in
from geoseg.windows import Window


def coded(*codes: int, nodata: int | None = None) -> CodedLegend:
    classes = tuple(CodedClass(id=c, name=f"class {c}", color="#123456") for c in codes)
    return CodedLegend(classes=classes, nodata=nodata)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(-(2**31), 2**32), min_size=1, max_size=20, unique=True),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_codes_are_numbered_in_the_order_of_the_legend(codes, seed, far) -> None:
    """A table where codes lie close together, a search where they do not."""
    codes = codes if far else list(dict.fromkeys(code % 1000 for code in codes))
    legend = coded(*codes)
    values = np.random.default_rng(seed).choice(np.array(codes, np.int64), (7, 5))
    ids = _encode(values, legend.codes, "here")
    assert np.array_equal(np.vectorize(legend.codes.get)(ids), values)
    other = values.copy()
    other[3, 2] = next(v for v in range(min(codes), max(codes) + 2) if v not in codes)
    with pytest.raises(LabelError, match=f"not in the legend: here.*found {other[3, 2]}\\."):
        _encode(other, legend.codes, "here")


def test_what_is_masked_may_hold_anything(make_raster) -> None:
    values = np.array([[-32768, 500, -7], [-7, 0, 500]], np.int16)
    scene = open_class_band(make_raster(values, nodata=-32768))
    found = by_codes(scene, coded(500, -7, nodata=0)).read(scene.window)
    assert found.tolist() == [[255, 0, 1], [1, 255, 0]]
    assert by_codes(scene, coded(500, -7, 0)).read(Window(1, 1, 1, 2)).tolist() == [[2, 0]]


def test_values_that_occur(make_raster) -> None:
    values = np.array([[5, 5, 70_000], [-3, 5, 99]], np.int32)
    scene = open_class_band(make_raster(values, nodata=99))
    assert values_in(scene, scene.window) == (-3, 5, 70_000)
    assert values_in(scene, Window(0, 0, 1, 2)) == (5,)


def test_floats_that_are_whole_are_integers_if_the_user_says_so(make_raster) -> None:
    values = np.array([[1, 2, np.nan], [3, 1e6, -1]], np.float32)
    path = make_raster(values)
    with pytest.raises(SceneError, match="found float32"):
        open_class_band(path)
    scene = open_class_band(path, as_integer=True)
    assert values_in(scene, scene.window) == (-1, 1, 2, 3, 1_000_000)
    found = by_codes(scene, coded(1, 2, 3, 1_000_000, -1)).read(scene.window)
    assert found.tolist() == [[0, 1, 255], [2, 3, 4]]


def test_objects_with_a_number_each_are_no_classes(make_raster) -> None:
    scene = open_class_band(make_raster(np.arange(255, dtype=np.uint16).reshape(5, 51)))
    with pytest.raises(SceneError, match="at most 254 classes; found 255 values or more: 0, 1, 2, 3, 4"):
        values_in(scene, scene.window)
    assert len(values_in(scene, Window(0, 0, 5, 50))) == 250


def test_coded_legends_keep_ids_that_can_be_kept(legend) -> None:
    assert CodedLegend.of(legend).legend == legend
    plain = coded(3, 254, nodata=0)
    assert plain.is_plain
    assert (plain.legend.ids.tolist(), plain.legend.nodata) == ([3, 254], 0)
    for odd in (coded(3, 255), coded(-1, 4), coded(1, 2, nodata=-9999)):
        assert not odd.is_plain
        assert odd.legend.ids.tolist() == [0, 1]
        assert odd.legend.nodata == 255
        assert list(odd.codes.values()) == [c.id for c in odd.classes]


@pytest.mark.parametrize(
    ("classes", "nodata", "message"),
    [
        ((), None, "at least one class"),
        ((700, 700), None, "class id 700 appears twice"),
        ((700, 2), 700, "nodata 700 is also the id of a class"),
        (tuple(range(1000, 1256)), None, "at most 255 classes, not 256"),
    ],
)
def test_coded_legends_that_cannot_be(classes, nodata, message) -> None:
    with pytest.raises(ValueError, match=message):
        coded(*classes, nodata=nodata)


def test_a_legend_of_bytes_and_one_of_codes_say_the_same(legend) -> None:
    assert isinstance(CodedLegend.of(legend).legend, Legend)
    assert CodedLegend.of(legend).codes == {0: 0, 7: 7, 3: 3}
