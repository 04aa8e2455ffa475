"""The README's commands, run as they stand there, on a quick demo; and the promises of the house."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def block(language: str) -> str:
    """The one fenced block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return text


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_every_command_of_the_readme_works_in_order(folder: Path) -> None:
    commands = [shlex.split(line, comments=True) for line in block("bash").splitlines()]
    assert {c[1] for c in commands} == {
        "demo", "info", "plan", "predict", "export", "evaluate", "sample", "vectorize", "train",
        "models",
    }  # fmt: skip
    for command in commands:
        quick = ["--quick"] if command[1] == "demo" else []
        result = run([sys.executable, "-m", *command, *quick], folder)
        assert result.returncode == 0, (command, result.stderr)
    left = {path.name for path in (folder / "maps").iterdir()}
    assert left >= {
        "scene_classes.tif", "scene_confidence.tif", "scene.gpkg", "scene_manifest.json", "metrics.json",
        "again.gpkg",
    }  # fmt: skip
    assert (folder / "models" / "mine" / "weights.safetensors").exists()

    python = run([sys.executable, "-c", block("python")], folder)
    assert python.returncode == 0, python.stderr
    assert "valid=" in python.stdout
    ours, theirs = (folder / name / "scene_classes.tif" for name in ("maps", "maps-from-python"))
    with rasterio.open(ours) as mine, rasterio.open(theirs) as other:
        assert np.array_equal(mine.read(), other.read())


def test_other_commands_name_options_that_exist() -> None:
    from click.testing import CliRunner

    from geoseg.cli.main import main

    help_text = CliRunner().invoke(main, ["predict", "--help"]).output
    options = set(re.findall(r"--[a-z-]+", block("console")))
    assert options
    assert all(option in help_text for option in options)


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda p: p.name)
def test_scripts_parse_and_ask_for_their_arguments(script: Path) -> None:
    assert run(["bash", "-n", str(script)], ROOT).returncode == 0
    result = run(["bash", str(script)], ROOT)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_nightly_maps_a_folder_and_says_how_it_went(folder: Path) -> None:
    """Runs after the commands above, on their scene and model; a broken file gives exit code 3."""
    incoming = folder / "incoming"
    incoming.mkdir()
    (incoming / "good.tif").symlink_to(folder / "demo-output" / "scene" / "scene.tif")
    (incoming / "broken.tif").write_text("not a raster")
    bin_folder = Path(sys.executable).parent
    script = f"PATH={bin_folder}:$PATH exec bash {ROOT}/scripts/nightly.sh incoming demo-output/model nightly"
    result = run(["bash", "-c", script], folder)
    assert result.returncode == 3, result.stderr
    assert (folder / "nightly" / "good_manifest.json").exists()
    assert "broken.tif" in (folder / "nightly" / "nightly.log").read_text()


def test_public_names_are_those_that_exist() -> None:
    import geoseg

    assert sorted(geoseg.__all__) == dir(geoseg)
    for name in geoseg.__all__:
        assert getattr(geoseg, name) is not None


def test_no_file_of_the_project_names_a_registry_or_uses_pickle() -> None:
    tracked = [p for p in ROOT.rglob("*") if p.suffix in {".py", ".toml", ".txt", ".sh", ".md", ".yaml"}]
    ours = [p for p in tracked if not {".venv", ".git"} & set(p.relative_to(ROOT).parts)]
    assert ours
    for path in ours:
        if path != Path(__file__):
            text = path.read_text("utf-8")
            assert "index-url" not in text, path
    for path in (ROOT / "geoseg").rglob("*.py"):
        if path.name == "apart.py":  # to and from a process of our own, as Dask does: nothing from outside
            continue
        assert not re.search(r"^\s*(import|from) pickle|torch\.load\(", path.read_text(), re.MULTILINE), path
