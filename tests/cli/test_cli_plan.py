"""`geoseg plan`: what follows from sizes, and what a short run adds."""

from __future__ import annotations

import pytest


@pytest.fixture
def scene(make_scene):
    return make_scene()


def test_plan_counts_what_predict_then_does(geoseg, scene, package, make_scene, tmp_path) -> None:
    answer = geoseg("plan", scene, "-m", package, "--tile-size", 64, "--no-run", "--json")
    assert answer.code == 0
    [facts] = answer.document["scenes"]
    assert (facts["name"], facts["scene_px"], facts["tiles"], facts["patches"]) == ("scene", 150 * 130, 4, 16)
    assert facts["forwarded_px"] == 16 * 64 * 64
    assert facts["network_seconds"] is None  # the package carries no measured speed
    assert "expected" not in facts
    [done] = geoseg(
        "predict", scene, "-m", package, "-o", tmp_path / "out", "--tile-size", 64, "--json"
    ).document["complete"]
    assert {k: facts[k] for k in done["plan"]} == done["plan"]
    assert done["execution"]["patches_computed"] <= facts["patches"]
    text = geoseg("plan", scene, make_scene((70, 60), name="second.tif"), "-m", package, "--no-run").out
    assert "duplicated work  x3.36: 0.1 Mpx through the network for 0.0 Mpx" in text
    assert "second" in text


def test_without_a_run_plan_computes_and_writes_nothing(geoseg, make_scene, package, tmp_path) -> None:
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    path = make_scene((70, 60))
    assert geoseg("plan", path, "-m", package, "--no-run").code == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p != path} == before


def test_a_run_tells_what_predict_will_take(geoseg, scene, package, tmp_path) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = geoseg("plan", scene, "-m", package, "--runtime", "torch", "--json")
    assert answer.code == 0
    assert sorted(tmp_path.rglob("*")) == before
    [facts] = answer.document["scenes"]
    expected = facts["expected"]
    assert facts["runtime"]["name"] == "torch"
    assert expected["patches"] == facts["patches"] == 16
    parts = (expected["start_seconds"], expected["tiles_seconds"], expected["write_seconds"])
    assert expected["seconds"] == pytest.approx(sum(parts), abs=0.02)
    assert all(part > 0 for part in parts)
    assert expected["memory_mb"] > 100
    assert set(expected["output_mb"]) == {"classes", "names", "style", "confidence", "polygons"}


def test_a_run_in_words_with_worker_processes(geoseg, scene, package) -> None:
    answer = geoseg("plan", scene, "-m", package, "--workers", 1, "--overlap", 0)
    assert answer.code == 0
    rows = {line[:17].strip(): line[17:].strip() for line in answer.out.splitlines()[1:]}
    assert rows["overlap"] == "0 px, as asked for"
    assert rows["patches"] == "9 of 64 x 64 px, the package's own size"
    assert rows["runtime"].startswith("torch: the job is too small for a contest")
    assert rows["time"].startswith("about ")
    assert "to start" in rows["time"]
    assert rows["memory"].endswith("MB") or rows["memory"].endswith("GB")
    assert rows["output"].startswith("about ")


def test_what_predict_would_refuse_plan_refuses(geoseg, make_raster, package) -> None:
    import numpy as np

    path = make_raster(np.zeros((3, 40, 40), np.uint16), descriptions=("red", "green", "blue"))
    answer = geoseg("plan", path, "-m", package, "--no-run")
    assert answer.code == 1
    assert "uint16" in answer.message


def test_plan_says_why_it_measures_no_cluster(geoseg, scene, package) -> None:
    text = " ".join(geoseg("plan", "--help").out.split())
    assert "but for --scheduler: what is measured is this machine" in text
    assert geoseg("plan", scene, "-m", package, "--no-run", "--scheduler", "tcp://127.0.0.1:1").code == 2
