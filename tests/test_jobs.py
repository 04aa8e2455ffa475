"""The main job against patches stitched by hand, for any tiling, and through every kind of interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.features import rasterize

from geoseg import jobs, outlining, tasks
from geoseg.errors import ExecutionError, OutputError, SceneError, UsageError
from geoseg.execute import Execution
from geoseg.files import sha256
from geoseg.manifest import read_manifest
from geoseg.matching import Mapping
from geoseg.models.runtime import load_predictor
from geoseg.prediction import PredictOptions, prepare
from geoseg.raster.aoi import Aoi
from geoseg.raster.scene import open_scene
from geoseg.sieve import parse_area
from geoseg.stitch import CONFIDENCE_NODATA
from geoseg.vector.options import PolygonOptions, parse_distance
from geoseg.windows import Window

PATCH, OVERLAP, STRIDE = 64, 32, 32
"""Of the package."""


def run(scene: Path, package: Path, out: Path, *, execution=None, runtime=None, overwrite=False, **options):
    prediction = prepare(open_scene(scene), package, PredictOptions(**options))
    return jobs.predict(prediction, out, execution=execution, runtime=runtime, overwrite=overwrite)


def pixels(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Classes and confidence of a product."""
    found = []
    for name in ("classes", "confidence"):
        with rasterio.open(out / f"scene_{name}.tif") as dataset:
            found.append(dataset.read(1))
    return found[0], found[1]


def features(out: Path) -> set[tuple]:
    """Every polygon of a product with all that is said about it."""
    _, _, geometry, columns = pyogrio.raw.read(out / "scene.gpkg", layer="landuse")
    return set(zip(geometry.tolist(), *(c.tolist() for c in columns), strict=True))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file in a folder."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file()}


def product_bytes(folder: Path) -> dict[str, bytes]:
    """The product's files; the manifest holds times, so it is left out."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "scene_manifest.json"}


def by_hand(scene: Path, package: Path, *, blend: bool) -> tuple[np.ndarray, ...]:
    """Class ids, their probability, validity, lead over the next class: the whole image in memory."""
    card, predictor = load_predictor(package)
    with rasterio.open(scene) as dataset:
        values = dataset.read().astype(np.float32)
    valid = (values != 0).all(axis=0)
    normal = np.where(valid, (values - 112) / 64, 0).astype(np.float32)
    height, width = valid.shape
    padded = np.pad(normal, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE)))
    rows, cols = (starts(size) for size in padded.shape[1:])
    total = np.zeros((len(card.legend), *padded.shape[1:]), np.float64)
    ramp = np.sin(np.pi * (np.arange(PATCH) + 0.5) / PATCH) ** 2
    for (r, r0, r1), (c, c0, c1) in ((a, b) for a in cuts(rows) for b in cuts(cols)):
        logits = predictor(padded[None, :, r : r + PATCH, c : c + PATCH].copy())[0].astype(np.float64)
        p = np.exp(logits - logits.max(axis=0))
        p /= p.sum(axis=0)
        if blend:
            weight = np.outer(ramp[: p.shape[1]], ramp[: p.shape[2]])
            total[:, r : r + PATCH, c : c + PATCH] += p * weight
        else:
            total[:, r0:r1, c0:c1] = p[:, r0 - r : r1 - r, c0 - c : c1 - c]
    total = total[:, :height, :width] / total[:, :height, :width].sum(axis=0)
    second, top = np.partition(total, -2, axis=0)[-2:]
    return card.legend.ids[total.argmax(axis=0)], top, valid, top - second


def starts(padded: int) -> list[int]:
    step = PATCH - OVERLAP
    return [*range(0, padded - PATCH, step), padded - PATCH]


def cuts(first: list[int]) -> list[tuple[int, int, int]]:
    """(start, first and last pixel decided) of each patch along an axis."""
    middle = [(a + b + PATCH) // 2 for a, b in pairwise(first)]
    return list(zip(first, [0, *middle], [*middle, first[-1] + PATCH], strict=True))


@pytest.mark.parametrize("blend", [False, True])
def test_the_map_is_what_patches_stitched_by_hand_give(make_scene, package, tmp_path, blend) -> None:
    scene = make_scene((150, 130))
    outcome = run(scene, package, tmp_path / "out", tile_px=70, blend=blend)
    assert outcome.manifest.plan["tiles"] == 4
    ids, probability, valid, margin = by_hand(scene, package, blend=blend)
    classes, confidence = pixels(tmp_path / "out")
    # Sums formed in another order may decide a tie of two classes otherwise.
    sure = valid if not blend else valid & (margin > 1e-5)
    assert np.array_equal(classes[sure], ids[sure])
    assert sure.sum() > 0.999 * valid.sum()
    assert (np.abs(confidence[valid] - 100 * probability[valid]) < 0.5 + 1e-3).all()
    assert (classes[~valid] == 255).all()
    assert (confidence[~valid] == CONFIDENCE_NODATA).all()
    assert set(np.unique(classes)) == {0, 3, 7, 255}


def test_counts_and_areas_add_up(make_scene, package, tmp_path) -> None:
    outcome = run(make_scene(), package, tmp_path / "out", tile_px=40)
    classes, confidence = pixels(tmp_path / "out")
    counts = outcome.manifest.counts
    assert {c.id: c.pixels for c in counts.classes} == {i: (classes == i).sum() for i in (0, 7, 3)}
    assert counts.nodata == (classes == 255).sum() > 0
    assert counts.valid + counts.nodata == classes.size
    # UTM is 0.9996 of true length on its central meridian, where the scene lies.
    assert sum(c.area_m2 for c in counts.classes) == pytest.approx(counts.valid * 100 / 0.9996**2, rel=1e-5)
    found = pyogrio.read_dataframe(tmp_path / "out" / "scene.gpkg", layer="landuse")
    assert len(found) == outcome.manifest.polygons
    assert found.geometry.area.sum() == pytest.approx(100 * counts.valid, rel=1e-12)
    for share in counts.classes:
        mine = found[found.class_id == share.id]
        assert mine.pixels.sum() == share.pixels
        assert mine.area_m2.sum() == pytest.approx(share.area_m2, rel=1e-12)
    weighted = (found.mean_confidence * found.pixels).sum() / counts.valid
    assert weighted == pytest.approx(confidence[classes != 255].mean(), rel=1e-9)


def test_the_manifest_says_what_is_there_and_nothing_else_is(make_scene, package, tmp_path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    outcome = run(scene, package, out)
    manifest = read_manifest(out / "scene_manifest.json")
    assert manifest == outcome.manifest
    assert type(manifest).model_validate_json(manifest.to_json()) == manifest
    assert {o.path for o in manifest.outputs} | {"scene_manifest.json"} == {p.name for p in out.iterdir()}
    for output in manifest.outputs:
        path = out / output.path
        assert (output.bytes, output.sha256) == (path.stat().st_size, sha256(path))
        assert path.stat().st_mtime_ns <= outcome.path.stat().st_mtime_ns
    assert manifest.scene["files"] == [str(scene)]
    assert manifest.scene["shape"] == [150, 130]
    assert manifest.plan["patches"] == 16 == manifest.execution["patches_computed"]


def test_leaving_products_out_leaves_them_out(make_scene, package, tmp_path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, package, out)
    assert (out / "scene.gpkg").exists()
    outcome = run(scene, package, out, overwrite=True, confidence=None, polygons=None)
    assert outcome.manifest.polygons is None
    names = ["scene_classes.qml", "scene_classes.tif", "scene_classes.tif.aux.xml", "scene_manifest.json"]
    assert sorted(p.name for p in out.iterdir()) == names


@pytest.mark.parametrize("blend", [False, True])
def test_products_depend_neither_on_tile_size_nor_on_executor(make_scene, package, tmp_path, blend) -> None:
    scene = make_scene((150, 170))
    run(scene, package, tmp_path / "one", blend=blend)
    one = pixels(tmp_path / "one")
    polygons = features(tmp_path / "one")
    for name, tile_px, threads in (("a", 1, 1), ("b", 70, 3), ("c", 128, 2), ("d", 70, 1)):
        out = tmp_path / name
        outcome = run(scene, package, out, execution=Execution(threads=threads), tile_px=tile_px, blend=blend)
        assert outcome.manifest.plan["tiles"] > 1
        classes, confidence = pixels(out)
        assert np.array_equal(classes, one[0])
        assert np.array_equal(confidence, one[1])
        assert features(out) == polygons
    assert product_bytes(tmp_path / "b") == product_bytes(tmp_path / "d")


GENERAL = PolygonOptions(
    connectivity=8,
    min_area=parse_area("0.2ha"),
    simplify=parse_distance("15m"),
    smooth=True,
    class_fractions=True,
    formats=("gpkg", "parquet"),
)


def cleaned(out: Path) -> np.ndarray:
    with rasterio.open(out / "scene_classes_mmu.tif") as dataset:
        return dataset.read(1)


def test_cleaned_and_generalised_polygons_do_not_depend_on_tiles_or_executor(
    make_scene, package, tmp_path
) -> None:
    scene = make_scene((150, 170))
    run(scene, package, tmp_path / "one", polygons=None)
    whole = run(scene, package, tmp_path / "a", polygons=GENERAL)
    outlined = {row.id: row for row in whole.manifest.outlined}
    found = pyogrio.read_dataframe(tmp_path / "a" / "scene.gpkg", layer="landuse")
    after = cleaned(tmp_path / "a")
    assert whole.manifest.polygons == len(found) > 5
    assert found.area_m2.min() > 1000
    assert (after != pixels(tmp_path / "a")[0]).any()
    for name, tile_px, execution in (
        ("b", 70, Execution(threads=3)),
        ("c", 70, Execution(workers=1)),
        ("d", 33, Execution(threads=1)),
    ):
        out = tmp_path / name
        outcome = run(scene, package, out, execution=execution, tile_px=tile_px, polygons=GENERAL)
        assert outcome.manifest.plan["tiles"] > 1
        assert outcome.manifest.outlined == whole.manifest.outlined
        # The class raster is what the network said; the other one is what the polygons say.
        assert np.array_equal(pixels(out)[0], pixels(tmp_path / "one")[0])
        assert np.array_equal(cleaned(out), after)
        assert features(out) == features(tmp_path / "a")
    assert product_bytes(tmp_path / "b") == product_bytes(tmp_path / "c")
    counts = {i: int((after == i).sum()) for i in outlined}
    assert {i: row.pixels for i, row in outlined.items()} == counts
    assert sum(counts.values()) == whole.manifest.counts.valid
    kinds = {o.kind for o in whole.manifest.outputs}
    assert kinds >= {"cleaned", "cleaned_names", "cleaned_style", "polygons", "parquet"}


def test_polygons_of_a_part_are_cleaned_in_its_own_pixels(make_scene, package, tmp_path) -> None:
    path = make_scene((150, 170))
    scene = open_scene(path)
    aoi = Aoi(extent=Window(41, 23, 90, 111))
    options = PredictOptions(polygons=PolygonOptions(min_area=parse_area("20px")), tile_px=40)
    jobs.predict(prepare(scene, package, options, aoi=aoi), tmp_path / "out")
    after = cleaned(tmp_path / "out")
    frame = pyogrio.read_dataframe(tmp_path / "out" / "scene.gpkg", layer="landuse")
    with rasterio.open(tmp_path / "out" / "scene_classes.tif") as dataset:
        burnt = np.full(dataset.shape, 255, np.uint8)
        shapes = zip(frame.geometry, frame.class_id, strict=True)
        rasterize(shapes, out=burnt, transform=dataset.transform)
        valid = dataset.read(1) != 255
    assert np.array_equal(burnt, after)
    assert np.array_equal(after != 255, valid)


def test_a_run_cut_off_while_cleaning_goes_on(make_scene, package, tmp_path, monkeypatch) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, package, tmp_path / "undisturbed", tile_px=40, polygons=GENERAL)
    original, left = outlining.clean_tile, [3]

    def clean_tile(task):
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError("out of luck")
        return original(task)

    monkeypatch.setattr(outlining, "clean_tile", clean_tile)
    serial = Execution(threads=1)
    with pytest.raises(ExecutionError, match=r"a tile failed: scene, tile \d/\d .*out of luck"):
        run(scene, package, out, tile_px=40, polygons=GENERAL, execution=serial)
    monkeypatch.undo()
    assert len(list(out.glob(".scene-*.work/cleaned/*.npz"))) == 3
    outcome = run(scene, package, out, tile_px=40, polygons=GENERAL)
    assert outcome.reused_tiles == outcome.manifest.plan["tiles"]
    assert product_bytes(out) == product_bytes(tmp_path / "undisturbed")


def test_files_another_product_had_go_and_those_of_others_stay(make_scene, package, tmp_path) -> None:
    scene, out = make_scene((70, 60)), tmp_path / "out"
    out.mkdir()
    (out / "scene.geojson").write_text("my area of interest")
    formats = PolygonOptions(formats=("gpkg", "fgb"), min_area=parse_area("4px"))
    run(scene, package, out, polygons=formats)
    assert {"scene.fgb", "scene.gpkg", "scene_classes_mmu.tif"} <= {p.name for p in out.iterdir()}
    run(scene, package, out, polygons=PolygonOptions(formats=("parquet",)), overwrite=True)
    assert {p.name for p in out.iterdir() if "classes" not in p.name} == {
        "scene.geojson", "scene.parquet", "scene_confidence.tif", "scene_manifest.json"
    }  # fmt: skip
    assert not list(out.glob("*_mmu*"))
    with pytest.raises(OutputError, match=r"scene\.geojson"):
        (out / "scene_manifest.json").unlink()
        (out / "scene_classes.tif").unlink()
        (out / "scene_confidence.tif").unlink()
        run(scene, package, out, polygons=PolygonOptions(formats=("geojson",)))


def test_larger_batches_change_no_more_than_the_rounding_of_sums(make_scene, package, tmp_path) -> None:
    """The library adds in another order for a batch: bytes are promised for one patch at a time only."""
    scene = make_scene()
    run(scene, package, tmp_path / "one")
    outcome = run(scene, package, tmp_path / "five", runtime=tasks.Runtime(batch_size=5))
    assert outcome.manifest.execution["batch_size"] == 5
    (classes, confidence), (others, other_confidence) = (pixels(tmp_path / n) for n in ("one", "five"))
    assert (classes != others).mean() < 1e-3
    assert np.abs(confidence.astype(int) - other_confidence).max() <= 1


def test_a_finished_job_is_left_alone(make_scene, package, tmp_path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    first = run(scene, package, out)
    before = contents(out)
    again = run(scene, package, out)
    assert first.fresh
    assert not again.fresh
    assert again.manifest == first.manifest
    assert contents(out) == before


def test_a_product_with_a_file_missing_is_made_again(make_scene, package, tmp_path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, package, out)
    before = product_bytes(out)
    (out / "scene_confidence.tif").unlink()
    assert run(scene, package, out).fresh
    assert product_bytes(out) == before


def test_another_job_needs_overwrite_and_a_failure_leaves_the_old_product(
    make_scene, package, tmp_path, monkeypatch
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, package, out)
    before = contents(out)
    with pytest.raises(OutputError, match=r"something already: .*scene_manifest\.json.*--overwrite"):
        run(scene, package, out, tile_px=64)
    assert contents(out) == before
    computed = fail_after(monkeypatch, 3)
    with pytest.raises(ExecutionError, match=r"a tile failed: scene, tile \d/\d .*out of luck.*run the same"):
        run(scene, package, out, tile_px=40, overwrite=True)
    assert contents(out) == before
    assert not run(scene, package, out).fresh  # the old job still is complete
    monkeypatch.undo()
    outcome = run(scene, package, out, tile_px=40, overwrite=True)
    assert outcome.reused_tiles == len(computed) == 3
    assert outcome.manifest.plan["tile_px"] == 40
    assert not list(out.glob(".*"))


def fail_after(monkeypatch, count: int) -> list[tasks.PredictTask]:
    """From now on tiles fail once `count` have been finished; the list fills with those."""
    done: list[tasks.PredictTask] = []
    original = tasks.predict_tile

    def predict_tile(task):
        if len(done) == count:
            raise ZeroDivisionError("out of luck")
        done.append(task)
        return original(task)

    monkeypatch.setattr(jobs, "predict_tile", predict_tile)
    return done


@pytest.mark.parametrize("damage", ["none", "flipped", "truncated", "empty", "foreign"])
def test_finished_tiles_are_used_and_damaged_ones_are_not(
    make_scene, package, tmp_path, monkeypatch, damage
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, package, tmp_path / "undisturbed", tile_px=40)
    finished = fail_after(monkeypatch, 5)
    with pytest.raises(ExecutionError):
        run(scene, package, out, tile_px=40)
    monkeypatch.undo()
    assert [p.name for p in out.iterdir() if p.is_file()] == []
    parts = sorted(out.glob(".scene-*.work/parts/*.npz"))
    assert len(parts) == len(finished) == 5
    harm(parts[1], damage, other=parts[-1])
    outcome = run(scene, package, out, tile_px=40)
    assert outcome.reused_tiles == (5 if damage == "none" else 4)
    assert outcome.manifest.execution["tiles_reused"] == outcome.reused_tiles
    assert product_bytes(out) == product_bytes(tmp_path / "undisturbed")
    assert outcome.manifest.counts == read_manifest(tmp_path / "undisturbed/scene_manifest.json").counts


def harm(part: Path, damage: str, *, other: Path) -> None:
    whole = part.read_bytes()
    if damage == "flipped":
        at = len(whole) // 2
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "truncated":
        part.write_bytes(whole[:-100])
    elif damage == "empty":
        part.write_bytes(b"")
    elif damage == "foreign":  # a whole part, of a tile of another shape
        part.write_bytes(other.read_bytes())


def test_kill_9_and_again_gives_the_same_bytes(make_scene, package, tmp_path) -> None:
    """With worker processes, which may finish a tile after their master is dead."""
    scene, out = make_scene((200, 200)), tmp_path / "out"
    arguments = ["predict", scene, "-m", package, "-o", out, "--tile-size", 32, "--workers", 2, "-q",
                 "--runtime", "torch"]  # fmt: skip
    started = subprocess.Popen([sys.executable, "-m", "geoseg", *map(str, arguments)])
    parts = wait_for_parts(out, started, at_least=4)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait(30) == -signal.SIGKILL
    assert not [p.name for p in out.iterdir() if p.is_file()]
    outcome = run(scene, package, out, tile_px=32)
    assert outcome.fresh
    assert parts <= outcome.manifest.execution["tiles_reused"] < outcome.manifest.plan["tiles"]
    assert not list(out.glob(".*"))
    run(scene, package, tmp_path / "undisturbed", tile_px=32)
    assert product_bytes(out) == product_bytes(tmp_path / "undisturbed")


def wait_for_parts(out: Path, process: subprocess.Popen, *, at_least: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = len(list(out.glob(".scene-*.work/parts/tile_*.npz")))
        if found >= at_least:
            return found
        assert process.poll() is None, "it finished before it could be killed"
        time.sleep(0.005)
    raise AssertionError("no parts within a minute")


def test_killed_while_assembling_leaves_nothing_half_written_under_a_final_name(
    make_scene, package, tmp_path
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from geoseg import jobs\n"
        "from geoseg.prediction import PredictOptions, prepare\n"
        "from geoseg.raster import cog\n"
        "from geoseg.raster.scene import open_scene\n"
        "cog._verify = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"p = prepare(open_scene({str(scene)!r}), Path({str(package)!r}), PredictOptions())\n"
        f"jobs.predict(p, Path({str(out)!r}))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "scene_classes.tif").exists()
    outcome = run(scene, package, out)
    assert outcome.reused_tiles == outcome.manifest.plan["tiles"] == 1
    assert not list(out.glob(".*"))  # what the killed run was writing is gone too
    run(scene, package, tmp_path / "undisturbed")
    assert product_bytes(out) == product_bytes(tmp_path / "undisturbed")


def test_a_scene_of_nodata_is_refused_and_leaves_nothing(make_raster, package, tmp_path) -> None:
    empty = make_raster(np.zeros((3, 90, 80), np.uint8), nodata=0, descriptions=("red", "green", "blue"))
    with pytest.raises(SceneError, match=r"no valid pixel: .*scene\.tif.*nothing but nodata in 90 x 80"):
        run(empty, package, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_job_ids_tell_jobs_apart(make_scene, package) -> None:
    scene = open_scene(make_scene())

    def job(**options) -> str:
        return prepare(scene, package, PredictOptions(**options)).job

    different = [
        {}, {"tile_px": 64}, {"patch_px": 128}, {"overlap_px": 0}, {"blend": True}, {"confidence": "margin"},
        {"confidence": None}, {"probabilities": True}, {"views": "flips"},
        {"polygons": None}, {"polygons": PolygonOptions(connectivity=8)},
        {"polygons": PolygonOptions(min_area=parse_area("5px"))},
        {"polygons": PolygonOptions(simplify=parse_distance("5px"))},
        {"polygons": PolygonOptions(smooth=True)},
        {"polygons": PolygonOptions(crs="EPSG:3035")}, {"polygons": PolygonOptions(formats=("fgb",))},
        {"mapping": Mapping(scale=2.0)}, {"mapping": Mapping(scale=1, offset=3)},
    ]  # fmt: skip
    ids = [job(**options) for options in different]
    assert len(set(ids)) == len(ids)
    assert job() == ids[0]
    assert job(patch_px=64, overlap_px=32, blend=False) == ids[0]  # the defaults, spelt out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_px": 0}, r"tile.*at least 1.*0"),
        ({"patch_px": 0}, r"patch.*at least 1.*0"),
        ({"patch_px": 100}, "off the network's stride: 100 px. Expected a multiple of 32.*Use 96 or 128"),
        ({"overlap_px": 64}, "overlap does not fit the patch: patch 64 px. Expected an overlap of 0 to 32"),
        ({"overlap_px": -32}, "overlap does not fit the patch"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_any_work(make_scene, package, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(open_scene(make_scene()), package, PredictOptions(**options))
