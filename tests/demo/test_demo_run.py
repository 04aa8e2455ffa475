"""`geoseg demo --quick`: everything is there, it can be repeated, and nothing else is ever overwritten."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from geoseg.cli.main import main
from geoseg.config import TrainConfig, load
from geoseg.demo.run import QUICK, SUMMARY_NAME, DemoSettings, run_demo
from geoseg.errors import OutputError
from geoseg.evaluation import Evaluation
from geoseg.manifest import read_manifest
from geoseg.package import read_card

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict]:
    """The folder, and the document the command printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(main, ["demo", str(folder), "--quick", "--json"])
    logging.getLogger("geoseg").handlers.clear()  # they write to a screen that is gone
    assert result.exit_code == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_every_file_named_is_there_and_can_be_opened(demo) -> None:
    folder, document = demo
    assert document["fresh"] is True
    assert set(document["files"]) == {
        "scene", "truth", "configuration", "model", "classes", "confidence", "polygons", "manifest",
        "metrics", "picture", "detail",
    }  # fmt: skip
    files = {kind: folder / path for kind, path in document["files"].items()}
    assert all(path.exists() for path in files.values())
    assert files["picture"].read_bytes().startswith(PNG)
    assert files["detail"].read_bytes().startswith(PNG)
    assert not list(folder.rglob(".*"))
    manifest = read_manifest(files["manifest"])
    assert manifest.counts.nodata > 0
    assert manifest.package["fingerprint"] == read_card(files["model"]).fingerprint
    assert load(files["configuration"], TrainConfig).bands == read_card(files["model"]).band_names


def test_metrics_are_of_the_held_out_part_and_better_than_chance(demo) -> None:
    folder, document = demo
    evaluation = Evaluation.model_validate_json((folder / "metrics.json").read_text())
    assert evaluation.model_dump(mode="json") == document["evaluation"]
    scene = load(folder / "train.yaml", TrainConfig).scenes[0]
    assert scene.window is not None
    _, col, _, width = scene.window
    assert evaluation.window[1] >= col + width
    scores = evaluation.scores
    assert scores.overall_accuracy > max(c.reference_px for c in scores.classes) / scores.pixels
    assert 0.1 < scores.mean_iou <= 1


def test_a_second_run_does_nothing(demo) -> None:
    folder, document = demo
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = run_demo(folder, QUICK)
    assert not again.fresh
    assert again.files == document["files"]
    assert again.evaluation == document["evaluation"]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("settings", [replace(QUICK, seed=1), DemoSettings()])
def test_other_settings_are_refused(demo, settings) -> None:
    folder, _ = demo
    with pytest.raises(OutputError, match=r"a demo with other settings.*--overwrite"):
        run_demo(folder, settings)
    assert (folder / SUMMARY_NAME).exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.docx").write_text("four years")
    with pytest.raises(OutputError, match=r"Expected an empty folder.*found thesis\.docx"):
        run_demo(tmp_path, QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_an_interrupted_demo_goes_on_without_being_told(tmp_path) -> None:
    """Killed while the scene was rendered, a demo leaves an empty folder of its own."""
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / ".scene.tif.partial").touch()
    tiny = replace(QUICK, size_px=256, epochs=1, steps_per_epoch=2, workers=1)
    assert run_demo(tmp_path, tiny).fresh
    assert (tmp_path / "map" / "scene.gpkg").exists()
    assert (
        json.loads((tmp_path / "map" / "scene_manifest.json").read_text())["execution"]["kind"] == "processes"
    )
