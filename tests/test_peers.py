"""One test for each bug that users of other tools live with, as far as it could be ours.

Tested elsewhere, by name:
    all class 0 where a side is at most half a patch or exactly two chunks
        test_inference: test_a_scene_of_half_a_patch_or_exactly_two_is_not_class_zero
    a frame of nodata around a blend, its corner close to 0
        test_inference: test_a_blend_leaves_no_frame_of_nodata_and_its_corner_is_whole
    any zero is nodata where none is declared; NaN nodata never matches
        raster/test_read: test_zeros_are_data_when_no_nodata_is_declared, test_declared_nodata_is_not_valid...
    errors of tiles logged and swallowed
        test_jobs: test_another_job_needs_overwrite_and_a_failure_leaves_the_old_product
    unsupported data types exit 0; bands too few
        cli/test_cli_bad_input: test_dtype_no_model_can_take_exits_non_zero, test_fewer_bands_...
    class ids averaged
        test_products: test_the_class_raster_carries_colours_names_and_mode_overviews
        test_jobs: test_the_map_is_what_patches_stitched_by_hand_give[True]
    seams moved from patches to tiles
        test_jobs: test_products_depend_neither_on_tile_size_nor_on_executor
    a region of 10 x 10 px becomes a polygon of 9 x 9
        vector/test_trace: test_a_region_of_10_by_10_pixels_is_a_polygon_of_10_by_10_in_the_scene
    an absent class is scored as zero
        test_metrics: test_an_absent_class_is_not_counted_as_zero
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from geoseg import jobs, tasks
from geoseg.errors import ExecutionError, OutputError
from geoseg.matching import Mapping
from geoseg.metrics import Scores, confusion
from geoseg.models import runtime
from geoseg.package import Card, read_card
from geoseg.prediction import PredictOptions, prepare
from geoseg.raster.scene import open_scene
from geoseg.tiling import Lattice, TilePlan
from geoseg.vector import geopackage

RGB = ("red", "green", "blue")


def run(scene: Path, package: Path, out: Path, *, overwrite=False, **options) -> jobs.Outcome:
    prediction = prepare(open_scene(scene), package, PredictOptions(**options))
    return jobs.predict(prediction, out, overwrite=overwrite)


def classes_of(out: Path) -> np.ndarray:
    with rasterio.open(out / "scene_classes.tif") as dataset:
        return dataset.read(1)


@pytest.fixture
def raw_package(package, tmp_path) -> Path:
    """The package with a card that leaves values as they are: mean 0, standard deviation 1."""
    folder = tmp_path / "raw"
    shutil.copytree(package, folder)
    card = json.loads((folder / "model.json").read_text())
    card["bands"] = [{"name": n, "mean": 0, "std": 1} for n in RGB]
    (folder / "model.json").write_text(json.dumps(card))
    return folder


class Spy:
    """A network that remembers what it was given and takes the class from the red band's lowest bits."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.seen: list[np.ndarray] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.seen.append(batch.copy())
        index = np.rint(batch[:, 0]).astype(int) % 3
        return np.stack([np.where(index == c, 5.0, 0.0) for c in range(3)], axis=1).astype(np.float32)


@pytest.fixture
def spy(raw_package, monkeypatch) -> Spy:
    watching = Spy(read_card(raw_package))
    monkeypatch.setattr(runtime, "load_predictor", lambda *_, **__: (watching.card, watching))
    return watching


def test_values_are_never_divided_by_255_behind_the_users_back(
    spy, raw_package, make_scene, tmp_path
) -> None:
    scene = make_scene((64, 64), hole=False)
    run(scene, raw_package, tmp_path / "out")
    [batch] = spy.seen
    with rasterio.open(scene) as dataset:
        assert np.array_equal(batch[0], dataset.read())


def test_bands_are_taken_by_name_never_cut_or_padded_to_fit(spy, raw_package, make_raster, tmp_path) -> None:
    values = np.stack([np.full((64, 64), v, np.uint8) for v in (40, 30, 20, 10)])
    path = make_raster(values, descriptions=("nir", "blue", "green", "red"), photometric="MINISBLACK")
    run(path, raw_package, tmp_path / "out")
    assert spy.seen[0][0, :, 0, 0].tolist() == [10, 20, 30]


def test_class_0_has_polygons_and_nodata_has_none(spy, raw_package, make_scene, tmp_path) -> None:
    scene = make_scene()
    run(scene, raw_package, tmp_path / "out")
    found = classes_of(tmp_path / "out")
    with rasterio.open(scene) as dataset:
        red, valid = dataset.read(1), (dataset.read() != 0).all(axis=0)
    assert np.array_equal(found, np.where(valid, spy.card.legend.ids[red % 3], 255))
    frame = pyogrio.read_dataframe(tmp_path / "out" / "scene.gpkg", layer="landuse")
    assert set(frame.class_id) == {0, 3, 7}
    assert frame.pixels[frame.class_id == 0].sum() == (found == 0).sum() > 0
    assert frame.pixels.sum() == valid.sum()


@pytest.mark.parametrize("blend", [False, True])
def test_no_overlap_at_all_still_covers_every_pixel(spy, raw_package, make_scene, tmp_path, blend) -> None:
    run(make_scene((150, 130), hole=False), raw_package, tmp_path / "out", overlap_px=0, blend=blend)
    found = classes_of(tmp_path / "out")
    assert found.shape == (150, 130)
    assert (found != 255).all()


def test_nan_as_nodata_is_nodata_from_the_first_read_to_the_last_polygon(
    spy, raw_package, make_raster, tmp_path
) -> None:
    values = np.random.default_rng(0).integers(0, 200, (3, 70, 80)).astype(np.float32)
    values[1, 10:40, 20:50] = np.nan
    path = make_raster(values, nodata=np.nan, descriptions=RGB)
    outcome = run(path, raw_package, tmp_path / "out", mapping=Mapping(scale=1.0))
    found = classes_of(tmp_path / "out")
    assert np.array_equal(found == 255, np.isnan(values[1]))
    assert outcome.manifest.counts.nodata == 900
    assert all(np.isfinite(batch).all() for batch in spy.seen)
    frame = pyogrio.read_dataframe(tmp_path / "out" / "scene.gpkg", layer="landuse")
    assert frame.pixels.sum() == 70 * 80 - 900


def test_the_last_partial_window_is_visited() -> None:
    """Size 1000, patch 256, overlap 32: another tool never visits the last 72 pixels."""
    lattice = Lattice.of((1000, 1000), patch_px=256, overlap_px=32, stride_px=32)
    visited = np.zeros((1000, 1000), int)
    for tile in TilePlan(lattice=lattice, tile_px=512):
        for patch in tile.patches:
            visited[patch.support.slices()] += 1
    assert (visited == 1).all()


@given(
    count=st.integers(1, 60),
    patch=st.sampled_from([32, 64, 256]),
    size=st.sampled_from([0.1, 0.3, 1 / 3, 0.00027, 30.0]),
)
@settings(deadline=None, max_examples=60)
def test_exact_multiples_of_the_patch_are_counted_right(count, patch, size) -> None:
    """Counted in units of the CRS, 39 % of exact multiples came out one too many elsewhere."""
    grid = from_origin(1 / 7, 1 / 3, size, size)
    width = round(((grid.c + count * patch * size) - grid.c) / size)  # however a CRS rounds, pixels are whole
    lattice = Lattice.of((patch, width), patch_px=patch, overlap_px=0, stride_px=32)
    assert lattice.shape == (1, count)
    assert [lattice.patch(0, i).window.col for i in range(count)] == [i * patch for i in range(count)]


def test_a_changed_tile_size_never_resumes_another_plans_parts(
    make_scene, package, tmp_path, monkeypatch
) -> None:
    """Both plans have as many tiles; only their identity tells them apart."""
    scene, out = make_scene((160, 128)), tmp_path / "out"
    plans = {px: plan_of(scene, package, px) for px in (64, 80)}
    assert len(plans[64]) == len(plans[80])
    stop_after(monkeypatch, 2)
    with pytest.raises(ExecutionError):
        run(scene, package, out, tile_px=64)
    monkeypatch.undo()
    outcome = run(scene, package, out, tile_px=80)
    assert outcome.reused_tiles == 0
    run(scene, package, tmp_path / "fresh", tile_px=80)
    assert np.array_equal(classes_of(out), classes_of(tmp_path / "fresh"))


def plan_of(scene: Path, package: Path, tile_px: int) -> TilePlan:
    return prepare(open_scene(scene), package, PredictOptions(tile_px=tile_px)).plan


def stop_after(monkeypatch, count: int) -> None:
    original, done = tasks.predict_tile, []

    def predict_tile(task):
        if len(done) == count:
            raise RuntimeError("power cut")
        done.append(task)
        return original(task)

    monkeypatch.setattr(jobs, "predict_tile", predict_tile)


@pytest.mark.parametrize("change", ["scene", "model"])
def test_a_changed_scene_or_model_never_resumes_old_parts(
    make_scene, package, tmp_path, monkeypatch, change
) -> None:
    scene, out, model = make_scene(), tmp_path / "out", tmp_path / "model"
    shutil.copytree(package, model)
    stop_after(monkeypatch, 3)
    with pytest.raises(ExecutionError):
        run(scene, model, out, tile_px=40)
    monkeypatch.undo()
    if change == "scene":
        make_scene(seed=5)  # another image under the same name
    else:
        card = json.loads((model / "model.json").read_text())
        card["bands"][0]["mean"] = 90
        (model / "model.json").write_text(json.dumps(card))
    assert run(scene, model, out, tile_px=40).reused_tiles == 0


def test_a_crash_while_polygons_are_written_leaves_no_duplicates(
    make_scene, package, tmp_path, monkeypatch
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    monkeypatch.setattr(geopackage, "_FEATURES_AT_ONCE", 1)
    run(scene, package, tmp_path / "undisturbed", tile_px=64)
    append, appended = geopackage._append, []

    def crash(*arguments, **options):
        if len(appended) == 2:
            raise OSError("power cut")
        appended.append(1)
        append(*arguments, **options)

    monkeypatch.setattr(geopackage, "_append", crash)
    with pytest.raises(OutputError, match="power cut"):
        run(scene, package, out, tile_px=64)
    assert not list(out.glob("*.gpkg"))
    assert not (out / "scene_manifest.json").exists()
    monkeypatch.setattr(geopackage, "_append", append)
    outcome = run(scene, package, out, tile_px=64)
    assert outcome.reused_tiles == 4
    found = pyogrio.read_dataframe(out / "scene.gpkg", layer="landuse")
    assert len(found) == outcome.manifest.polygons == found.region_id.nunique()
    assert found.pixels.sum() == outcome.manifest.counts.valid
    assert (out / "scene.gpkg").read_bytes() == (tmp_path / "undisturbed" / "scene.gpkg").read_bytes()


def test_class_0_is_scored_like_any_other() -> None:
    """`ignore_index=False` compares equal to 0 and leaves class 0 out elsewhere."""
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    scores = Scores.of(confusion(truth, np.array([[0, 1, 1, 0]], np.uint8), 2))
    assert scores.pixels == 3
    assert scores.classes[0].reference_px == 2
    assert scores.classes[0].iou == pytest.approx(1 / 2)
