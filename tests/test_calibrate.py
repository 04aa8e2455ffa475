"""The calibration: its model of work against a simulation, its figures against what predict then does."""

from __future__ import annotations

import json
import tempfile
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg import jobs
from geoseg.calibrate import calibrate
from geoseg.execute import Execution
from geoseg.models import runtime as runtimes
from geoseg.package import read_card
from geoseg.prediction import PredictOptions, prepare
from geoseg.raster.scene import open_scene
from geoseg.sieve import Area
from geoseg.tasks import Runtime
from geoseg.trial import makespan
from geoseg.vector.options import PolygonOptions, Tracing
from geoseg.vector.tracing import trace_or_find_small
from geoseg.windows import Window


def simulated(work: list[int], slots: int, servers: int) -> float:
    """The same in small steps of time."""
    waiting, running, now, step = list(work), [], 0.0, 1 / 64
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(float(waiting.pop(0)))
        share = min(1.0, servers / len(running)) * step
        running = [left - share for left in running]
        running = [left for left in running if left > 1e-9]
        now += step
    return now


@settings(deadline=None, max_examples=60)
@given(work=st.lists(st.integers(0, 6), max_size=9), slots=st.integers(1, 5), servers=st.integers(1, 4))
def test_work_is_shared_as_in_a_simulation(work, slots, servers) -> None:
    found = makespan(work, slots=slots, servers=servers)
    assert found == pytest.approx(simulated(work, slots, servers), abs=0.05 * (len(work) + 1))
    assert found >= sum(work) / servers - 1e-9
    if servers == 1 or slots == 1:
        assert found == pytest.approx(sum(work))


def test_a_few_long_tiles_take_longer_than_their_share() -> None:
    assert makespan([4, 4, 4], slots=4, servers=2) == pytest.approx(6)
    assert makespan([4, 4, 4], slots=2, servers=2) == pytest.approx(8)
    assert makespan([4] * 5, slots=1, servers=8) == pytest.approx(20)


class Slow:
    """Says what the brightest band is, and takes its time; `calls` at once."""

    def __init__(self, seconds: float, calls: int) -> None:
        self.seconds, self.gate = seconds, threading.Semaphore(calls)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        with self.gate:
            time.sleep(self.seconds)
        return np.ascontiguousarray(batch)


@pytest.fixture
def slow(monkeypatch):
    """A network of three bands and three classes, of a known speed, in place of every package's."""

    def install(seconds: float, calls: int) -> None:
        network = Slow(seconds, calls)
        monkeypatch.setattr(runtimes, "load_predictor", lambda path, **_: (read_card(path), network))

    return install


@pytest.fixture(scope="module", autouse=True)
def _loops_are_loaded() -> None:
    """The calibration and the job share this process, where only the first would wait for numba."""
    one = Window(0, 0, 1, 1)
    trace_or_find_small(
        np.zeros((1, 1), np.uint8),
        confidence=None,
        pixel_area=np.ones((1, 1)),
        core=one,
        how=Tracing(scene=one, nodata=255),
    )


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def land(make_raster):
    """A scene with a hole in a corner and fields of some pixels, on which the brightest band differs."""

    def write(height: int, width: int):
        rng = np.random.default_rng(1)
        fields = rng.integers(1, 255, (3, -(-height // 9), -(-width // 9))).astype(np.uint8)
        values = fields.repeat(9, 1).repeat(9, 2)[:, :height, :width]
        rows, cols = np.indices((height, width))
        values[:, rows + cols < min(height, width) // 2] = 0
        return open_scene(make_raster(values, nodata=0, descriptions=("red", "green", "blue")))

    return write


def compare(scene, package, tmp_path, *, execution, runtime, **options):
    """What was expected, and the manifest of what then happened."""
    prediction = prepare(scene, package, PredictOptions(**options))
    settled, _ = jobs.settle(prediction, runtime, execution)
    found = calibrate(prediction, execution=execution, runtime=settled)
    outcome = jobs.predict(prediction, tmp_path / "out", execution=execution, runtime=runtime)
    return found, outcome.manifest


def test_what_is_expected_happens(land, package, slow, tmp_path, scratch) -> None:
    slow(0.1, calls=2)
    found, manifest = compare(
        land(900, 1100),
        package,
        tmp_path,
        execution=Execution(threads=2),
        runtime=Runtime(name="torch"),
        patch_px=128,
        overlap_px=0,
        tile_px=384,
    )
    assert found.patches == manifest.execution["patches_computed"] < manifest.plan["patches"]
    # Closer where the machine has nothing else to do.
    assert found.tiles_seconds == pytest.approx(manifest.seconds["tiles"], rel=0.4)
    size = sum(o.bytes for o in manifest.outputs) / 1e6
    assert sum(found.output_mb.values()) == pytest.approx(size, rel=0.25)
    assert set(found.output_mb) == {o.kind for o in manifest.outputs}
    assert found.scratch_mb == pytest.approx(900 * 1100 * 3 / 1e6, rel=0.5)
    assert 50 < found.memory_mb < 4000
    assert found.measured_patches <= found.patches / 8 + 1
    assert found.seconds == found.start_seconds + found.tiles_seconds + found.write_seconds
    assert not list(scratch.iterdir()), "nothing is kept"


def test_one_thread_and_few_patches(land, package, slow, tmp_path) -> None:
    """So few that the warming up is all that is measured."""
    slow(0.3, calls=1)
    found, manifest = compare(
        land(150, 130),
        package,
        tmp_path,
        execution=Execution(threads=1),
        runtime=Runtime(name="torch"),
        patch_px=64,
        overlap_px=0,
    )
    assert found.patches == manifest.execution["patches_computed"] == 9
    assert found.measured_patches == 1
    assert found.tiles_seconds == pytest.approx(manifest.seconds["tiles"], rel=0.4)


@pytest.mark.parametrize(
    "options",
    [
        {"blend": True},
        {"polygons": None, "confidence": None},
        {"probabilities": True, "confidence": "margin"},
        {"views": "flips"},
        {
            "polygons": PolygonOptions(
                min_area=Area(value=6.0, unit="px"), smooth=True, formats=("gpkg", "fgb")
            )
        },
    ],
)
def test_every_kind_of_product_is_measured(land, package, slow, tmp_path, options) -> None:
    slow(0.0, calls=2)
    found, manifest = compare(
        land(200, 300),
        package,
        tmp_path,
        execution=Execution(threads=2),
        runtime=Runtime(name="openvino"),
        tile_px=128,
        **options,
    )
    assert found.patches == manifest.execution["patches_computed"]
    assert set(found.output_mb) == {o.kind for o in manifest.outputs}
    assert all(mb > 0 for mb in found.output_mb.values())


def test_a_scene_without_data_takes_nothing_much(make_raster, package, slow) -> None:
    slow(0.0, calls=1)
    path = make_raster(np.zeros((3, 200, 200), np.uint8), nodata=0, descriptions=("red", "green", "blue"))
    prediction = prepare(open_scene(path), package, PredictOptions())
    found = calibrate(prediction, execution=Execution(threads=1), runtime=Runtime())
    assert (found.patches, found.mpx_per_s) == (0, 0)
    assert found.seconds < 20


def test_what_lies_outside_the_area_of_interest_costs_nothing(land, package, slow, tmp_path) -> None:
    from geoseg.raster.aoi import read_aoi

    slow(0.0, calls=1)
    scene = land(300, 400)
    left, top = 500_200, 5_197_400
    path = tmp_path / "area.geojson"
    # A triangle: rows 60 to 260 from column 20 on.
    ring = [[left, top], [left, top + 2000], [left + 3000, top], [left, top]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    area = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {}, "geometry": area}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    aoi = read_aoi(path, None, scene)
    prediction = prepare(scene, package, PredictOptions(overlap_px=0), aoi=aoi)
    found = calibrate(prediction, execution=Execution(threads=1), runtime=Runtime())
    manifest = jobs.predict(prediction, tmp_path / "out", runtime=Runtime()).manifest
    assert found.patches == manifest.execution["patches_computed"] < manifest.plan["patches"]
