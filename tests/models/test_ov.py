"""OpenVINO; what it has in common with ONNX Runtime is tested with that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_graphs import card_fields, halving, save

from geoseg.errors import ExecutionError, PackageError
from geoseg.models.ov import OpenVinoPredictor, _settings, _without, import_openvino, load_openvino
from geoseg.onnxfile import graph_sha256
from geoseg.package import Card, Graph

openvino = import_openvino()


@pytest.fixture
def compiled(tmp_path):
    return openvino.Core().compile_model(str(halving(tmp_path / "m.onnx")), "CPU", _settings(2))


def test_arithmetic_is_float32_in_one_stream_of_so_many_threads(compiled):
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("EXECUTION_MODE_HINT").name == "ACCURACY"
    assert str(compiled.get_property("NUM_STREAMS")) == "1"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert not compiled.get_property("ENABLE_CPU_PINNING")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory from /proc")
def test_memory_is_kept_by_shape_but_does_not_grow_with_calls(tmp_path):
    path = halving(tmp_path / "m.onnx", classes=8)
    found = {"weights_sha256": graph_sha256(path), "graph": {"input": "x", "output": "y"}}
    predictor = load_openvino(path, Card.model_validate(card_fields(classes=8) | found), threads=1)

    def resident_mb(rounds):
        for size in [*range(300, 500, 20)] * rounds:
            predictor(np.zeros((1, 2, size, size), np.float32))
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    before = resident_mb(2)
    call_mb = 8 * 4 * 480**2 / 1e6  # of the answer alone
    assert resident_mb(8) - before < 2 * call_mb


def test_what_it_leaves_out_in_silence_is_noticed(tmp_path, caplog, monkeypatch):
    """OpenVINO 2026.4 shrinks without `antialias`, whatever the graph says."""
    path = tmp_path / "m.onnx"
    weights = {"half": np.array([1, 1, 0.5, 0.5], np.float32), "double": np.array([1, 1, 2, 2], np.float32)}
    nodes = [
        helper.make_node("Resize", ["x", "", "half"], ["small"], mode="linear", antialias=1),
        helper.make_node("Resize", ["small", "", "double"], ["y"], mode="linear"),
    ]
    shape = ["n", 2, "h", "w"]
    save(nodes, weights, path, input_shape=shape, output_shape=shape, opset=18)
    found = {"weights_sha256": graph_sha256(path), "graph": {"input": "x", "output": "y"}}
    card = Card.model_validate(card_fields(classes=2) | found)
    with pytest.raises(PackageError, match=r"something else than the network: .*--runtime onnxruntime"):
        load_openvino(path, card, threads=1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    load_openvino(path, card, threads=1)
    assert "nobody can tell" in caplog.text


def test_a_graph_that_fails_on_a_size_says_so(tmp_path):
    path = halving(tmp_path / "m.onnx", shape=["n", 2, 8, 8])
    compiled = openvino.Core().compile_model(str(path), "CPU", _settings(1))
    predictor = OpenVinoPredictor(compiled, Graph(input="x", output="y"), bands=2, stride_px=2)
    assert predictor(np.zeros((1, 2, 8, 8), np.float32)).shape == (1, 3, 8, 8)
    with pytest.raises(ExecutionError, match=r"cannot compute the network: a batch of shape \(1, 2, 10, 8\)"):
        predictor(np.zeros((1, 2, 10, 8), np.float32))


def test_importing_it_reports_nothing_to_the_maker(tmp_path):
    """`import openvino` alone would send an event; see `_without`."""
    script = (
        "import sys; from geoseg.models.ov import import_openvino; import_openvino().Core()\n"
        "print(any(m.startswith('openvino_telemetry') for m in sys.modules), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_module_kept_out_can_be_imported_later():
    with _without("colorsys_of_nobody"), pytest.raises(ImportError):
        __import__("colorsys_of_nobody")
    assert "colorsys_of_nobody" not in sys.modules
    with _without("json"):  # imported long ago: stays
        import json

        assert json.loads("1") == 1
