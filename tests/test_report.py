"""Pictures: what is drawn where, in which colours, and that files appear whole or not at all."""

import sys

import numpy as np
import pytest
from matplotlib.image import imread

from geoseg import report
from geoseg.errors import OutputError, UsageError
from geoseg.legend import Legend, LegendClass
from geoseg.report import NODATA_RGB, EpochPoint, Outline, colorize, draw_curves, draw_map, stretch
from geoseg.windows import Window

LEGEND = Legend(
    classes=(
        LegendClass(id=3, name="water", color="#0000ff"),
        LegendClass(id=7, name="wood", color="#007f00"),
        LegendClass(id=9, name="nowhere", color="#ff00ff"),
    )
)


def _arrays(height=60, width=80):
    rng = np.random.default_rng(0)
    truth = np.full((height, width), 3, np.uint8)
    truth[:, width // 2 :] = 7
    truth[-height // 4 :, : width // 4] = 255
    image = rng.integers(1, 256, (3, height, width)).astype(np.uint8)
    image[:, truth == 255] = 0
    confidence = np.where(truth == 255, 255, 80).astype(np.uint8)
    return {"image": image, "truth": truth, "prediction": truth.copy(), "confidence": confidence}


def _draw(path, **changes):
    given = {**_arrays(), "legend": LEGEND, "title": "A title", "note": "A note", **changes}
    draw_map(path, **given)
    return np.rint(imread(path)[..., :3] * 255).astype(int)


def _count(picture, rgb):
    return int((np.abs(picture - np.array(rgb)).max(axis=-1) <= 1).sum())


def test_stretch_matches_percentiles():
    rng = np.random.default_rng(1)
    bands = rng.normal(1000, 200, (3, 50, 40))
    valid = rng.random((50, 40)) > 0.2
    bands[:, ~valid] = 1e9  # must not be looked at
    got = stretch(bands, valid)
    assert (got[:, ~valid] == 0).all()
    for band, shown in zip(bands, got, strict=True):
        low, high = np.percentile(band[valid], (2, 98))
        want = np.clip((band[valid] - low) / (high - low), 0, 1) * 254 + 1
        assert np.abs(shown[valid] - want).max() <= 0.5 + 1e-9
        assert (shown[valid].min(), shown[valid].max()) == (1, 255)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_stretch_of_one_value_and_of_nothing(dtype):
    flat = np.full((3, 4, 5), 7, dtype)
    assert (stretch(flat, np.ones((4, 5), bool)) == 1).all()
    assert (stretch(flat, np.zeros((4, 5), bool)) == 0).all()


def test_colours_come_from_the_legend():
    classes = np.array([[3, 7], [9, 255]], np.uint8)
    assert colorize(classes, LEGEND).tolist() == [
        [[0, 0, 255], [0, 127, 0]],
        [[255, 0, 255], list(NODATA_RGB)],
    ]


def test_map_has_all_panels_and_true_proportions(tmp_path):
    picture = _draw(tmp_path / "map.png")
    assert picture.shape[1] == 2000
    water, wood, grey = (_count(picture, rgb) for rgb in ((0, 0, 255), (0, 127, 0), NODATA_RGB))
    panel = (2000 - 2 * 28 - 3 * 18) / 4
    area = panel * panel * 60 / 80
    assert wood == pytest.approx(2 * area * 0.5, rel=0.03)  # truth and prediction
    assert water == pytest.approx(2 * area * (0.5 - 1 / 16), rel=0.03)
    assert grey == pytest.approx(4 * area / 16, rel=0.08)  # all four panels
    assert _count(picture, (255, 0, 255)) == 0  # a class that is nowhere is not in the legend


def test_map_without_scene_truth_and_confidence(tmp_path):
    picture = _draw(tmp_path / "map.png", image=None, truth=None, confidence=None)
    rows = picture.shape[0]
    assert picture.shape[1] == 2000
    assert rows > 1200  # one panel is as large as the picture allows
    assert _count(picture, (0, 127, 0)) > 0.3 * rows * 1000


def test_classes_are_not_blended(tmp_path):
    board = np.where(np.indices((40, 40)).sum(axis=0) % 2, 3, 7).astype(np.uint8)
    picture = _draw(tmp_path / "map.png", image=None, truth=None, confidence=None, prediction=board)
    middle = picture[200:900, 700:1300].reshape(-1, 3)
    pure = sum(_count(middle, rgb) for rgb in ((0, 0, 255), (0, 127, 0)))
    assert pure == len(middle)


def test_north_is_up(tmp_path):
    split = np.full((50, 50), 3, np.uint8)
    split[25:] = 7
    picture = _draw(tmp_path / "map.png", image=None, truth=None, confidence=None, prediction=split)
    rows = [
        np.nonzero(np.abs(picture[:, 1000] - rgb).max(axis=-1) <= 1)[0] for rgb in ((0, 0, 255), (0, 127, 0))
    ]
    assert rows[0].max() < rows[1].min()


def test_outlines_are_where_they_belong(tmp_path):
    plain = {"image": None, "truth": None, "confidence": None, "prediction": np.full((100, 100), 7, np.uint8)}
    without = _draw(tmp_path / "a.png", **plain)
    outlines = [Outline(window=Window(20, 10, 50, 60), label="")]
    changed = (_draw(tmp_path / "b.png", **plain, outlines=outlines) != without).any(axis=-1)
    panel = np.nonzero((without[:1590] == (0, 127, 0)).all(axis=-1))  # above the legend
    top, left = panel[0].min(), panel[1].min()
    per_px = (np.unique(panel[0]).size + 2) / 100
    rows, cols = np.nonzero(changed)
    found = (rows.min() - top, rows.max() - top, cols.min() - left, cols.max() - left)
    assert np.allclose(np.array(found) / per_px, (20, 70, 10, 70), atol=1.0)


def test_noise_stays_below_the_size_limit(tmp_path):
    rng = np.random.default_rng(2)
    image = rng.integers(1, 256, (3, 1200, 1200)).astype(np.uint8)
    classes = rng.choice(np.array([3, 7], np.uint8), (1200, 1200))
    _draw(tmp_path / "map.png", image=image, truth=None, confidence=None, prediction=classes)
    assert (tmp_path / "map.png").stat().st_size <= report.MAX_PICTURE_BYTES


@pytest.mark.parametrize("name", ["image", "truth", "confidence"])
def test_refuses_arrays_of_another_size(tmp_path, name):
    other = _arrays(height=30)[name]
    with pytest.raises(UsageError, match=rf"the {name} does not fit.*Expected \(60, 80\).*found \(30, 80\)"):
        _draw(tmp_path / "map.png", **{name: other})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "none").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot be written: .*none.map\.png.*File exists"):
        _draw(tmp_path / "none" / "map.png")


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        draw_curves(path, [EpochPoint(epoch=1, loss=1.0, mean_iou=None)])
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def _colour(picture, rgb):
    return np.nonzero(np.abs(picture - np.array(rgb)).max(axis=-1) <= 12)


def test_curves_go_the_right_way(tmp_path):
    rows = [
        EpochPoint(epoch=i, loss=2.0 - 0.15 * i, mean_iou=0.05 * i if i % 2 else None) for i in range(1, 11)
    ]
    draw_curves(tmp_path / "c.png", rows)
    picture = np.rint(imread(tmp_path / "c.png")[..., :3] * 255).astype(int)[:, 80:820]
    for rgb, falls in (((0xB5, 0x48, 0x2E), True), ((0x2A, 0x6F, 0x97), False)):
        row, col = _colour(picture, rgb)
        assert len(row) > 300
        assert (np.corrcoef(row, col)[0, 1] > 0.9) == falls
        assert (np.corrcoef(row, col)[0, 1] < -0.9) != falls


def test_curves_without_validation_have_no_second_axis(tmp_path):
    draw_curves(tmp_path / "c.png", [EpochPoint(epoch=i, loss=1 / i, mean_iou=None) for i in (1, 2, 3)])
    picture = np.rint(imread(tmp_path / "c.png")[..., :3] * 255).astype(int)
    assert len(_colour(picture, (0x2A, 0x6F, 0x97))[0]) == 0
    assert len(_colour(picture, (0xB5, 0x48, 0x2E))[0]) > 300


def test_curves_need_an_epoch(tmp_path):
    with pytest.raises(UsageError, match="no training curves"):
        draw_curves(tmp_path / "c.png", [])


def test_pictures_leave_no_global_state(tmp_path):
    _draw(tmp_path / "map.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
