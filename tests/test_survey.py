"""Samples: real pixels, on the stride, spread over what has data, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg import survey as survey_module
from geoseg.inference import normalise
from geoseg.legend import Legend, LegendClass
from geoseg.matching import Mapping
from geoseg.package import Architecture, Band, Card
from geoseg.raster.scene import open_scene
from geoseg.survey import Survey, sample_count, sample_patches, sample_shape, spread, survey
from geoseg.tiling import Lattice, TilePlan
from geoseg.windows import Window


@pytest.fixture(scope="module")
def card() -> Card:
    return Card(
        architecture=Architecture(name="unet", encoder="resnet18"),
        bands=(Band(name="b", mean=10, std=4), Band(name="a", mean=0, std=2)),
        dtype="uint16",
        legend=Legend(classes=(LegendClass(id=1, name="x", color="#000000"),)),
        patch_px=64,
        overlap_px=0,
        stride_px=16,
        weights_sha256="0" * 64,
    )


def plan_of(shape: tuple[int, int], patch_px: int = 64, extent: Window | None = None) -> TilePlan:
    lattice = Lattice.of(shape, patch_px=patch_px, overlap_px=0, stride_px=16)
    return TilePlan(lattice=lattice, tile_px=64, extent=extent)


@pytest.fixture
def positions(make_raster):
    """A scene whose bands hold row + 1 and column + 1 of each pixel; 0 is nodata."""

    def make(shape: tuple[int, int], valid: np.ndarray | int = 1):
        values = (np.indices(shape) + 1) * np.asarray(valid)
        path = make_raster(values.astype(np.uint16), nodata=0, descriptions=("a", "b"))
        return open_scene(path)

    return make


def where(batch: np.ndarray, card: Card) -> list[tuple[int, int]]:
    """Row and column of the first pixel of each patch of a scene of positions that has data all over."""
    rows = batch[:, 1] * card.bands[1].std - 1
    cols = batch[:, 0] * card.bands[0].std + card.bands[0].mean - 1
    return [(round(float(r[0, 0])), round(float(c[0, 0]))) for r, c in zip(rows, cols, strict=True)]


def test_a_sample_is_pixels_of_the_scene_on_the_stride_and_spread(positions, card) -> None:
    scene = positions((700, 900))
    sample = sample_patches(scene, card, plan_of((700, 900)), 8)
    batch = sample.pixels
    assert sample.valid.shape == (8, 64, 64)
    assert sample.valid.all()
    assert batch.shape == (8, 2, 64, 64)
    assert batch.dtype == np.float32
    origins = where(batch, card)
    assert len(set(origins)) == 8
    for patch, (row, col) in zip(batch, origins, strict=True):
        assert row % 16 == col % 16 == 0
        values = np.indices((64, 64))[::-1] + np.array([col, row])[:, None, None] + 1
        np.testing.assert_array_equal(patch, normalise(values, np.ones((64, 64), bool), card.bands))
    quadrants = {(row > 350 - 32, col > 450 - 32) for row, col in origins}
    assert len(quadrants) == 4
    np.testing.assert_array_equal(batch, sample_patches(scene, card, plan_of((700, 900)), 8).pixels)


def test_units_are_mapped_as_the_job_maps_them(positions, card) -> None:
    scene = positions((64, 64))
    plain = sample_patches(scene, card, plan_of((64, 64)), 1).pixels
    mapped = sample_patches(scene, card, plan_of((64, 64)), 1, mapping=Mapping(scale=0.5, offset=3)).pixels
    std, mean = (np.array([getattr(b, n) for b in card.bands])[:, None, None] for n in ("std", "mean"))
    np.testing.assert_allclose(mapped, ((plain * std + mean) * 0.5 + 3 - mean) / std, rtol=1e-5)


def test_a_sample_lies_where_the_data_is(positions, card) -> None:
    rows, cols = np.indices((800, 800))
    scene = positions((800, 800), (rows > 500) & (cols < 300))
    sample = sample_patches(scene, card, plan_of((800, 800)), 4)
    assert len(sample.pixels) == 4
    assert (sample.valid.mean(axis=(1, 2)) >= 0.5).all()
    np.testing.assert_array_equal(sample.valid, (sample.pixels != 0).any(axis=1))


def test_what_a_survey_takes_for_data_and_is_none_is_left_out(positions, card, monkeypatch) -> None:
    """A coarse look may be wrong about a place; of those looked for to spare, the best are taken."""
    rows, cols = np.indices((800, 800))
    scene = positions((800, 800), (rows > 300) & (cols < 500))
    everywhere = Survey(share=np.ones((50, 50), np.float32), window=scene.window)
    monkeypatch.setattr(survey_module, "survey", lambda _: everywhere)
    sample = sample_patches(scene, card, plan_of((800, 800)), 4)
    assert len(sample.pixels) == 4
    assert (sample.valid.mean(axis=(1, 2)) >= 0.5).all()
    monkeypatch.setattr(survey_module, "_SPARE", 1)
    fewer = sample_patches(scene, card, plan_of((800, 800)), 4)
    assert 0 < len(fewer.pixels) < 4
    assert fewer.valid.any(axis=(1, 2)).all()


def test_a_sample_lies_in_the_part_that_is_wanted(positions, card) -> None:
    extent = Window(300, 400, 100, 150)
    sample = sample_patches(positions((700, 900)), card, plan_of((700, 900), extent=extent), 4)
    for row, col in where(sample.pixels, card):
        assert extent.intersect(Window(row, col, 64, 64)).size >= 32 * 32


@pytest.mark.parametrize("shape", [(1, 1), (9, 300), (70, 20)])
def test_scenes_smaller_than_a_patch_are_padded_as_in_a_job(positions, card, shape) -> None:
    plan = plan_of(shape)
    sample = sample_patches(positions(shape), card, plan, 4)
    batch = sample.pixels
    height, width = plan.lattice.rows.length, plan.lattice.cols.length
    assert batch.shape[1:] == (2, height, width)
    assert 1 <= len(batch) <= 4
    assert not batch[:, :, shape[0] :].any()
    assert not batch[:, :, :, shape[1] :].any()
    np.testing.assert_array_equal(sample.valid, (batch != 0).any(axis=1))


def test_a_scene_without_data_gives_an_empty_sample(positions, card) -> None:
    sample = sample_patches(positions((200, 200), valid=0), card, plan_of((200, 200)), 4)
    assert sample.pixels.shape == (0, 2, 64, 64)
    assert sample.valid.shape == (0, 64, 64)


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_the_sample_keeps_all_cores_busy_and_is_about_a_megapixel(cores) -> None:
    count = sample_count(cores)
    assert count % cores == 0
    assert count >= 4
    side, other = sample_shape(plan_of((9000, 9000), patch_px=2048), count)
    assert side == other
    assert side % 16 == 0
    assert side >= 256
    assert count * side**2 <= max(1 << 20, count * 256**2)
    assert sample_shape(plan_of((9000, 9000), patch_px=64), count) == (64, 64)


def test_what_is_too_large_to_skim_is_probed(positions, monkeypatch) -> None:
    scene = positions((1200, 1500), np.arange(1200)[:, None] < 600)
    skimmed = survey(scene)
    assert skimmed.share.shape == (410, 512)
    monkeypatch.setattr(survey_module, "_SMALL_PX", 1000)
    probed = survey(scene)
    assert probed.share.shape == (12, 12)
    for found in (skimmed, probed):
        assert found.within(scene.window) == pytest.approx(0.5, abs=0.01)
        assert found.within(Window(0, 0, 500, 1500)) == 1
        assert found.within(Window(700, 20, 500, 1)) == 0


def test_of_many_places_those_with_data_come_first() -> None:
    share = np.zeros((40, 40), np.float32)
    share[:4, :4] = 1
    share[30:, 30:] = 0.1
    found = Survey(share=share, window=Window(0, 0, 400, 400))
    places = spread(
        found,
        6,
        wanted=found.window,
        place=lambda row, col: (int(row) // 20, int(col) // 20),
        extent=lambda p: Window(20 * p[0], 20 * p[1], 20, 20),
    )
    assert len(set(places)) == 6
    assert set(places[:4]) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(row >= 15 and col >= 15 for row, col in places[4:])
