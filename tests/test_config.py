from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from geoseg.config import TrainConfig, load, load_legend, train_schema
from geoseg.errors import UsageError

CONFIGS = Path(__file__).parent.parent / "configs"

GOOD = """\
legend:
  classes:
    - {id: 1, name: no, color: "#000000"}
    - {id: 2, name: water, color: "#0000ff"}
bands: [red, nir]
scenes:
  - image: a.tif
    labels: {path: a_labels.tif, remap: {10: 1, 20: null}}
  - files: {red: r.tif, nir: n.tif}
    labels:
      path: b.gpkg
      column: landuse
      classes: {7: water, forest: null, lake: 2}
    window: [0, 0, 100, 200]
training: {learning_rate: 1e-3, seed: 012}
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


def problems(path: Path) -> list[str]:
    """The lines of the error, without the path."""
    with pytest.raises(UsageError) as caught:
        load(path, TrainConfig)
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_a_good_file(written) -> None:
    config = load(written(GOOD), TrainConfig)
    assert config.legend.names == ("no", "water")
    assert config.scenes[0].labels.remap == {10: 1, 20: None}
    assert config.scenes[1].labels.classes == {"7": "water", "forest": None, "lake": 2}
    assert config.scenes[1].window == (0, 0, 100, 200)
    assert (config.training.learning_rate, config.training.seed) == (1e-3, 12)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'color: "#0000ff"',
            'colour: "#0000ff"',
            "4:28: legend.classes.1.colour: unknown key; did you mean 'color'?",
        ),
        ("remap:", "remep:", "8:34: scenes.0.labels.remep: unknown key; did you mean 'remap'?"),
        ("seed:", "xyz:", "15:33: training.xyz: unknown key; valid keys are accumulate, augment, balanced,"),
        ("training:", "trainig:", "15:1: trainig: unknown key; did you mean 'training'?"),
        (
            "learning_rate: 1e-3",
            "learning_rate: -1",
            "15:27: training.learning_rate: Input should be greater than 0",
        ),
        ("10: 1", "10: 5", "8:46: scenes.0.labels.remap.10: 5 is not in the legend: 1 no, 2 water"),
        ("7: water", "7: wter", "13:20: scenes.1.labels.classes.7: 'wter' is not in the legend"),
        ("[red, nir]", "[red, red]", "5:8: bands: band 'red' appears twice"),
        (
            "      column: landuse\n",
            "",
            "12:16: scenes.1.labels.classes: is for polygons, which also need `column`",
        ),
        ("image: a.tif", "name: a", "7:5: scenes.0: a scene is given either by `image` or by `files`"),
        ("[0, 0, 100, 200]", "[0, 0, 0, 200]", "14:13: scenes.1.window: needs row and column"),
        ("[0, 0, 100, 200]", "[0, 0, 100]", "14:13: scenes.1.window.3: Field required"),
        ("id: 2", "id: 1", "2:3: legend: a legend names each class once"),
        ("training: {", "training: {seed: 1, ", "15:42: found duplicate key"),
        ("bands: [red, nir]", "bands: !!python/tuple [red]", "5:8: could not determine a constructor"),
        ("bands: [red, nir]", "bands: [red, nir", "6:7: expected"),
        (
            "training: {",
            "inference: {patch_px: 64, overlap_px: 64}\ntraining: {",
            "15:39: inference.overlap_px: must be smaller than patch_px 64",
        ),
        (
            "training: {",
            "inference: {overlap_px: -1}\ntraining: {",
            "15:25: inference.overlap_px: should be `auto` or a number of pixels, 0 to 65536",
        ),
        (
            "training: {",
            "inference: {patch_px: half}\ntraining: {",
            "15:23: inference.patch_px: should be `auto` or a number of pixels, 1 to 65536",
        ),
        (
            "seed: 012",
            "loss: {cross_entropy: 0}",
            "15:39: training.loss: at least one term needs a weight over 0",
        ),
        ("seed: 012", "minutes: .inf", "15:42: training.minutes: Input should be a finite number"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(written, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert problems(written(GOOD.replace(old, new)))[-1].startswith(expected)


def test_everything_that_is_wrong_is_told_at_once(written) -> None:
    text = GOOD.replace("image:", "imag:").replace("seed:", "sed:").replace("column:", "colum:")
    lines = problems(written(text))
    keys = [line.split(" ")[1] for line in lines]  # and nothing about "too few items" as a consequence
    assert keys == ["scenes.0.imag:", "scenes.1.labels.colum:", "training.sed:"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff\xfe", "not UTF-8"),
        (b"# " + b"x" * 1024 * 1024, "more than 1048576 bytes"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: &a [*a]", "config.yaml:1:1: a: unknown key"),
        (b"- 1", "1:1: document: "),
        (b"", "1:1: document: "),
        (b"{[1]: 2}", "config.yaml:1:"),
        (b"a: !!int x", "config.yaml:1:"),
    ],
)
def test_hostile_or_broken_files_are_refused(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load(path, TrainConfig)
    assert message in str(caught.value)


def test_a_missing_file_is_a_usage_error(tmp_path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "nothing.yaml", TrainConfig)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_legend_file(tmp_path, legend, as_json: bool) -> None:
    classes = [{"id": c.id, "name": c.name, "color": c.color} for c in legend.classes]
    lines = "".join(f"  - {json.dumps(c)}\n" for c in classes)
    text = json.dumps({"classes": classes, "nodata": 255}, indent=1) if as_json else f"classes:\n{lines}"
    path = tmp_path / "legend.yaml"
    path.write_text(text)
    assert load_legend(path) == legend


def test_the_shipped_schema_is_in_step() -> None:
    command = "run `python -m geoseg.config > configs/train.schema.json`"
    assert (CONFIGS / "train.schema.json").read_text("utf-8") == train_schema(), command


def test_the_module_prints_the_schema_and_stays_light() -> None:
    script = (
        "import runpy, sys; runpy.run_module('geoseg.config', run_name='__main__', alter_sys=True);"
        "sys.exit(bool({'torch', 'dask', 'rasterio'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == train_schema()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    config = load(path, TrainConfig)
    assert all(
        px == "auto" or px % 32 == 0 for px in (config.inference.patch_px, config.inference.overlap_px)
    )
