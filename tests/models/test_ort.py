"""ONNX Runtime, and what both graph runtimes promise."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx_graphs import card_fields, halving

from geoseg.errors import ExecutionError, MismatchError, PackageError, UsageError
from geoseg.models.ort import load_ort, open_session
from geoseg.models.ov import load_openvino
from geoseg.models.runtime import load_predictor
from geoseg.onnxfile import graph_sha256, write_metadata
from geoseg.package import CARD_KEY, CARD_NAME, GRAPH_NAME, Card

both = pytest.mark.parametrize("load", [load_ort, load_openvino])


def graph_card(path, **more):
    found = {"weights_sha256": graph_sha256(path), "graph": {"input": "x", "output": "y"}}
    return Card.model_validate(card_fields(**more) | found)


@pytest.fixture
def folder(tmp_path):
    """A package whose weights are a graph of stride 2, which is stated as 4."""
    out = tmp_path / "model"
    out.mkdir()
    halving(out / GRAPH_NAME)
    (out / CARD_NAME).write_text(graph_card(out / GRAPH_NAME, stride_px=4).to_json())
    return out


@pytest.fixture
def card(folder):
    return Card.from_json((folder / CARD_NAME).read_text(), source=folder)


def reference(path, batch):
    """Another implementation of ONNX, in Python: slow and independent."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(None, {"x": batch})[0]


def noise(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@both
@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 2, 12, 4), (1, 2, 1, 1), (2, 2, 7, 14)])
def test_logits_are_those_of_the_image_padded_with_zeros(load, folder, card, shape):
    batch = noise(*shape)
    below, right = -shape[2] % 4, -shape[3] % 4
    padded = np.pad(batch, ((0, 0), (0, 0), (0, below), (0, right)))
    expected = reference(folder / GRAPH_NAME, padded)[..., : shape[2], : shape[3]]
    logits = load(folder, card, threads=1)(batch)
    assert logits.shape == (shape[0], 3, *shape[2:])
    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@both
def test_the_batch_is_left_alone_and_may_lie_anyhow_in_memory(load, folder, card):
    predictor = load(folder, card, threads=1)
    batch = noise(1, 2, 10, 8)
    turned = np.rot90(batch, axes=(2, 3))[..., ::-1]
    turned.flags.writeable = False
    expected = predictor(np.ascontiguousarray(turned))
    kept = batch.copy()
    np.testing.assert_array_equal(predictor(turned), expected)
    np.testing.assert_array_equal(batch, kept)


@both
def test_answers_stay_when_the_next_call_is_made(load, folder, card):
    predictor = load(folder, card, threads=1)
    first = predictor(noise(1, 2, 8, 8))
    kept = first.copy()
    predictor(noise(1, 2, 8, 8) + 1)
    np.testing.assert_array_equal(first, kept)


@both
def test_bits_do_not_depend_on_threads_or_on_who_else_calls(load, folder, card):
    batches = [noise(1, 2, 32, 32 + 4 * i) for i in range(8)]
    one, two = (load(folder, card, threads=n) for n in (1, 2))
    expected = [one(b) for b in batches]
    with ThreadPoolExecutor(4) as pool:
        for predictor in (one, two):
            for found, wanted in zip(pool.map(predictor, batches * 4), expected * 4, strict=True):
                np.testing.assert_array_equal(found, wanted)


@both
@pytest.mark.parametrize(
    "wrong",
    [noise(2, 8, 8), noise(1, 3, 8, 8), noise(1, 2, 8, 8).astype(float), noise(1, 2, 0, 8)],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_other_batches_are_refused(load, folder, card, wrong):
    with pytest.raises(MismatchError, match=r"Expected float32 of shape \(n, 2, h, w\); found"):
        load(folder, card, threads=1)(wrong)


def test_a_graph_that_fails_on_a_size_says_so(tmp_path):
    path = halving(tmp_path / "m.onnx")
    predictor = load_ort(path, graph_card(path, stride_px=1), threads=1)
    assert predictor(noise(1, 2, 8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(ExecutionError, match=r"cannot compute the network: a batch of shape \(1, 2, 11, 8\)"):
        predictor(noise(1, 2, 11, 8))


@both
def test_an_altered_graph_is_refused(load, folder, card):
    model = onnx.load(folder / GRAPH_NAME)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, 2, 3, 3), np.float32), "w"))
    onnx.save(model, folder / GRAPH_NAME)
    with pytest.raises(PackageError, match="altered, truncated or mixed up"):
        load(folder, card, threads=1)


@both
def test_a_missing_graph_is_told(load, folder, card):
    (folder / GRAPH_NAME).unlink()
    with pytest.raises(PackageError, match=r"no weights: .*Expected model\.onnx beside model\.json"):
        load(folder, card, threads=1)


@both
def test_weights_in_another_file_are_never_read(load, tmp_path):
    path = halving(tmp_path / "m.onnx", external="weights.bin")
    with pytest.raises(PackageError, match="keeps weights in another file"):
        load(path, graph_card(path), threads=1)
    with pytest.raises(PackageError, match="keeps weights in another file"):
        open_session(path, threads=1)
    onnxruntime.InferenceSession(path)  # which would have read them


@both
def test_a_graph_no_runtime_knows(load, tmp_path):
    path = halving(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Teleport"
    onnx.save(model, path)
    with pytest.raises(
        PackageError, match=r"cannot load the network: .*m\.onnx\. .*Teleport.*Choose another"
    ):
        load(path, graph_card(path), threads=1)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_one_onnx_file_with_its_card_inside_is_a_package(name, folder, card, tmp_path):
    single = tmp_path / "single.onnx"
    write_metadata(folder / GRAPH_NAME, single, CARD_KEY, card.to_json())
    found, predictor = load_predictor(single, runtime=name, device="cpu")
    assert found == card
    batch = noise(1, 2, 9, 8)
    np.testing.assert_allclose(predictor(batch), load_ort(folder, card, threads=1)(batch), atol=1e-5)


@pytest.mark.parametrize(
    ("load", "module", "extra"), [(load_ort, "onnxruntime", "onnx"), (load_openvino, "openvino", "openvino")]
)
def test_what_is_not_installed_says_how_to(load, module, extra, folder, card, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"is not installed.*pip install 'geoseg\[{extra}\]'"):
        load(folder, card, threads=1)


def test_nothing_is_reported_to_the_maker_and_torch_stays_out(folder):
    script = (
        "import os, sys; from pathlib import Path; from geoseg.package import read_card\n"
        "from geoseg.models.ort import load_ort\n"
        f"p = Path({str(folder)!r}); load_ort(p, read_card(p), threads=1)\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["1", "False"]
