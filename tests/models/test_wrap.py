from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rasterio
from onnx_graphs import card_fields, halving, write_card

from geoseg.errors import OutputError, PackageError
from geoseg.inference import Member, Request, normalise, segment_tile
from geoseg.models.ort import load_ort
from geoseg.models.runtime import load_predictor
from geoseg.models.wrap import plausible, wrap
from geoseg.onnxfile import graph_sha256, write_metadata
from geoseg.package import CARD_NAME, GRAPH_NAME, Band, Card, ClipStep, LogStep, SigmoidStep, read_card
from geoseg.planning import Demands, plan_tiles
from geoseg.windows import Window

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path):
    """A graph and a card for it."""
    halving(tmp_path / "g.onnx")
    write_card(tmp_path / "card.json")
    return tmp_path


def wrapped(folder, **options):
    return wrap(folder / "g.onnx", folder / "card.json", folder / "model", **options)


def refused(folder, match):
    """It is an error that says so, and nothing is left of the attempt."""
    before = sorted(folder.iterdir())
    with pytest.raises(PackageError, match=match):
        wrapped(folder)
    assert sorted(folder.iterdir()) == before


class TestWrap:
    def test_the_package_is_the_graph_and_the_completed_card(self, here):
        card = wrapped(here)
        assert sorted(p.name for p in (here / "model").iterdir()) == [CARD_NAME, GRAPH_NAME]
        assert (here / "model" / GRAPH_NAME).read_bytes() == (here / "g.onnx").read_bytes()
        assert read_card(here / "model") == card
        assert card.weights_sha256 == graph_sha256(here / "g.onnx")
        assert (card.graph.input, card.graph.output) == ("x", "y")
        assert card.architecture is None
        assert card.provenance == {"from": "a test"}
        assert load_predictor(here / "model", runtime="onnxruntime", device="cpu")[0] == card

    def test_context_and_memory_are_measured(self, here):
        card = wrapped(here)
        # A pixel sees its own block of 2 x 2 and those around: two pixels from a cut, all of them are there.
        assert card.context.radius_px == 2
        assert card.context.change < 1e-5
        assert card.call_bytes_per_px >= 4 * 3  # the answer alone

    def test_a_network_that_looks_at_everything_has_no_radius(self, here):
        halving(here / "g.onnx", last=[("MeanVarianceNormalization", {"axes": [2, 3]})])
        context = wrapped(here).context
        assert context.radius_px is None
        assert context.change > context.tolerance

    def test_a_package_is_replaced_only_when_told(self, here):
        first = wrapped(here)
        write_card(here / "card.json", licence="CC0")
        with pytest.raises(OutputError, match=r"found a model package\. Give --overwrite"):
            wrapped(here)
        assert read_card(here / "model") == first
        assert wrapped(here, overwrite=True).licence == "CC0"

    def test_a_file_that_carries_a_card_can_be_wrapped_with_another(self, here):
        card = wrapped(here)
        write_metadata(here / "model" / GRAPH_NAME, here / "g.onnx", "geoseg", card.to_json())
        write_card(here / "card.json", licence="CC0")
        again = wrapped(here, overwrite=True)
        assert again.licence == "CC0"
        assert again.weights_sha256 == card.weights_sha256


class TestCardsThatAreRefused:
    @pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
    def test_no_json(self, here, text):
        (here / "card.json").write_text(text, "latin-1")
        refused(here, r"the card cannot be read: .*card\.json")

    def test_no_file(self, here):
        (here / "card.json").unlink()
        refused(here, r"the card cannot be read: .*card\.json.*No such file")

    @pytest.mark.parametrize("field", ["bands", "legend", "dtype", "patch_px", "stride_px"])
    def test_a_field_that_is_missing(self, here, field):
        fields = card_fields()
        del fields[field]
        (here / "card.json").write_text(json.dumps(fields))
        refused(here, rf"card is not valid: .*card\.json.*{field}: Field required")

    def test_a_field_that_is_unknown(self, here):
        write_card(here / "card.json", strides_px=2)
        refused(here, r"card\.json.*strides_px: Extra inputs")

    @pytest.mark.parametrize(
        "more",
        [
            {"weights_sha256": "0" * 64},
            {"context": {"radius_px": 4, "tolerance": 0, "change": 0, "searched_px": 8}},
            {"call_bytes_per_px": 10},
            {"architecture": {"name": "unet", "encoder": "resnet18"}},
        ],
        ids=lambda m: next(iter(m)),
    )
    def test_what_is_found_out_by_trying(self, here, more):
        write_card(here / "card.json", **more)
        refused(here, rf"says what is found out by trying: .*found {next(iter(more))}\. Leave")


class TestGraphsThatDoNotFit:
    def test_no_graph(self, here):
        (here / "g.onnx").write_bytes(b"\0garbage")
        refused(here, r"not a whole ONNX file: .*g\.onnx")

    def test_other_bands(self, here):
        write_card(here / "card.json", bands=4)
        refused(here, r"\(n, 4, h, w\).*found tensor\(float\) of shape \['n', 2, 'h', 'w'\].*has 4 bands")

    def test_other_bands_that_are_not_declared(self, here):
        halving(here / "g.onnx", declared="any")
        write_card(here / "card.json", bands=4)
        refused(here, r"an answer to a batch of shape \(1, 4, 64, 64\)")

    def test_other_classes(self, here):
        write_card(here / "card.json", classes=5)
        refused(here, r"output 'y': .*\(n, 5, h, w\).*The card has 5 classes")

    @pytest.mark.parametrize("shape", [[1, 2, "h", "w"], ["n", 2, 64, 64]])
    def test_fixed_sizes(self, here, shape):
        halving(here / "g.onnx", shape=shape)
        refused(here, r"n, h and w dynamic; found.*Export the graph again with dynamic axes 0, 2 and 3")

    def test_probabilities(self, here):
        halving(here / "g.onnx", last=[("Softmax", {"axis": 1})], gain=0.5)
        refused(here, r"Expected logits; found probabilities.*without its last softmax")

    def test_scores_that_are_no_numbers(self, here):
        halving(here / "g.onnx", last=[("Log", {})])
        refused(here, "Expected finite logits")

    def test_another_size_comes_out(self, here):
        halving(here / "g.onnx", last=[("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]})])
        refused(here, r"logits of shape \(1, 3, 64, 64\) for a batch.*found \(1, 3, 32, 32\)")

    def test_a_stride_that_is_not_the_network_s(self, here):
        write_card(here / "card.json", stride_px=1)
        refused(here, r'shifted by stride_px 1; found .*differ by 0\.\d+ on average; by 2 px.*"stride_px": 2')

    def test_names_that_are_not_there(self, here):
        write_card(here / "card.json", graph={"input": "image", "output": "y"})
        refused(here, r"an input named 'image'; found x")

    def test_several_outputs_must_be_told_apart(self, here):
        halving(here / "g.onnx", outputs=2)
        refused(here, r"one input and one output; found inputs x; outputs y, z.*Name them")
        write_card(here / "card.json", graph={"input": "x", "output": "z"})
        assert wrapped(here).graph.output == "z"

    def test_weights_elsewhere(self, here):
        halving(here / "g.onnx", external="weights.bin")
        refused(here, "keeps weights in another file")


def test_plausible_images_lie_where_the_last_step_puts_them():
    bands = (
        Band(name="plain", mean=5, std=3),
        Band(name="sigmoid", steps=(LogStep(), SigmoidStep())),
        Band(name="clipped", steps=(ClipStep(min=10, max=20),), mean=10, std=2),
    )
    images = plausible(bands, 96, count=2)
    assert images.shape == (2, 3, 96, 96)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[:, 0].mean(axis=(1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(images[:, 0].std(axis=(1, 2)), 1, atol=1e-3)
    for i, high in ((1, 1), (2, 5)):
        assert 0 <= images[:, i].min() < 0.1 * high
        assert 0.9 * high < images[:, i].max() <= high


FOUND = {"weights_sha256": "0" * 64, "graph": {"input": "image", "output": "logits"}}


def test_the_card_in_the_documentation_is_one():
    (text,) = re.findall(
        r"^```json\n(.*?)^```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert not {*json.loads(text)} & {*FOUND}
    card = Card.from_json(json.dumps(json.loads(text) | FOUND), source="docs/models.md")
    assert card.band_names == ("red", "nir")


def test_the_card_we_ship_is_one():
    path = ROOT / "configs" / "dynamic-world.json"
    card = Card.from_json(json.dumps(json.loads(path.read_text()) | FOUND), source=path)
    assert card.band_names == ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")
    assert len(card.legend) == 9


@pytest.fixture(scope="module")
def dynamic_world(real_data, tmp_path_factory):
    """Google's Dynamic World as anyone would wrap it, and the folder it comes from."""
    source = Path(os.environ.get("GEOSEG_TEST_MODELS", real_data.parent / "models")) / "dynamic-world"
    if not source.is_dir():
        pytest.skip(f"the model is not here: {source} (set GEOSEG_TEST_MODELS)")
    folder = tmp_path_factory.mktemp("models") / "dynamic-world"
    wrap(source / "dynamicworld.onnx", ROOT / "configs" / "dynamic-world.json", folder)
    return folder, source


def whole_image(path, normal):
    """Labels of one ONNX Runtime run on all of it; odd edges padded with zeros, as is our definition."""
    height, width = normal.shape[1:]
    padded = np.pad(normal, ((0, 0), (0, height % 2), (0, width % 2)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": padded[None]})[0][0]
    return logits.argmax(axis=0)[:height, :width]


@pytest.mark.data
class TestDynamicWorld:
    def test_the_card_says_what_its_makers_measured(self, dynamic_world):
        folder, source = dynamic_world
        card, facts = read_card(folder), json.loads((source / "preprocessing.json").read_text())
        assert card.context.radius_px == facts["receptive_field"]["radius_px_exact"] == 22
        assert card.stride_px == facts["receptive_field"]["stride"] == 2
        assert card.context.change == 0
        assert card.band_names == tuple(b["name"] for b in facts["bands"])
        expected = [(c["value"], c["name"], c["color"]) for c in facts["classes"]]
        assert [(c.id, c.name, c.color) for c in card.legend.classes] == expected
        assert card.licence == facts["model"]["license"]
        assert card.provenance["attribution"] == facts["model"]["attribution"]

    def test_normalisation_is_theirs(self, dynamic_world):
        folder, source = dynamic_world
        facts = json.loads((source / "preprocessing.json").read_text())
        numbers = np.arange(0, 20_000, 7, dtype=np.uint16)
        values = np.broadcast_to(numbers, (9, 1, len(numbers)))
        x = np.log(values * 0.005 + 1)
        for band, b in zip(x, facts["bands"], strict=True):
            band[:] = (band - b["log_offset"]) / b["log_divisor"]
        expected = 1 / (1 + np.exp(-(5 * x - 1)))
        found = normalise(values, np.ones(values.shape[1:], bool), read_card(folder).bands)
        np.testing.assert_allclose(found, expected, atol=2e-6)

    @pytest.mark.parametrize(
        ("shape", "patch_px", "tile_px"),
        [((200, 180), 96, 64), ((200, 180), 128, 150), ((179, 201), 112, 100), ((45, 131), None, 2048)],
    )
    def test_tiles_equal_the_whole_image_in_every_pixel(
        self, dynamic_world, real_data, shape, patch_px, tile_px
    ):
        folder, source = dynamic_world
        card = read_card(folder)
        with rasterio.open(real_data / "s2-aberystwyth" / "mosaic_10band.tif") as scene:
            window = rasterio.windows.Window(301, 402, shape[1], shape[0])
            values = scene.read([1, 2, 3, 4, 5, 6, 7, 9, 10], window=window)
        valid = np.ones(shape, bool)
        normal = normalise(values, valid, card.bands, scale=10)
        expected = whole_image(source / "dynamicworld.onnx", normal)
        assert len(np.unique(expected)) > 1

        plan = plan_tiles(shape, Demands.of([card], blend=False), patch_px=patch_px, tile_px=tile_px)
        assert plan.lattice.rows.overlap_px == 44
        assert not plan.blend
        predictor = load_ort(folder, card, threads=1)
        member = Member(predictor=predictor, bands=card.bands, where=tuple(range(9)))
        found = np.full(shape, 255)
        for tile in plan:
            reach = tile.reach.intersect(Window(0, 0, *shape))
            where = reach.slices()
            part = segment_tile(
                values[(slice(None), *where)],
                valid[where],
                tile,
                [member],
                origin=reach,
                request=Request(classes=9, scale=10),
            )
            found[tile.core.slices()] = part.index
        np.testing.assert_array_equal(found, expected)
