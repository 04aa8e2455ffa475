from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoseg.data
from geoseg.config import LabelSource, SceneLabels, TrainConfig
from geoseg.data import (
    Area,
    Crop,
    Draw,
    Survey,
    blocks,
    draw,
    hold,
    open_areas,
    read_crop,
    read_padded,
    require_apart,
    survey,
    vary,
)
from geoseg.errors import LabelError, SceneError, UsageError
from geoseg.legend import IGNORE_INDEX
from geoseg.windows import Window

X = IGNORE_INDEX
SHAPE = (70, 90)
WINDOW = (5, 10, 60, 75)


@pytest.fixture
def values() -> np.ndarray:
    """Two bands in which every pixel knows its own row and column."""
    rows, cols = np.indices(SHAPE)
    return np.stack([rows * 100 + cols, cols * 100 + rows]).astype(np.uint16)


@pytest.fixture
def ids() -> np.ndarray:
    """Mostly unlabelled; much water (0), little forest (7), one pixel of field (3)."""
    ids = np.full(SHAPE, 255, np.uint8)
    ids[6:40, 12:60] = 0
    ids[50:54, 70:74] = 7
    ids[60, 80] = 3
    return ids


@pytest.fixture
def make_areas(make_raster, legend):
    """Opens scenes written from (values, ids) pairs, all with the same further settings."""

    def make(*pairs, bands=("a", "b"), window=WINDOW, **entry: object) -> tuple[Area, ...]:
        entries = []
        for i, (values, ids) in enumerate(pairs):
            image = make_raster(values, name=f"scene{i}.tif", descriptions=("a", "b"), nodata=0)
            labels = make_raster(ids, name=f"labels{i}.tif")
            source = LabelSource(path=labels.name)
            entries.append(SceneLabels(image=image.name, labels=source, window=window, **entry))
        config = TrainConfig(legend=legend, bands=bands, scenes=tuple(entries))
        return open_areas(config.scenes, config=config, data_root=image.parent)

    return make


@pytest.fixture
def areas(make_areas, values, ids) -> tuple[Area, ...]:
    return make_areas((values, ids), (values[:, ::-1].copy(), ids[::-1].copy()), window=None)


def drawn(found: Survey, areas, index: int, **changes: object) -> Draw:
    arguments = {"patch_px": 16, "seed": 0, "epoch": 0, "balanced": 0.5, "augment": True, "jitter": 0.1}
    return draw(found, areas, index=index, **{**arguments, **changes})


def same(a: Draw, b: Draw) -> bool:
    pairs = zip(asdict(a).values(), asdict(b).values(), strict=True)
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


# Surveys


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("block_px", [7, 32, 1000])
def test_a_survey_against_the_whole_arrays(areas, values, ids, in_memory: bool, block_px: int) -> None:
    found = survey(areas, hold(areas) if in_memory else None, classes=3, seed=3, block_px=block_px)
    both = np.concatenate([values.reshape(2, -1)] * 2, axis=1)
    good = both[:, (both != 0).all(axis=0)].astype(float)
    assert found.mean == pytest.approx(good.mean(axis=1), rel=1e-12)
    assert found.std == pytest.approx(good.std(axis=1), rel=1e-12)
    assert found.class_px.tolist() == [2 * 34 * 48, 2 * 16, 2]
    for index, id_ in enumerate([0, 7, 3]):
        expected = {(a, r, c) for a in (0, 1) for r, c in np.argwhere((ids, ids[::-1])[a] == id_).tolist()}
        assert set(map(tuple, found.pixels[index].tolist())) == expected


def test_the_sample_is_bounded_and_blind_to_blocks_and_memory(areas, monkeypatch) -> None:
    monkeypatch.setattr(geoseg.data, "PIXELS_PER_CLASS", 100)
    held = hold(areas)
    first, *others = [
        survey(areas, h, classes=3, seed=5, block_px=b) for h, b in ((held, 9), (held, 64), (None, 40))
    ]
    assert [len(p) for p in first.pixels] == [100, 32, 2]
    assert all((a == b).all() for other in others for a, b in zip(first.pixels, other.pixels, strict=True))
    # Uniform: both scenes and all four quarters of the field get their share of the 100 (within 4 sigma).
    area, row, col = first.pixels[0].T
    upper = np.where(area == 0, row, 69 - row) < 23
    for part in (area == 0, upper, col < 36):
        assert abs(part.sum() - 50) < 20
    assert not np.array_equal(first.pixels[0], survey(areas, held, classes=3, seed=6).pixels[0])


def test_moments_do_not_cancel(make_areas, ids) -> None:
    rng = np.random.default_rng(0)
    values = (1e6 + rng.normal(0, 0.5, (2, *SHAPE))).astype(np.float64)
    areas = make_areas((values, ids), window=None)
    found = survey(areas, None, classes=3, seed=0, block_px=8)
    assert found.std == pytest.approx(values.reshape(2, -1).std(axis=1), rel=1e-6)


def test_unlabelled_blocks_of_huge_scenes_are_sampled_not_read(make_areas, values, ids, monkeypatch) -> None:
    areas = make_areas((values, ids), window=None)
    reads: list[Window] = []
    read = geoseg.data.read_crop
    monkeypatch.setattr(geoseg.data, "SAMPLED_BLOCKS", 4)
    monkeypatch.setattr(geoseg.data, "read_crop", lambda a, w: reads.append(w) or read(a, w))
    found = survey(areas, None, classes=3, seed=0, block_px=10)
    every = list(blocks(areas[0].window, 10))
    measured = every[:: -(-len(every) // 4)]
    labelled = [w for w in every if (ids[w.slices()] != 255).any()]
    assert set(reads) == {*measured, *labelled}
    assert len(reads) < len(every)
    assert found.class_px.tolist() == [34 * 48, 16, 1]
    pixels = np.concatenate([values[(slice(None), *w.slices())].reshape(2, -1) for w in measured], axis=1)
    assert found.mean == pytest.approx(pixels[:, (pixels != 0).all(axis=0)].mean(axis=1))


def test_labels_where_the_scene_has_no_data_do_not_count(make_areas, values, ids) -> None:
    values[1, 50:54, 70:74] = 0
    found = survey(make_areas((values, ids)), None, classes=3, seed=0)
    assert found.class_px.tolist()[1:] == [0, 1]


def test_nothing_to_learn_from(make_areas, values) -> None:
    areas = make_areas((values, np.full(SHAPE, 255, np.uint8)))
    with pytest.raises(LabelError, match="there is nothing to learn from: scene0"):
        survey(areas, None, classes=3, seed=0)


def test_a_band_of_one_value_cannot_be_normalised(make_areas, values, ids) -> None:
    values[1] = 9
    with pytest.raises(SceneError, match="one value only in b"):
        survey(make_areas((values, ids)), None, classes=3, seed=0)


# Draws


def test_a_draw_depends_on_seed_epoch_and_index_alone(areas) -> None:
    found = survey(areas, None, classes=3, seed=0)
    in_order = [drawn(found, areas, i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        shuffled = list(pool.map(lambda i: drawn(found, areas, i), reversed(range(40))))
    assert all(same(a, b) for a, b in zip(in_order, reversed(shuffled), strict=True))
    for change in ({"seed": 1}, {"epoch": 1}):
        others = [drawn(found, areas, i, **change) for i in range(40)]
        assert sum(same(a, b) for a, b in zip(in_order, others, strict=True)) == 0


@pytest.mark.parametrize("patch_px", [1, 16, 60, 64, 100])
def test_every_window_holds_a_label_and_stays_inside(make_areas, values, ids, patch_px: int) -> None:
    areas = make_areas((values, ids))
    found = survey(areas, None, classes=3, seed=0)
    for i in range(60):
        window = drawn(found, areas, i, patch_px=patch_px).window
        assert window.shape == (patch_px, patch_px)
        crop = read_padded(areas[0], None, window)
        assert (crop.target != X).any()
        inside = areas[0].window.intersect(window)
        assert inside.shape == (min(patch_px, 60), min(patch_px, 75))


def test_windows_reach_every_place_around_their_pixel(make_areas, values) -> None:
    ids = np.full(SHAPE, 255, np.uint8)
    ids[35, 45] = 7
    areas = make_areas((values, ids), window=None)
    found = survey(areas, None, classes=3, seed=0)
    windows = {drawn(found, areas, i, patch_px=4).window for i in range(300)}
    assert windows == {Window(r, c, 4, 4) for r in range(32, 36) for c in range(42, 46)}


@pytest.mark.parametrize(
    ("balanced", "expected"), [(1.0, (1 / 3, 1 / 3, 1 / 3)), (0.0, (1632 / 1649, 16 / 1649, 1 / 1649))]
)
def test_classes_are_drawn_by_share_or_all_alike(make_areas, values, ids, balanced, expected) -> None:
    areas = make_areas((values, ids), window=None)
    found = survey(areas, None, classes=3, seed=0)
    n = 600
    targets = [ids[drawn(found, areas, i, patch_px=1, balanced=balanced).window.slices()] for i in range(n)]
    counts = np.bincount(np.concatenate(targets).ravel(), minlength=256)[[0, 7, 3]]
    for count, share in zip(counts, expected, strict=True):
        assert abs(count - n * share) <= 1 + 4 * np.sqrt(n * share * (1 - share))


def test_without_augmentation_windows_come_as_they_are(areas) -> None:
    found = survey(areas, None, classes=3, seed=0)
    for i in range(20):
        how = drawn(found, areas, i, augment=False)
        assert (how.turns, how.flip) == (0, False)
        assert (how.gain == 1).all()
        assert (how.offset == 0).all()


# Reading


def test_padding_and_memory_do_not_change_pixels(make_areas, values, ids) -> None:
    values[0, 20:30, 20:30] = 0
    (area,) = make_areas((values, ids))
    held = read_crop(area, area.window)
    index = {0: 0, 7: 1, 3: 2, 255: X}

    @settings(deadline=None, max_examples=30)
    @given(st.integers(-20, 60), st.integers(-20, 80), st.integers(1, 90))
    def check(row: int, col: int, side: int) -> None:
        window = Window(row, col, side, side)
        if not window.intersect(area.window).size:
            return
        for crop in (read_padded(area, None, window), read_padded(area, held, window)):
            for r, c in ((0, 0), (side // 2, side // 3), (side - 1, side - 1)):
                y, x = row + r, col + c
                if not area.window.contains(Window(y, x, 1, 1)) or not values[:, y, x].all():
                    assert not crop.valid[r, c]
                    assert crop.target[r, c] == X
                    continue
                assert crop.valid[r, c]
                assert (crop.values[:, r, c] == values[:, y, x]).all()
                assert crop.target[r, c] == index[ids[y, x]]

    check()


def test_only_what_fits_is_held(areas) -> None:
    size = sum(a.decoded_bytes for a in areas)
    assert size == 2 * 70 * 90 * (2 * 2 + 2)
    held = hold(areas, limit_bytes=size)
    assert sum(c.values.nbytes + c.valid.nbytes + c.target.nbytes for c in held) == size
    assert hold(areas, limit_bytes=size - 1) is None


# Variation


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_and_targets_move_together(turns: int, flip: bool) -> None:
    target = np.arange(12, dtype=np.uint8).reshape(3, 4)
    valid = target != 5
    crop = Crop(values=np.stack([target, target + 100]), valid=valid, target=target)
    pixels = crop.values.astype(np.float32) * valid
    how = Draw(
        area=0,
        window=Window(0, 0, 3, 4),
        turns=turns,
        flip=flip,
        gain=np.array([2, 1], np.float32),
        offset=np.array([1, -3], np.float32),
    )
    moved, to = vary(pixels, crop, how)
    assert moved.flags.c_contiguous
    assert to.shape == ((3, 4) if turns % 2 == 0 else (4, 3))
    for r, c in np.ndindex(to.shape):
        expected = [2 * to[r, c] + 1, to[r, c] + 97] if to[r, c] != 5 else [0, 0]
        assert moved[:, r, c].tolist() == expected


def test_the_eight_variations_are_all_drawn_and_all_different(areas) -> None:
    found = survey(areas, None, classes=3, seed=0)
    target = np.arange(9, dtype=np.uint8).reshape(3, 3)
    crop = Crop(values=target[None], valid=np.ones((3, 3), bool), target=target)
    results = {
        vary(np.zeros((2, 3, 3), np.float32), crop, drawn(found, areas, i))[1].tobytes() for i in range(99)
    }
    assert len(results) == 8


# Opening


def test_bands_are_taken_in_the_networks_order(make_areas, values, ids) -> None:
    (area,) = make_areas((values, ids), bands=("b", "a"))
    assert (read_crop(area, Window(9, 9, 5, 5)).values == values[::-1, 9:14, 9:14]).all()


def test_scenes_of_different_type_are_refused(make_areas, values, ids) -> None:
    with pytest.raises(
        SceneError, match=r"differ in data type: scene1. Expected uint16, as scene0; found int32"
    ):
        make_areas((values, ids), (values.astype(np.int32), ids))


def test_a_window_outside_the_scene_is_refused(make_areas, values, ids) -> None:
    with pytest.raises(UsageError, match=r"not inside the scene: scene0.*rows 5:95"):
        make_areas((values, ids), window=(5, 10, 90, 75))


def test_validation_must_not_touch_training(make_areas, values, ids) -> None:
    whole, left, right = (
        make_areas((values, ids), window=w) for w in (None, (0, 0, 70, 45), (0, 45, 70, 45))
    )
    require_apart(left, right)
    require_apart(whole, make_areas((values, ids), (values, ids), window=None)[1:])
    with pytest.raises(
        UsageError, match=r"validation overlaps training: scene0.*columns 45:90.*columns 0:90"
    ):
        require_apart(whole, right)


def test_band_files_and_urls(make_raster, legend, values, ids) -> None:
    red, nir = make_raster(values[0], name="r.tif"), make_raster(values[1], name="n.tif")
    labels = make_raster(ids, name="labels.tif")
    entry = SceneLabels(files={"a": red.name, "b": str(nir)}, labels=LabelSource(path=labels.name))
    config = TrainConfig(legend=legend, bands=("b", "a"), scenes=(entry,))
    (area,) = open_areas(config.scenes, config=config, data_root=red.parent)
    assert area.scene.name == "r"
    assert (read_crop(area, area.window).values == values[::-1]).all()
    assert geoseg.data.resolve("https://a.org/x.tif", Path("/d")) == "https://a.org/x.tif"
    assert geoseg.data.resolve("/vsizip/x.zip/x.tif", Path("/d")) == "/vsizip/x.zip/x.tif"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_blocks_partition_a_window(height: int, width: int, side: int) -> None:
    window = Window(3, -2, height, width)
    seen = np.zeros((height, width), int)
    for block in blocks(window, side):
        assert max(block.shape) <= side
        seen[block.slices(origin=window)] += 1
    assert (seen == 1).all()
