from __future__ import annotations

import numpy as np
import pytest

from geoseg.legend import IGNORE_INDEX, Legend, LegendClass


def test_encode_and_decode_are_inverse_on_classes(legend: Legend) -> None:
    ids = np.array([[0, 7], [3, 255]], np.uint8)
    index = legend.encode(ids)
    assert index.tolist() == [[0, 1], [2, IGNORE_INDEX]]
    assert np.array_equal(legend.decode(index), ids)


def test_unknown_lists_what_is_neither_class_nor_nodata(legend: Legend) -> None:
    assert legend.unknown(np.array([0, 9, 3, 255, 4], np.uint8)) == [4, 9]


def test_class_zero_is_a_class(legend: Legend) -> None:
    assert legend.encode(np.zeros(3, np.uint8)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 255}, "outside 0..254"),
        ({"id": -1}, "outside 0..254"),
        ({"name": " "}, "empty name"),
        ({"color": "red"}, "#rrggbb"),
    ],
)
def test_a_class_is_checked_when_made(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LegendClass(**{"id": 1, "name": "x", "color": "#000000", **changes})


def test_a_legend_is_checked_when_made() -> None:
    a, b = LegendClass(id=1, name="a", color="#000000"), LegendClass(id=1, name="b", color="#000000")
    with pytest.raises(ValueError, match="class id 1 appears twice"):
        Legend(classes=(a, b))
    with pytest.raises(ValueError, match="at least one class"):
        Legend(classes=())
    with pytest.raises(ValueError, match="also the id of a class"):
        Legend(classes=(a,), nodata=1)
