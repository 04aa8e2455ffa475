"""The benchmarks run, and what they print follows from what they measured; speed is not tested."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the benchmarks set for themselves is put back."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("GEOSEG_CACHE", "replaced by the benchmarks")
    monkeypatch.delenv("PEERS", raising=False)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


def engine(work: Path, mode: str, *arguments: str) -> None:
    from benchmarks.engine import main

    small = ["--networks", "tiny", "--rounds", "1", "--cores", "1", "--in-process"]
    folders = ["--work", str(work), "--results", str(work / "RESULTS.md")]
    assert main([mode, *arguments, *small, *folders]) == 0


def cells(text: str, label: str) -> list[str]:
    """The row of a contender in the table of the results."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return next(row for row in rows if row[0] == label)


def test_a_run_measures_compares_and_judges(work: Path) -> None:
    contenders = ["forward", "geoseg", "geoseg-without-network", "read", "naive"]
    engine(work, "run", "--sizes", "512", "--runtimes", "torch", "--contenders", *contenders)
    text = (work / "RESULTS.md").read_text()
    from benchmarks.jobs import Result

    lines = (work / "run.jsonl").read_text().splitlines()
    results = {result.job.label: result for result in map(Result.from_json, lines)}
    assert set(results) == {"forward torch", "geoseg torch", "geoseg-without-network torch", "read", "naive"}
    assert all(r.cost.cpu_s > 0 and r.cost.peak_mb >= r.cost.start_mb > 0 for r in results.values())
    # One patch covers the scene: the same pixels go through the bare network, the loop and geoseg.
    forwarded = {
        label: results[label].facts.forwarded_px for label in ("forward torch", "geoseg torch", "naive")
    }
    assert set(forwarded.values()) == {512 * 512}
    assert results["read"].facts.more["values"] == 4 * 512 * 512
    ratio = results["geoseg torch"].cost.cpu_s / results["naive"].cost.cpu_s
    assert cells(text, "geoseg torch")[3] == f"{ratio:.2f}"
    for label in ("geoseg torch", "naive"):  # as the whole-image forward, but for a last bit
        assert float(cells(text, label)[6].rstrip("%")) < 0.01
    around = next(line for line in text.splitlines() if "normalising, deciding and writing" in line)
    cost = {label: result.cost.cpu_s for label, result in results.items()}
    share = (cost["geoseg-without-network torch"] - cost["read"]) / cost["geoseg torch"]
    assert float(around.split(" | ")[2].split()[0]) == pytest.approx(share, rel=1e-3)


def test_a_wider_overlap_leaves_fewer_differences(work: Path) -> None:
    engine(work, "seam", "--sizes", "512")
    text = (work / "RESULTS.md").read_text()
    rows = [
        line.strip("| ").split(" | ")
        for line in text.splitlines()
        if re.match(r"\| \d+( \(auto\))? \| ", line)
    ]
    differs = {int(row[0].split()[0]): float(row[2].rstrip("%")) for row in rows}
    work_done = {int(row[0].split()[0]): float(row[1]) for row in rows}
    assert sum("auto" in row[0] for row in rows) == 1
    assert differs[0] > differs[32] > differs[128]
    assert work_done[0] == 1.0 < work_done[128]
    assert "must show" in text


def test_a_contender_runs_in_a_process_of_its_own(work: Path) -> None:
    """After the run above, which has left the network there."""
    from benchmarks import jobs
    from benchmarks.scenes import make_scene
    from benchmarks.worker import warm_scene

    scene = make_scene(warm_scene(work), size=640)
    make = {"scene": scene, "work": work, "cores": 1, "network": "tiny"}
    result = jobs.run(jobs.Job(contender="read", out=work / "none.tif", **make), python=sys.executable)
    assert result.facts.more["values"] == 4 * 640 * 640
    assert 0 < result.cost.start_mb <= result.cost.peak_mb
    broken = jobs.Job(contender="naive", out=work / "none.tif", **make | {"scene": work / "missing.tif"})
    with pytest.raises(jobs.FailedError, match=r"missing\.tif"):
        jobs.run(broken, python=sys.executable)


def test_the_gpu_mode_refuses_politely_without_a_gpu(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    engine(work, "gpu")
    assert "needs a CUDA device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("required", "found", "at_most", "text"),
    [
        (0.5, (0.4, 0.9, 0.45), True, "met, by 10%"),
        (0.5, (0.6, 0.9, 0.45), True, "NOT met, by 20%"),
        (0.8, (1.0,), False, "met, by 25%"),
        (0.8, (0.6,), False, "NOT met, by 25%"),
        (0.0, (0.0,), True, "met"),
    ],
)
def test_the_median_decides_what_is_met(
    required: float, found: tuple[float, ...], at_most: bool, text: str
) -> None:
    from benchmarks.report import Verdict

    assert Verdict(what="", required=required, found=found, at_most=at_most).text == text


def test_differences_are_told_apart_by_place(make_raster) -> None:
    from benchmarks.compare import difference

    classes = np.zeros((40, 60), np.uint8)
    other = classes.copy()
    other[10, :] = 1  # all across, of which 20 columns are near the cut at column 30
    found = difference(
        make_raster(classes, name="a.tif"), make_raster(other, name="b.tif"), ([], [30]), near_px=10
    )
    assert found.all == 60 / 2400
    assert found.near == 20 / 800
    assert found.elsewhere == 40 / 1600
    assert found.same_grid


def test_scenes_are_the_same_however_often_they_are_made(tmp_path: Path) -> None:
    import rasterio

    from benchmarks.scenes import make_scene

    paths = [make_scene(tmp_path / name, size=600, seed=3) for name in ("a.tif", "b.tif")]
    first, second = (rasterio.open(path).read() for path in paths)
    assert (first == second).all()
    assert first.shape == (4, 600, 600)
    assert min(band.std() for band in first) > 100


def test_sections_replace_themselves_and_leave_others(tmp_path: Path) -> None:
    from benchmarks.report import write_section

    path = tmp_path / "RESULTS.md"
    write_section(path, "run", ["old"])
    write_section(path, "seam", ["kept"])
    write_section(path, "run", ["new"])
    text = path.read_text()
    assert "old" not in text
    assert text.index("new") < text.index("kept")
