"""What is chosen where the user chooses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import UsageError
from geoseg.legend import Legend, LegendClass
from geoseg.package import Architecture, Band, Card, Context
from geoseg.planning import CALL_BYTES, FIXED_BYTES, Demands, plan_tiles


def card(*, radius=0, stride=32, per_px=500, patch=256, overlap=64, measured=True) -> Card:
    context = Context(radius_px=radius, tolerance=0.01, change=0.001, searched_px=512)
    return Card(
        architecture=Architecture(name="unet", encoder="resnet18"),
        bands=(Band(name="a", mean=0, std=1),),
        dtype="uint8",
        legend=Legend(classes=(LegendClass(id=0, name="x", color="#000000"),), nodata=255),
        patch_px=patch,
        overlap_px=overlap,
        stride_px=stride,
        context=context if measured else None,
        call_bytes_per_px=per_px if measured else None,
        weights_sha256="0" * 64,
    )


def demands(*cards: Card) -> Demands:
    return Demands.of(cards, blend=False)


def test_overlap_is_twice_the_distance_the_network_looks() -> None:
    plan = plan_tiles((9000, 9000), demands(card(radius=160)))
    assert plan.lattice.rows.overlap_px == 320
    assert not plan.blend


def test_patches_are_large_where_memory_allows_and_little_is_computed_twice() -> None:
    plan = plan_tiles((9000, 9000), demands(card(radius=160)))
    patch = plan.lattice.rows.patch_px
    assert patch**2 * 500 <= CALL_BYTES
    assert plan.duplication < 1.4
    tight = plan_tiles((9000, 9000), demands(card(radius=160)), memory=FIXED_BYTES + 530 * 600**2)
    assert tight.lattice.rows.patch_px <= 600
    assert tight.duplication > 2


@given(
    height=st.integers(1, 20000), width=st.integers(1, 20000), radius=st.integers(0, 10),
    stride=st.sampled_from([1, 2, 32]), per_px=st.integers(50, 1400),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_no_patch_within_the_memory_saves_more_than_a_twentieth(
    height, width, radius, stride, per_px
) -> None:
    wanted = demands(card(radius=radius * stride, stride=stride, per_px=per_px, patch=256 // stride * stride))
    budget = 1_500_000_000
    plan = plan_tiles((height, width), wanted, memory=budget)
    held = 1 + 4 + 4 + 1  # a pixel of one uint8 band, normalised, the score of one class, and whether valid
    assert wanted.job_bytes(plan.lattice.rows.patch_px) <= budget
    most = int(((budget - FIXED_BYTES) / (per_px + 2 * held)) ** 0.5) // stride * stride
    for patch in range(wanted.overlap_px + 4 * stride, most + 1, max(stride, 64)):
        other = plan_tiles((height, width), wanted, patch_px=patch)
        assert plan.forwarded_px <= 1.05 * other.forwarded_px


def test_a_network_that_looks_at_the_whole_patch_gets_the_patches_it_was_trained_on() -> None:
    plan = plan_tiles((9000, 9000), demands(card(radius=None, patch=512, overlap=128)))
    assert plan.blend
    assert (plan.lattice.rows.patch_px, plan.lattice.rows.overlap_px) == (512, 128)


def test_a_card_without_measurements_is_taken_at_its_word() -> None:
    for blend in (False, True):
        wanted = Demands.of([card(measured=False, patch=320, overlap=96)], blend=blend)
        plan = plan_tiles((999, 999), wanted)
        assert plan.blend is blend
        assert (plan.lattice.rows.patch_px, plan.lattice.rows.overlap_px) == (320, 96)


def test_networks_together_ask_for_what_each_asks_for() -> None:
    both = demands(card(radius=64, stride=32, per_px=100), card(radius=22, stride=2, per_px=900, overlap=44))
    assert both.stride_px == 32
    assert both.overlap_px == 128
    assert both.call_bytes_per_px == 900
    assert demands(card(), card(radius=None)).blend
    assert demands(card(), card(measured=False)).call_bytes_per_px is None


def test_what_the_user_says_counts() -> None:
    plan = plan_tiles((5000, 5000), demands(card(radius=160)), patch_px=640, overlap_px=64, blend=True)
    assert (plan.lattice.rows.patch_px, plan.lattice.rows.overlap_px, plan.blend) == (640, 64, True)


def test_too_little_memory_is_said_with_what_would_do() -> None:
    with pytest.raises(UsageError, match=r"at least 704 MB, of which .* 600; found 610 MB.*--memory"):
        plan_tiles((5000, 5000), demands(card(radius=160)), memory=610_000_000)
