from __future__ import annotations

import pytest

from geoseg.errors import MismatchError, PackageError
from geoseg.legend import Legend
from geoseg.matching import Mapping, SceneFacts, mismatches, require_match, similar
from geoseg.package import Architecture, Band, Card, GsdRange, read_card


@pytest.fixture
def card(legend: Legend) -> Card:
    return Card(
        architecture=Architecture(name="unet", encoder="resnet18", options={"decoder_channels": [64, 32]}),
        bands=(Band(name="red", mean=80, std=20), Band(name="nir", mean=120, std=30)),
        dtype="uint16",
        legend=legend,
        gsd=GsdRange(min_m=5, max_m=20),
        patch_px=256,
        overlap_px=64,
        stride_px=32,
        weights_sha256="ab" * 32,
    )


def facts(**changes) -> SceneFacts:
    return SceneFacts(
        **{"name": "s", "band_names": ("blue", "red", "nir"), "dtype": "uint16", "gsd_m": 10.0, **changes}
    )


def test_a_scene_with_more_bands_in_another_order_fits(card) -> None:
    assert mismatches(card, facts(band_names=("nir", "blue", "red")), Mapping()) == []


def test_every_reason_is_given_at_once_with_its_remedy(card) -> None:
    wrong = facts(band_names=("b1", "b2"), dtype="uint8", gsd_m=0.3)
    with pytest.raises(MismatchError) as caught:
        require_match(card, wrong, Mapping())
    message = str(caught.value)
    assert "Expected bands red, nir; found b1, b2" in message
    assert "--bands" in message
    assert "Expected uint16 values; found uint8" in message
    assert "--scale" in message
    assert "Expected 5 to 20 m; found 0.3 m" in message
    assert "--any-gsd" in message


@pytest.mark.parametrize(
    ("missing", "there", "expected"),
    [
        (["nir"], ["red", "nri", "swir"], {"nir": "nri"}),
        (["green", "red"], ["gren", "Red", "reds"], {"green": "gren", "red": "Red"}),
        (["B2", "B12"], ["B02", "B12A"], {"B2": "B02"}),
        (["B2"], ["B12", "B3", "band_1"], {}),
        (["B8A"], ["B8", "b08a"], {"B8A": "b08a"}),
        (["nir", "nir_2"], ["NIR"], {"nir": "NIR"}),
        (["red_edge"], ["rededge", "red", "red_edge_1"], {"red_edge": "rededge"}),
        (["blue"], ["b1", "b2"], {}),
    ],
)
def test_names_that_were_meant_are_found(missing, there, expected) -> None:
    assert similar(missing, there) == expected


def test_a_typo_in_a_band_name_is_named(card) -> None:
    [reason] = mismatches(card, facts(band_names=("blue", "red", "nri")), Mapping())
    assert "found blue, red, nri. The nearest there is nri for nir. Name the file's 3 bands" in reason
    for names in (("b1", "b2", "b3"), ("red", "rad", "blue")):
        [reason] = mismatches(card, facts(band_names=names), Mapping())
        assert "The nearest" not in reason
    [reason] = mismatches(card, facts(band_names=("nir", "rad", "blue")), Mapping())
    assert "The nearest there is rad for red. " in reason


def test_too_few_bands_is_said_so(card) -> None:
    assert "too few bands" in mismatches(card, facts(band_names=("red",)), Mapping())[0]


def test_what_the_user_declares_is_taken(card) -> None:
    assert mismatches(card, facts(dtype="float32", gsd_m=0.3), Mapping(scale=1e4, any_gsd=True)) == []


def test_a_card_survives_json_and_any_change_changes_its_fingerprint(card) -> None:
    assert Card.from_json(card.to_json(), source="x") == card
    changes = {
        "architecture": card.architecture.model_copy(update={"name": "fpn"}),
        "bands": (card.bands[1], card.bands[0]),
        "dtype": "uint8",
        "gsd": None,
        "patch_px": 512,
        "overlap_px": 32,
        "weights_sha256": "cd" * 32,
        "licence": "CC0",
        "provenance": {"seed": 1},
    }
    prints = {card.model_copy(update={k: v}).fingerprint for k, v in changes.items()}
    assert len(prints | {card.fingerprint}) == len(changes) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"format": "other"}', "format: Input should be 'geoseg-model'"),
        ('{"version": 2}', "version: Input should be 1"),
    ],
)
def test_a_bad_card_names_the_field(tmp_path, text, message) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(PackageError, match=message):
        read_card(tmp_path)


def test_unknown_fields_off_stride_patches_and_double_bands_are_refused(card) -> None:
    for old, new, message in (
        ('"dtype"', '"surprise": 1, "dtype"', "surprise: Extra inputs"),
        ('"patch_px": 256', '"patch_px": 250', "patch_px 250 is not a multiple of stride_px 32"),
        ('"name": "nir"', '"name": "red"', "band 'red' appears twice"),
        ('"overlap_px": 64', '"overlap_px": 256', "must be smaller than patch_px"),
    ):
        text = card.to_json().replace(old, new)
        with pytest.raises(PackageError, match=message):
            Card.from_json(text, source="model.json")


def test_a_folder_without_a_card_is_not_a_package(tmp_path) -> None:
    with pytest.raises(PackageError, match=r"no model\.json in it"):
        read_card(tmp_path)
    with pytest.raises(PackageError, match="no such folder"):
        read_card(tmp_path / "nowhere")
