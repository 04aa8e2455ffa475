"""OpenVINO; what it has in common with ONNX Runtime is tested with that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_graphs import card_fields, halving

from geoseg.models.ov import _settings, _without, import_openvino, load_openvino
from geoseg.onnxfile import graph_sha256
from geoseg.package import Card

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
