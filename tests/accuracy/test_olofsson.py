"""The worked examples of both papers, their formulas, and every sample there could be."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from geoseg.accuracy.olofsson import Z95, Strata, estimate

# Olofsson et al. 2014, tables 8 and 9: deforestation, forest gain, stable forest, stable non-forest.
MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09
"""Of a pixel of 30 m."""

# Stehman 2014, section 4: forty points, ten in each of four strata.
STRATUM = np.repeat([0, 1, 2, 3], 10)
MAP = np.array([*"AAAAAAABBB", *"ABBBBBBBBB", *"BBCCCCCCBB", *"DDDDDDDDDD"])
TRUE = np.array([*"AAAAACBABC", *"ABBBBBAABB", *"CCCCCDDBBA", *"DDDDDDDCCB"])
LETTERS = "ABCD"


def points_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each count."""
    rows, cols = (i.repeat(matrix.ravel()) for i in np.indices(matrix.shape).reshape(2, -1))
    return rows, cols


def olofsson_2014(pixels=PIXELS):
    mapped, true = points_of(MATRIX)
    strata = Strata(pixels=np.asarray(pixels, float), area=PIXELS * HECTARES)
    return estimate(mapped, mapped, true, strata=strata, classes=4)


def test_olofsson_2014_example() -> None:
    """Printed in the paper, section 5.2 and table 9."""
    found, total = olofsson_2014(), PIXELS.sum()
    assert found.points == 640
    assert found.overall_accuracy.value == pytest.approx(0.95, abs=0.005)
    assert Z95 * found.overall_accuracy.standard_error == pytest.approx(0.02, abs=0.005)
    users = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    producers = [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    for c, user, producer in zip(found.classes, users, producers, strict=True):
        for estimated, (value, half) in ((c.users_accuracy, user), (c.producers_accuracy, producer)):
            assert estimated.value == pytest.approx(value, abs=0.005)
            assert Z95 * estimated.standard_error == pytest.approx(half, abs=0.005)
    shares = [c.area_share for c in found.classes]
    assert shares[0].value * total == pytest.approx(235_086, abs=1)
    hectares = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    for share, (value, half) in zip(shares, hectares, strict=True):
        assert share.value * total * HECTARES == pytest.approx(value, abs=1)
        assert Z95 * share.standard_error * total * HECTARES == pytest.approx(half, abs=1.5)
    assert [list(row) for row in found.counts[:4]] == MATRIX.tolist()
    assert found.counts[4] == (0, 0, 0, 0)
    assert np.sum(found.shares) == pytest.approx(1)
    assert found.shares[0][0] == pytest.approx(0.02 * 66 / 75)


def test_the_formulas_of_olofsson_are_a_special_case() -> None:
    """Equations 4 to 7, 9 and 10 as they stand there: strata are map classes, few pixels are looked at."""
    found = olofsson_2014(pixels=np.full(4, np.inf))
    n, weight = MATRIX.sum(axis=1), PIXELS / PIXELS.sum()
    p = weight[:, None] * MATRIX / n[:, None]
    user = np.diag(MATRIX) / n
    variance = (weight**2 * user * (1 - user) / (n - 1)).sum()
    assert found.overall_accuracy.value == pytest.approx(np.trace(p))
    assert found.overall_accuracy.standard_error == pytest.approx(variance**0.5)
    for k, c in enumerate(found.classes):
        assert c.users_accuracy.standard_error == pytest.approx((user[k] * (1 - user[k]) / (n[k] - 1)) ** 0.5)
        share = p[:, k].sum()
        spread = weight * p[:, k] - p[:, k] ** 2
        assert c.area_share.value == pytest.approx(share)
        assert c.area_share.standard_error == pytest.approx((spread / (n - 1)).sum() ** 0.5)
        total, right = PIXELS.sum() * share, p[k, k] / share
        other = np.arange(4) != k
        rate = MATRIX[:, k] / n
        terms = PIXELS**2 * rate * (1 - rate) / (n - 1)
        first = PIXELS[k] ** 2 * (1 - right) ** 2 * user[k] * (1 - user[k]) / (n[k] - 1)
        expected = (first + right**2 * terms[other].sum()) / total**2
        assert c.producers_accuracy.value == pytest.approx(right)
        assert c.producers_accuracy.standard_error == pytest.approx(expected**0.5)


def test_stehman_2014_example() -> None:
    """Printed in the paper (pages 4932 to 4936), with the digits the published R package gives."""
    mapped, true = (np.array([LETTERS.index(v) for v in values]) for values in (MAP, TRUE))
    sizes = np.array([40_000.0, 30_000, 20_000, 10_000])
    found = estimate(STRATUM, mapped, true, strata=Strata(pixels=sizes, area=sizes), classes=4)
    b = found.classes[1]
    for estimated, value, error in (
        (found.classes[0].area_share, 0.35, 0.0822478),
        (found.classes[2].area_share, 0.20, 0.06427977),
        (found.overall_accuracy, 0.63, 0.08464219),
        (b.users_accuracy, 0.5744681, 0.1247822),
        (b.producers_accuracy, 0.7941176, 0.1165479),
    ):
        assert estimated.value == pytest.approx(value, abs=1e-7)
        assert estimated.standard_error == pytest.approx(error, abs=1e-7)
    assert found.shares[1][2] == pytest.approx(0.08)


def test_over_every_sample_there_could_be() -> None:
    """The mean of all estimates is the truth, and that of all variances their variance, for totals."""
    mapped = np.array([0, 0, 1, 1, 0, 1, 1, 0, 1])
    true = np.array([0, 1, 1, 0, 0, 1, 0, 0, 1])
    members = [range(5), range(5, 9)]
    strata = Strata(pixels=np.array([5.0, 4.0]), area=np.array([5.0, 4.0]))
    stratum = np.array([0, 0, 0, 1, 1])
    accuracy, area, variances = [], [], []
    for chosen in product(combinations(members[0], 3), combinations(members[1], 2)):
        at = np.array([*chosen[0], *chosen[1]])
        found = estimate(stratum, mapped[at], true[at], strata=strata, classes=2)
        accuracy.append(found.overall_accuracy.value)
        area.append(found.classes[0].area_share.value)
        variances.append(found.classes[0].area_share.standard_error ** 2)
    assert np.mean(accuracy) == pytest.approx((mapped == true).mean())
    assert np.mean(area) == pytest.approx((true == 0).mean())
    assert np.mean(variances) == pytest.approx(np.var(area))


def test_a_census_leaves_no_doubt() -> None:
    mapped, true = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1])
    stratum = np.array([0, 0, 1, 1, 1])
    strata = Strata(pixels=np.array([2.0, 3.0]), area=np.array([2.0, 3.0]))
    found = estimate(stratum, mapped, true, strata=strata, classes=2)
    assert found.overall_accuracy.value == pytest.approx(3 / 5)
    assert found.overall_accuracy.standard_error == pytest.approx(0, abs=1e-9)
    assert found.classes[1].producers_accuracy.value == pytest.approx(2 / 4)
    assert found.counts == ((1, 1), (0, 2), (0, 1))  # the last row is not mapped: wrong, not forgotten


def test_intervals_stay_possible_and_what_is_absent_is_none() -> None:
    strata = Strata(pixels=np.array([100.0]), area=np.array([1.0]))
    found = estimate(np.zeros(3, int), np.zeros(3, int), np.array([0, 0, 1]), strata=strata, classes=3)
    assert found.overall_accuracy.high == 1.0
    assert found.overall_accuracy.low > 0
    assert found.classes[1].users_accuracy is None
    assert found.classes[1].producers_accuracy.value == 0.0
    assert found.classes[2].producers_accuracy is None


def test_strata_nobody_knows_enough_about() -> None:
    strata = Strata(pixels=np.array([9.0, 9.0]), area=np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="stratum 1 has fewer than 2 points"):
        estimate(np.array([0, 0, 1]), np.zeros(3, int), np.zeros(3, int), strata=strata, classes=1)
