"""Hundreds of unusual and broken TIFFs: each works or is refused in words, in seconds, without a crash."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

_SCRIPT = """
import json, sys, traceback, warnings
from pathlib import Path
from geoseg.errors import GeosegError
from geoseg.facts import facts_of
from geoseg.raster.read import read_window
from geoseg.raster.scene import open_scene
from geoseg.windows import Window

warnings.simplefilter("ignore")
for line in sys.stdin:
    path = line.rstrip("\\n")
    print(json.dumps({"begun": path}), flush=True)
    try:
        scene = open_scene(path)
        facts = facts_of(scene)
        window = scene.window.intersect(Window(0, 0, 256, 256))
        pixels = read_window(scene, window)
        assert pixels.values.shape == (len(scene.bands), *window.shape), pixels.values.shape
        assert pixels.valid.shape == window.shape
        assert str(pixels.values.dtype) == scene.dtype
        assert facts.gsd_m > 0
        scene.fingerprint
        result = {"outcome": "works"}
    except GeosegError as error:
        result = {"outcome": "refused", "kind": type(error).__name__, "message": str(error)}
    except Exception:
        result = {"outcome": "crashed", "message": traceback.format_exc()}
    print(json.dumps({"file": path, **result}), flush=True)
"""

_SECONDS = 90


@pytest.fixture(scope="module")
def odd_tiffs(real_data):
    """What happened to each file, by path; opened one after the other in a process of their own."""
    folder = real_data / "odd-tiffs"
    files = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in {".tif", ".tiff"})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            input="\n".join(files),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        last = (error.stdout or b"").decode().splitlines()[-1]
        pytest.fail(f"more than {_SECONDS} s; hung at {last}")
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"exit code {done.returncode} at {answers[-1]}: {done.stderr[-2000:]}"
    found = {a["file"]: a for a in answers if "file" in a}
    assert set(found) == set(files)
    return folder, found


@pytest.mark.data
def test_every_file_works_or_is_refused_in_words(odd_tiffs) -> None:
    _, found = odd_tiffs
    crashed = {k: v["message"] for k, v in found.items() if v["outcome"] == "crashed"}
    assert not crashed, "\n".join(f"{k}\n{v}" for k, v in crashed.items())
    for path, answer in found.items():
        if answer["outcome"] == "refused":
            message = answer["message"]
            assert path in message
            assert "Expected" in message
            assert "found" in message
            assert "\n\n" not in message
    outcomes = [v["outcome"] for v in found.values()]
    assert outcomes.count("works") > 50
    assert outcomes.count("refused") > 50


@pytest.mark.data
def test_the_answer_agrees_with_what_rasterio_reports(odd_tiffs) -> None:
    """A file that has a CRS and a transform and reads whole works; one that lacks either never does."""
    folder, found = odd_tiffs
    with (folder / "MANIFEST.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    checked = 0
    for row in rows:
        answer = found.get(str(folder / row["file"]))
        path = folder / row["file"]
        if answer is None or len(list(path.parent.glob(f"{path.stem}.*"))) > 1:
            continue  # a sidecar may say what the file itself does not
        placed = row["crs"] not in ("", "None") and "no-transform" not in row["transform"]
        if row["open"] != "ok" or not placed:
            assert answer["outcome"] == "refused", row
            checked += 1
        elif row["read"] == "ok" and not row["dtype"].startswith(("complex", "cint")):
            assert answer["outcome"] == "works" or allowed(answer), (row, answer)
            checked += 1
    assert checked > 100


def allowed(answer: dict) -> bool:
    """Reasons beyond CRS and transform: types that differ between bands, a place that is nowhere on Earth."""
    reasons = ("data type cannot be used", "cannot be inverted", "pixel areas cannot be computed")
    return any(reason in answer["message"] for reason in reasons)
