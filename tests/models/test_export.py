from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_graphs import card_fields as graph_fields
from onnx_graphs import halving
from torch.nn import functional

from geoseg.errors import OutputError, PackageError, UsageError
from geoseg.models import export, graphs
from geoseg.models.catalogue import architectures
from geoseg.models.export import export_onnx, grid_means
from geoseg.models.ort import load_ort
from geoseg.models.registry import build
from geoseg.models.runtime import load_predictor
from geoseg.models.store import load_package, save_package
from geoseg.onnxfile import graph_sha256, read_metadata
from geoseg.package import CARD_NAME, GRAPH_NAME, Architecture, Band, Card, Context, read_card


@pytest.fixture(scope="module")
def package(tmp_path_factory, legend):
    """A small U-Net of which a trace takes seconds; with the suite's own it takes three times as many."""
    architecture = Architecture(
        name="unet", encoder="resnet18", options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(architecture, bands=3, classes=len(legend)).eval()
    folder = tmp_path_factory.mktemp("package") / "model"
    bands = [Band(name=name, mean=112, std=64) for name in ("red", "green", "blue")]
    given = {"bands": bands, "dtype": "uint8", "legend": legend, "patch_px": 64, "overlap_px": 32}
    save_package(folder, model=model, architecture=architecture, **given)
    return folder


@pytest.fixture(scope="module")
def exported(package, tmp_path_factory):
    """The package as an ONNX file."""
    out = tmp_path_factory.mktemp("exported") / "unet.onnx"
    export_onnx(package, out)
    return out


@pytest.fixture
def traced(exported, monkeypatch):
    """Exports are made from a trace that exists already; the list of traces asked for."""
    asked = []

    def trace(_model, _card, out, package):
        asked.append(package)
        shutil.copyfile(exported, out)

    monkeypatch.setattr(export, "_trace", trace)
    return asked


@pytest.fixture
def no_process(exported, monkeypatch):
    """Instead of in a process of its own, an export is copied; the list of those made."""
    made = []

    def copy(package, out):
        made.append(package)
        shutil.copyfile(exported, out)
        return out

    monkeypatch.setattr(graphs, "_exported", copy)
    return made


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnx"


@pytest.fixture
def graph_package(tmp_path):
    folder = tmp_path / "halving"
    folder.mkdir()
    path = halving(folder / GRAPH_NAME)
    found = {"weights_sha256": graph_sha256(path), "graph": {"input": "x", "output": "y"}}
    (folder / CARD_NAME).write_text(Card.model_validate(graph_fields() | found).to_json())
    return folder


class TestExport:
    @pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
    @pytest.mark.parametrize("shape", [(1, 64, 64), (3, 32, 96), (1, 33, 70), (2, 5, 1)])
    def test_the_file_alone_predicts_as_torch_does(self, package, exported, name, shape):
        n, height, width = shape
        batch = np.random.default_rng(0).standard_normal((n, 3, height, width), np.float32)
        expected = load_predictor(package)[1](batch)
        card, predictor = load_predictor(exported, runtime=name, device="cpu")
        np.testing.assert_allclose(predictor(batch), expected, rtol=1e-4, atol=2e-4)
        assert card == read_card(exported)

    def test_the_card_is_the_package_s_but_for_what_holds_the_weights(self, package, exported):
        before, after = read_card(package), read_card(exported)
        assert after.graph == graphs.EXPORTED
        assert after.architecture is None
        assert after.provenance["architecture"] == before.architecture.model_dump(mode="json")
        same = {"bands", "dtype", "legend", "patch_px", "overlap_px", "stride_px", "context", "licence"}
        assert before.model_dump(include=same) == after.model_dump(include=same)
        made = after.provenance["export"]
        assert 0 < made["max_difference"] < 1e-3
        assert made["opset"] == export.OPSET
        assert made["torch"] == torch.__version__
        assert after.weights_sha256 == graph_sha256(exported)

    def test_the_file_is_sound_for_onnx_and_leaves_sizes_open(self, exported):
        onnx.checker.check_model(str(exported), full_check=True)
        model = onnx.load(exported)
        shape = model.graph.input[0].type.tensor_type.shape.dim
        assert [d.dim_value or d.dim_param for d in shape] == ["n", 3, "32*h", "32*w"]
        assert [o.version for o in model.opset_import if o.domain == ""] == [export.OPSET]
        assert set(read_metadata(exported)) == {"geoseg"}

    def test_nothing_is_replaced_unless_told(self, package, traced, tmp_path):
        out = tmp_path / "model.onnx"
        out.write_text("mine")
        with pytest.raises(OutputError, match=r"found a file\. Give --overwrite"):
            export_onnx(package, out)
        assert out.read_text() == "mine"
        card = export_onnx(package, out, overwrite=True)
        assert read_card(out) == card
        assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]

    @pytest.mark.parametrize("name", ["model.pt", "folder.onnx"])
    def test_other_names_are_refused(self, package, tmp_path, name):
        (tmp_path / "folder.onnx").mkdir()
        with pytest.raises(OutputError, match=r"ends in \.onnx; found another name"):
            export_onnx(package, tmp_path / name, overwrite=True)

    def test_a_graph_that_answers_differently_is_no_export(self, package, traced, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "AGREEMENT", 1e-9)
        with pytest.raises(PackageError, match=r"answers differently: random patches.*difference of \d"):
            export_onnx(package, tmp_path / "m.onnx")
        assert traced == [package]
        assert list(tmp_path.iterdir()) == []

    def test_what_torch_cannot_export_is_told(self, package, tmp_path, monkeypatch):
        def refuse(*_args, **_kwargs):
            raise RuntimeError("no such\n operator")

        monkeypatch.setattr(torch.onnx, "export", refuse)
        with pytest.raises(PackageError, match=r"cannot be exported to ONNX: .*no such.*--runtime torch"):
            export_onnx(package, tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_without_the_extra_it_says_how_to_get_it(self, package, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(UsageError, match=r"pip install 'geoseg\[onnx\]'"):
            export_onnx(package, tmp_path / "m.onnx")

    def test_a_folder_with_a_graph_becomes_one_file(self, graph_package, tmp_path):
        card = export_onnx(graph_package, tmp_path / "one.onnx")
        assert card == read_card(graph_package) == read_card(tmp_path / "one.onnx")
        again = export_onnx(tmp_path / "one.onnx", tmp_path / "two.onnx")
        assert again == card
        assert (tmp_path / "two.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()
        batch = np.ones((1, 2, 6, 4), np.float32)
        one = load_ort(tmp_path / "one.onnx", card, threads=1)(batch)
        np.testing.assert_array_equal(one, load_ort(graph_package, card, threads=1)(batch))

    def test_a_network_that_looks_at_everything_says_so_without_its_name(
        self, small_network, card_fields, traced, tmp_path, monkeypatch
    ):
        whole = Context(radius_px=None, tolerance=0.01, change=0.5, searched_px=64)
        monkeypatch.setattr(export, "measure_context", lambda *_a, **_k: whole)
        monkeypatch.setattr(export, "_compare", lambda *_: 0.0)
        for name, expected in (("fpn", whole), ("linknet", None)):
            folder = tmp_path / name
            save_package(folder, model=small_network(name), **card_fields(name))
            assert export_onnx(folder, tmp_path / f"{name}.onnx").context == expected


def test_torch_refuses_a_graph(graph_package, exported):
    for package in (graph_package, exported):
        with pytest.raises(PackageError, match=r"cannot be loaded into torch: .*--runtime onnxruntime"):
            load_package(package)


def test_the_card_keeps_what_was_measured(small_network, card_fields, tmp_path):
    context = Context(radius_px=64, tolerance=0.01, change=0.002, searched_px=256)
    fields = card_fields("linknet") | {"context": context, "call_bytes_per_px": 480}
    save_package(tmp_path / "m", model=small_network("linknet"), **fields)
    card = read_card(tmp_path / "m")
    assert card.context == context
    assert card.call_bytes_per_px == 480


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_grid_means_are_adaptive_pooling(size, grid):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(size[0]))
    expected = functional.adaptive_avg_pool2d(x, grid)
    torch.testing.assert_close(grid_means(x, *grid), expected, rtol=1e-5, atol=1e-5)


class TestKept:
    """Exports of PyTorch weights for ONNX Runtime and OpenVINO."""

    def test_made_once_in_a_process_of_its_own(self, package, cache, monkeypatch):
        card = read_card(package)
        batch = np.random.default_rng(1).standard_normal((1, 3, 40, 50), np.float32)
        first = load_ort(package, card, threads=1)(batch)
        np.testing.assert_allclose(first, load_predictor(package)[1](batch), rtol=1e-4, atol=2e-4)
        assert len([*cache.glob("*.onnx")]) == 1

        def never(*_):
            raise AssertionError("exported again")

        monkeypatch.setattr(graphs, "_exported", never)
        np.testing.assert_array_equal(load_ort(package, card, threads=1)(batch), first)

    def test_another_package_or_another_exporter_is_another_export(
        self, package, cache, no_process, monkeypatch
    ):
        card = read_card(package)
        for each in (card, card, card.model_copy(update={"patch_px": 96})):
            with graphs.graph_of(package, each):
                pass
        assert len(no_process) == 2
        monkeypatch.setattr(graphs, "version", lambda _name: "99")
        with graphs.graph_of(package, card) as (path, _):
            assert path.parent == cache
        assert len(no_process) == 3

    def test_a_damaged_one_is_made_again(self, package, cache, no_process):
        card = read_card(package)
        with graphs.graph_of(package, card) as (path, _):
            whole = path.read_bytes()
        for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:1000] + b"\0" + whole[1001:]):
            path.write_bytes(damaged)
            with graphs.graph_of(package, card) as (again, _):
                assert again.read_bytes() == whole
        assert len(no_process) == 5

    def test_several_at_once_wait_for_the_first(self, package, cache, no_process):
        def use(_):
            with graphs.graph_of(package, read_card(package)) as (path, _graph):
                return graph_sha256(path)

        with ThreadPoolExecutor(6) as pool:
            assert len(set(pool.map(use, range(12)))) == 1
        assert len(no_process) == (1 if sys.platform != "win32" else len(no_process))

    def test_without_a_cache_it_is_made_for_this_time(self, package, no_process, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "file"))
        with graphs.graph_of(package, read_card(package)) as (path, _):
            assert path.is_file()
        assert not path.exists()

    def test_those_not_used_for_long_are_forgotten(self, package, cache, no_process, monkeypatch):
        monkeypatch.setattr(graphs, "_KEPT", 2)
        card = read_card(package)
        cards = [card.model_copy(update={"overlap_px": 0, "patch_px": 32 * i}) for i in range(1, 5)]
        used = []
        for each in [cards[0], cards[1], cards[0], cards[2]]:
            with graphs.graph_of(package, each) as (path, _):
                used.append(path.name)
        assert {p.name for p in cache.glob("*.onnx")} == {used[0], used[3]}

    def test_altered_weights_are_never_exported(self, package, cache, no_process, tmp_path):
        shutil.copytree(package, tmp_path / "altered")
        weights = tmp_path / "altered" / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        with (
            pytest.raises(PackageError, match="altered, truncated"),
            graphs.graph_of(tmp_path / "altered", read_card(package)),
        ):
            pass
        assert no_process == []

    def test_what_the_process_says_is_said_again(self, package, cache, monkeypatch):
        told = json.dumps({"error": {"kind": "UsageError", "message": "no such encoder"}})
        with pytest.raises(UsageError, match="no such encoder"):
            raise graphs._failure(package, told, "geoseg: error: no such encoder")
        monkeypatch.setattr(graphs.sys, "executable", shutil.which("false"))
        with (
            pytest.raises(PackageError, match=r"cannot be exported to ONNX: .*found none"),
            graphs.graph_of(package, read_card(package)),
        ):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_every_architecture_can_be_exported(name, small_network, card_fields, tmp_path):
    """Minutes. The comparison with torch is part of the export; OpenVINO is compared here."""
    folder, out = tmp_path / "m", tmp_path / "m.onnx"
    fields = card_fields(name) | {"context": Context(radius_px=0, tolerance=1, change=0, searched_px=0)}
    save_package(folder, model=small_network(name), **fields)
    card = export_onnx(folder, out)
    side = card.stride_px
    batch = np.random.default_rng(0).standard_normal((2, 4, 3 * side, 2 * side - 7), np.float32)
    expected = load_predictor(folder)[1](batch)
    if name == "dpt":  # resizes its position embedding with `antialias`, which OpenVINO 2026.4 leaves out
        with pytest.raises(PackageError, match="something else than the network"):
            load_predictor(out, runtime="openvino", device="cpu")
        return
    found = load_predictor(out, runtime="openvino", device="cpu")[1](batch)
    np.testing.assert_allclose(found, expected, atol=1e-3 * max(1, np.abs(expected).max()))
