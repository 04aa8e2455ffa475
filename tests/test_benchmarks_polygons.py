"""Mode `polygons` of the benchmarks: what it prints follows from what it measured; speed is not tested."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from shapely.geometry import shape

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("GEOSEG_CACHE", "replaced by the benchmarks")


def rows(text: str, title: str) -> dict[str, list[str]]:
    """Rows of the table under a heading, by their first cell."""
    section = text.partition(f"### {title}\n")[2].partition("\n###")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row for row in cells[2:]}


def polygons_of(path: Path) -> np.ndarray:
    """4-connected, in pixels, with a vertex at every pixel."""
    with rasterio.open(path) as dataset:
        raw = [shape(geometry) for geometry, _ in shapes(dataset.read(1))]
    return shapely.transform(shapely.segmentize(np.array(raw, object), 1.0), np.rint)


def test_all_ways_find_the_same_polygons(tmp_path: Path) -> None:
    from benchmarks.engine import main
    from benchmarks.jobs import Result

    given = ["--sizes", "512", "--rounds", "1", "--cores", "1", "--in-process"]
    folders = ["--work", str(tmp_path), "--results", str(tmp_path / "RESULTS.md")]
    assert main(["polygons", *given, *folders]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "failed" not in text
    for kind in ("clean", "noisy"):
        for connectivity in (8, 4):
            found = rows(text, f"{kind} 512, {connectivity}-connected")
            ways = {"geoseg-in-memory", "geoseg-gpkg", "gdal-c", "gdal-c-in-memory"}
            assert set(found) == (ways | {"script"} if connectivity == 8 else ways)
            assert len({row[1] for row in found.values()}) == 1
            written = {name: row[8] for name, row in found.items() if row[8] != "-"}
            assert "geoseg-gpkg" in written
            assert "gdal-c" in written
            assert all(indexed == found[name][1] for name, indexed in written.items())
    simplified = rows(text, "noisy 512, simplified by 1 px")
    assert set(simplified) == {"geoseg-simplify", "coverage-simplify"}
    for row in simplified.values():
        assert row[6:] == ["0", "0", "0"]
    assert simplified["geoseg-simplify"][1] == rows(text, "noisy 512, 4-connected")["gdal-c"][1]
    assert "wall, on 2 cores" not in text  # it ran on one
    assert text.count("number of polygons, off C's | at most 0 | 0 | met") == 4
    assert re.search(r"peak memory at 2048 px over 512 px \| at most 1.15", text)
    lines = (tmp_path / "polygons.jsonl").read_text().splitlines()
    starts = [result.job.start for result in map(Result.from_json, lines)]
    assert {start: starts.count(start) for start in ("first", "fresh")} == {"first": 1, "fresh": 1}
    assert not list((tmp_path / "maps").glob("*.gpkg"))


def test_the_script_is_left_out_where_it_takes_too_long() -> None:
    from benchmarks.polygons import SCRIPT, SCRIPT_MOST_PX, Case

    def case(size: int) -> Case:
        return Case(scene=Path(f"noisy_{size}.tif"), connectivity=8, size=size)

    assert SCRIPT in case(SCRIPT_MOST_PX).contenders
    assert SCRIPT not in case(SCRIPT_MOST_PX + 1).contenders


def result(contender: str, *, cpu_s: float, wall_s: float, polygons: int, cores: int = 1):
    from benchmarks.jobs import Cost, Facts, Job, Result

    here = Path()
    job = Job(contender=contender, network="", scene=here, out=here, work=here, cores=cores)
    cost = Cost(cpu_s=cpu_s, wall_s=wall_s, peak_mb=300.0, start_mb=100.0)
    return Result(job=job, cost=cost, facts=Facts(more={"polygons": polygons}))


def test_verdicts_follow_from_costs_and_counts() -> None:
    from benchmarks.polygons import Case, verdicts_of

    measured = [
        result("gdal-c", cpu_s=4.0, wall_s=4.0, polygons=10),
        result("geoseg-in-memory", cpu_s=1.0, wall_s=1.0, polygons=9),
        result("geoseg-gpkg", cpu_s=5.0, wall_s=2.0, polygons=9, cores=2),
        result("script", cpu_s=20.0, wall_s=20.0, polygons=10),
    ]
    rounds = [{one.job.label: one for one in measured}]
    case = Case(scene=Path("noisy_64.tif"), connectivity=8, size=64, rounds=rounds)
    found = {verdict.what.partition(": ")[2]: (verdict.value, verdict.met) for verdict in verdicts_of(case)}
    assert found == {
        "in memory over C into a GeoPackage, cpu": (0.25, True),
        "GeoPackage over C's, cpu": (1.25, False),
        "GeoPackage over C's, wall, on 2 cores": (0.5, True),
        "number of polygons, off C's": (1, False),
        "the script over geoseg's GeoPackage, cpu": (4.0, False),
    }


def test_every_other_round_goes_backwards_and_nobody_fails_twice() -> None:
    from benchmarks.jobs import FailedError, replace
    from benchmarks.rounds import Rounds

    jobs = [result(name, cpu_s=1.0, wall_s=1.0, polygons=1).job for name in ("a", "b", "c")]
    asked = []

    class Fake:
        rounds = 3

        def run(self, job):
            asked.append(job.contender)
            if job.contender == "b":
                raise FailedError("no")
            return replace(result(job.contender, cpu_s=1.0, wall_s=1.0, polygons=1), job=job)

    rounds = Rounds()
    done = [one.job.contender for one in rounds.measure(Fake(), jobs, where="here")]
    assert asked == ["a", "b", "c", "c", "a", "a", "c"]
    assert done == ["a", "c", "c", "a", "a", "c"]
    assert rounds.failures == ["`b` failed: no"]
    assert rounds.ratio("a", "c") == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["clean", "noisy"])
def test_a_coverage_is_judged_as_geos_judges_it(tmp_path: Path, kind: str) -> None:
    from benchmarks.maps import make_map
    from benchmarks.vectors import judge

    path = make_map(tmp_path / "map.tif", kind=kind, size=160)
    good = polygons_of(path)
    assert shapely.coverage_is_valid(good)
    verdict = judge(good, path)
    assert (verdict["invalid polygons"], verdict["unmatched edges"], verdict["missing px"]) == (0, 0, 0)
    assert verdict["vertices"] == shapely.get_num_coordinates(good).sum()
    missing = judge(good[1:], path)
    assert missing["missing px"] == good[0].area
    apart = shapely.simplify(good, 1.0)  # each for itself
    assert not shapely.coverage_is_valid(apart)
    assert judge(apart, path)["unmatched edges"] > 0
    twice = judge(np.append(good, good[1:2]), path)
    assert twice["unmatched edges"] > 0
    assert twice["missing px"] == -good[1].area
    with pytest.raises(ValueError, match="neither corners"):
        judge(shapely.transform(good, lambda xy: xy * 0.3), path)


def test_a_coverage_of_one_polygon_has_no_edges_to_match(tmp_path: Path, make_raster) -> None:
    from benchmarks.vectors import judge

    path = make_raster(np.zeros((8, 12), np.uint8))
    assert judge(np.array([shapely.box(0, 0, 12, 8)]), path) == {
        "vertices": 5,
        "invalid polygons": 0,
        "unmatched edges": 0,
        "missing px": 0.0,
    }
    assert judge(np.array([shapely.box(0, 0, 12, 7)]), path)["unmatched edges"] == 1


def test_maps_are_the_same_however_often_they_are_made(tmp_path: Path) -> None:
    from benchmarks.maps import CLASSES, make_map

    paths = [make_map(tmp_path / name, kind="noisy", size=1100, seed=3) for name in ("a.tif", "b.tif")]
    first, second = (rasterio.open(path).read(1) for path in paths)
    assert (first == second).all()
    assert first.shape == (1100, 1100)
    counts = np.bincount(first.ravel())
    assert len(counts) == CLASSES
    assert counts[0] > counts[1] > counts[2:].max()
    assert counts.min() > 0.02 * first.size
    clean = rasterio.open(make_map(tmp_path / "c.tif", kind="clean", size=1100, seed=3)).read(1)
    assert 0.9 < (clean == first).mean() < 0.99
    # Shapes come again every 1024 px, classes do not.
    assert 0.1 < (clean[:, :76] == clean[:, 1024:]).mean() < 0.5
