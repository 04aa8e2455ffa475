"""`geoseg export` and `geoseg wrap`, and predicting with what they make."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from onnx_graphs import card_fields, halving

from geoseg.models.wrap import wrap
from geoseg.package import read_card


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A graph from elsewhere and a card for it that fits the scenes of `make_scene`."""
    folder = tmp_path_factory.mktemp("foreign")
    graph, card = folder / "foreign.onnx", folder / "card.json"
    halving(graph, bands=3, gain=0.5)
    bands = [{"name": name, "mean": 112, "std": 64} for name in ("red", "green", "blue")]
    card.write_text(json.dumps(card_fields(bands=3) | {"bands": bands}))
    return graph, card


@pytest.fixture(scope="module")
def wrapped_once(foreign, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrapped") / "model"
    wrap(*foreign, folder)
    return folder


@pytest.fixture
def wrapped(wrapped_once, tmp_path):
    return shutil.copytree(wrapped_once, tmp_path / "model")


def labels(folder):
    with rasterio.open(next(folder.glob("*_classes.tif"))) as dataset:
        return dataset.read(1)


class TestWrap:
    def test_says_what_was_measured(self, geoseg, foreign, tmp_path):
        out = tmp_path / "model"
        answer = geoseg("wrap", *foreign, "-o", out)
        assert answer.code == 0
        assert "3 bands, 3 classes; the network keeps its phase on 2 px, looks 2 px around" in answer.out
        assert geoseg("wrap", *foreign, "-o", out).code == 1
        document = geoseg("wrap", *foreign, "-o", out, "--overwrite", "--json").document
        card = read_card(out)
        assert document["fingerprint"] == card.fingerprint
        assert document["context"] == card.context.model_dump()
        assert document["call_bytes_per_px"] == card.call_bytes_per_px

    def test_a_card_that_does_not_fit_is_an_error_that_names_it(self, geoseg, foreign, tmp_path):
        graph, card = foreign[0], tmp_path / "card.json"
        card.write_text(json.dumps(card_fields(bands=4)))
        answer = geoseg("wrap", graph, card, "-o", tmp_path / "model")
        assert answer.code == 1
        assert f"the graph does not fit its card: {graph}" in answer.message
        assert not (tmp_path / "model").exists()

    def test_a_file_that_is_not_there(self, geoseg, foreign, tmp_path):
        answer = geoseg("wrap", tmp_path / "none.onnx", foreign[1], "-o", tmp_path / "model")
        assert answer.code == 1
        assert "cannot be read: " in answer.message
        assert "none.onnx. Expected a file; found No such file" in answer.message

    def test_both_graph_runtimes_predict_the_same_map(self, geoseg, wrapped, make_scene, tmp_path):
        scene = make_scene()
        maps = []
        for runtime in ("onnxruntime", "openvino"):
            out = tmp_path / runtime
            answer = geoseg("predict", scene, "-m", wrapped, "-o", out, "--runtime", runtime, "--no-polygons")
            assert answer.code == 0, answer.err
            maps.append(labels(out))
        assert set(np.unique(maps[0])) == {1, 2, 3, 255}
        np.testing.assert_array_equal(*maps)

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_pytorch_is_not_even_imported(self, wrapped, make_scene, tmp_path, runtime):
        # It takes seconds and 400 MB: more than a small network and its scene.
        given = ["predict", make_scene(), "-m", wrapped, "-o", tmp_path / "out", "--runtime", runtime]
        code = (
            "import sys; from geoseg.cli.main import main\n"
            f"try: main({[str(g) for g in given]!r})\n"
            "finally: print('torch' in sys.modules)"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.endswith("False\n")

    def test_torch_says_what_runs_it_instead(self, geoseg, wrapped, make_scene, tmp_path):
        answer = geoseg("predict", make_scene(), "-m", wrapped, "-o", tmp_path / "out", "--runtime", "torch")
        assert answer.code != 0
        assert "onnxruntime" in answer.message


class TestExport:
    def test_one_file_gives_the_map_of_the_folder(self, geoseg, wrapped, make_scene, tmp_path):
        out = tmp_path / "one.onnx"
        answer = geoseg("export", wrapped, "-o", out)
        assert answer.code == 0
        assert answer.out.startswith(f"{out}: 0.0 MB, card under 'geoseg'")
        copy = tmp_path / "elsewhere"
        copy.mkdir()
        alone = shutil.move(out, copy / "model.onnx")
        shutil.move(wrapped, tmp_path / "folder")
        for model, target in ((alone, "a"), (tmp_path / "folder", "b")):
            done = geoseg(
                "predict", make_scene(), "-m", model, "-o", tmp_path / target, "--runtime", "onnxruntime"
            )
            assert done.code == 0, done.err
        np.testing.assert_array_equal(labels(tmp_path / "a"), labels(tmp_path / "b"))

    def test_as_json(self, geoseg, wrapped, tmp_path):
        out = tmp_path / "one.onnx"
        document = geoseg("export", wrapped, "-o", out, "--json").document
        assert document == {
            "file": str(out),
            "bytes": out.stat().st_size,
            "fingerprint": read_card(out).fingerprint,
            "export": None,
        }

    def test_other_names_and_files_that_are_there_are_refused(self, geoseg, wrapped, tmp_path):
        assert "ends in .onnx" in geoseg("export", wrapped, "-o", tmp_path / "one").message
        (tmp_path / "one.onnx").touch()
        assert "Give --overwrite" in geoseg("export", wrapped, "-o", tmp_path / "one.onnx").message
        assert geoseg("export", wrapped, "-o", tmp_path / "one.onnx", "--overwrite", "-q").out == ""


def test_info_knows_both(geoseg, wrapped, tmp_path):
    geoseg("export", wrapped, "-o", tmp_path / "one.onnx")
    folder, file = (geoseg("info", m, "--json").document for m in (wrapped, tmp_path / "one.onnx"))
    assert folder["fingerprint"] == file["fingerprint"]
    assert folder["bands"] == file["bands"]
