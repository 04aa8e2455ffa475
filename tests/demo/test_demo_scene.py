"""The synthetic scene: deterministic, complete, georeferenced, and hard enough to need context."""

import numpy as np
import pytest
import rasterio

from geoseg.demo.landscape import HIGHWAY, plan
from geoseg.demo.noise import Rows, fractal, mix, nodes, refine, unit
from geoseg.demo.painter import cover, paint_rows
from geoseg.demo.scene import IMAGE_NODATA, SCALE, render, write_scene
from geoseg.demo.spectra import BANDS, BARE, CLASS_OF, FOREST, GRASSLAND, LEGEND, ROAD, SURFACES, WATER
from geoseg.errors import UsageError
from geoseg.windows import Window


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    scene = write_scene(tmp_path_factory.mktemp("demo"), size=512, seed=0)
    with rasterio.open(scene.image) as image, rasterio.open(scene.truth) as truth:
        return scene, image.read(), truth.read(1)


@pytest.fixture(scope="module")
def large():
    return render(1024, 0)


def test_files_say_what_they_are(written):
    scene, _, _ = written
    with rasterio.open(scene.image) as image, rasterio.open(scene.truth) as truth:
        assert image.descriptions == BANDS
        assert image.dtypes == ("uint16",) * 6
        assert (image.nodata, truth.nodata) == (IMAGE_NODATA, LEGEND.nodata)
        assert truth.dtypes == ("uint8",)
        assert image.crs == truth.crs
        assert image.crs.is_projected
        assert image.res == (10, 10)
        assert image.transform == truth.transform
        for data in (image, truth):
            assert data.profile["tiled"]
            assert data.compression.name == "deflate"
    assert sorted(p.name for p in scene.image.parent.iterdir()) == ["scene.tif", "truth.tif"]


def test_same_seed_same_bytes(written, tmp_path):
    scene, _, _ = written
    again = write_scene(tmp_path, size=512, seed=0)
    assert again.image.read_bytes() == scene.image.read_bytes()
    assert again.truth.read_bytes() == scene.truth.read_bytes()


def test_other_seed_other_landscape(written):
    _, image, truth = written
    other_truth, other_image = render(512, 1)
    assert (other_truth != truth).mean() > 0.3
    assert (other_image != image).mean() > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [512, 700])
def test_every_class_in_both_parts(tmp_path, size, seed):
    scene = write_scene(tmp_path, size=size, seed=seed)
    with rasterio.open(scene.truth) as data:
        truth = data.read(1)
    for part in (scene.train, scene.held_out):
        share = np.bincount(truth[part.slices()].ravel(), minlength=256) / part.size
        assert (share[LEGEND.ids] > 2e-4).all(), dict(zip(LEGEND.names, share[LEGEND.ids], strict=True))


@pytest.mark.parametrize("size", [256, 512, 700, 4096])
def test_parts_lie_apart(size, tmp_path, monkeypatch):
    blank = np.zeros((size, size), np.uint8), np.zeros((6, size, size), np.uint16)
    monkeypatch.setattr("geoseg.demo.scene.render", lambda *_: blank)
    monkeypatch.setattr("geoseg.demo.scene._write", lambda *_, **__: None)
    scene = write_scene(tmp_path, size=size)
    whole = Window(0, 0, size, size)
    assert whole.contains(scene.train)
    assert whole.contains(scene.held_out)
    assert scene.held_out.col - scene.train.stop_col >= size // 16 - 32 + 1
    assert scene.held_out.col > scene.train.stop_col
    assert scene.train.size + scene.held_out.size > 0.85 * size * size


def test_nodata_is_one_slanted_corner(written):
    scene, image, truth = written
    outside = truth == LEGEND.nodata
    assert ((image == IMAGE_NODATA).all(axis=0) == outside).all()
    assert ((image == IMAGE_NODATA).any(axis=0) == outside).all()
    assert 0.01 < outside.mean() < 0.10
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), 512)
    assert (np.diff(first) <= 0).all()
    assert first[0] == 512
    assert first[-1] < 470
    assert not outside[scene.train.slices()].any()


def test_truth_holds_only_classes_of_the_legend(written):
    _, _, truth = written
    assert LEGEND.unknown(truth) == []


def test_spectra_look_like_their_classes(large):
    truth, image = large
    mean = {c.id: image[:, truth == c.id].mean(axis=1) / SCALE for c in LEGEND.classes}
    blue, green, red, nir, swir1, swir2 = range(6)
    assert mean[WATER][nir] < mean[WATER][green]
    assert mean[WATER][swir2] < 0.06
    ndvi = {k: (m[nir] - m[red]) / (m[nir] + m[red]) for k, m in mean.items()}
    assert ndvi[FOREST] > 0.7
    assert ndvi[GRASSLAND] > 0.6
    assert ndvi[ROAD] < 0.35
    assert ndvi[BARE] < 0.25
    assert ndvi[WATER] < 0.2
    assert mean[GRASSLAND][nir] > mean[FOREST][nir] + 0.04
    assert mean[BARE][swir1] > mean[BARE][red] > mean[BARE][blue]
    assert image[:, truth != LEGEND.nodata].max() < 1.2 * SCALE


def _nearest_mean(truth, image, train, judge):
    known = truth[judge] != LEGEND.nodata
    flat = image[(slice(None), *train)].reshape(6, -1).astype(np.float32)
    scale = flat.std(axis=1, keepdims=True)
    labels = truth[train].ravel()
    means = np.stack([(flat / scale)[:, labels == k].mean(axis=1) for k in LEGEND.ids])
    asked = image[(slice(None), *judge)][:, known] / scale
    distance = np.stack([((asked - m[:, None]) ** 2).sum(axis=0) for m in means])
    return (LEGEND.ids[distance.argmin(axis=0)] == truth[judge][known]).mean()


def test_one_pixel_alone_is_not_enough_but_helps(large):
    accuracy = _nearest_mean(*large, (slice(None), slice(0, 576)), (slice(None), slice(640, 1024)))
    assert 0.65 < accuracy < 0.90


def test_roads_form_lines_two_to_four_pixels_wide():
    land = plan(512, np.random.default_rng(3))
    road = land.lines == HIGHWAY
    assert 0.003 < road.mean() < 0.06
    inner = road.copy()
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            inner &= np.roll(road, shift, axis)
    assert inner.sum() < 0.25 * road.sum()  # 5 pixels of road both ways: crossings only


@pytest.mark.parametrize("cut", [1, 100, 256])
def test_cover_does_not_depend_on_the_rows_asked_for(cut):
    rng = np.random.default_rng(5)
    ground = cover(plan(300, rng), rng)
    whole = paint_rows(ground, Rows(start=0, stop=300, size=300))
    parts = [paint_rows(ground, Rows(start=a, stop=b, size=300)) for a, b in ((0, cut), (cut, 300))]
    for name in ("code", "patch", "fine", "furrow"):
        joined = np.concatenate([getattr(p, name) for p in parts])
        assert np.array_equal(joined, getattr(whole, name)), name


def test_refine_is_bilinear():
    field = np.random.default_rng(0).standard_normal((nodes(37), nodes(37))).astype(np.float32)
    got = refine(field, Rows(start=5, stop=30, size=37))
    row, col = np.mgrid[5:30, 0:37] / 4
    top, left = np.floor(row).astype(int), np.floor(col).astype(int)
    down, right = row - top, col - left
    want = (
        field[top, left] * (1 - down) * (1 - right)
        + field[top, left + 1] * (1 - down) * right
        + field[top + 1, left] * down * (1 - right)
        + field[top + 1, left + 1] * down * right
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_fractal_has_no_mean_and_unit_variance():
    field = fractal(np.random.default_rng(1), 120, [40, 20, 10, 5])
    assert abs(field.mean()) < 1e-4
    assert abs(field.std() - 1) < 1e-3
    assert np.abs(np.diff(field, axis=0)).max() < 1.0


def test_hash_is_even_and_its_parts_independent():
    number = mix(np.arange(50_000, dtype=np.int32), 7)
    parts = np.stack([unit(number, shift) for shift in (0, 10, 20)])
    for part in parts:
        assert np.abs(np.histogram(part, 20, (0, 1))[0] / 50_000 - 0.05).max() < 0.005
    assert np.abs(np.corrcoef(parts) - np.eye(3)).max() < 0.02
    assert (mix(np.arange(100, dtype=np.int32), 8) != number[:100]).all()


def test_every_surface_belongs_to_a_class_and_is_possible():
    assert set(CLASS_OF) == set(LEGEND.ids)
    for surface in SURFACES.values():
        assert all(0 < v < 0.7 for v in (*surface.a, *surface.b))
        assert 0 <= surface.share <= 1


@pytest.mark.parametrize("size", [255, 10_000])
def test_refuses_sizes_it_cannot_make(size, tmp_path):
    with pytest.raises(UsageError, match=rf"256 to 8192 pixels; found {size}"):
        write_scene(tmp_path / "never", size=size)
    assert not (tmp_path / "never").exists()


def test_smallest_scene(tmp_path):
    scene = write_scene(tmp_path, size=256, seed=4)
    assert scene.train.shape == (256, 128)
    assert scene.held_out.shape == (256, 96)
    with rasterio.open(scene.image) as data:
        assert data.shape == (256, 256)
