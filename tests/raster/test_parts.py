from __future__ import annotations

import numpy as np
import pytest

from geoseg.errors import ExecutionError
from geoseg.raster.parts import PartStore
from geoseg.windows import Window


def test_a_part_comes_back_whole_and_damage_is_noticed(tmp_path) -> None:
    store = PartStore(folder=tmp_path / "parts")
    core = Window(0, 0, 40, 30)
    classes = np.random.default_rng(0).integers(0, 9, core.shape, dtype=np.uint8)
    with pytest.raises(ExecutionError, match=r"part cannot be read: .*tile_00001_00002\.npz"):
        store.read(1, 2)
    assert store.recall(1, 2, core, "pixels") is None
    store.write(1, 2, {"classes": classes, "pixels": np.arange(3)})
    recalled = store.recall(1, 2, core, "pixels")
    assert recalled is not None
    assert recalled["pixels"].tolist() == [0, 1, 2]
    assert store.recall(1, 2, Window(0, 0, 30, 40), "pixels") is None  # another tile size
    assert store.recall(1, 2, core, "something else") is None
    assert np.array_equal(store.read(1, 2, "classes")["classes"], classes)
    path = store.path(1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    assert store.recall(1, 2, core, "pixels") is None
    flipped = bytearray(whole)
    flipped[400] ^= 1
    path.write_bytes(bytes(flipped))
    assert store.recall(1, 2, core, "pixels") is None
    with pytest.raises(ExecutionError, match="Bad CRC-32"):
        store.read(1, 2)


def test_one_band_is_had_without_the_others(tmp_path) -> None:
    store = PartStore(folder=tmp_path / "parts")
    values = np.random.default_rng(0).integers(0, 251, (12, 20, 30), dtype=np.uint8)
    store.write(0, 0, {"classes": values[0], "probabilities": values})
    assert np.array_equal(store.read_plane(0, 0, "probabilities", 11), values[11])
    whole = store.read(0, 0)
    assert list(whole) == ["classes", "probabilities"]
    assert np.array_equal(whole["probabilities"], values)  # in order: plane 10 comes after plane 2
    recalled = store.recall(0, 0, Window(5, 5, 20, 30), "probabilities")
    assert recalled is not None
    assert np.array_equal(recalled["probabilities"], values)
    with pytest.raises(ExecutionError, match="part cannot be read"):
        store.read_plane(0, 0, "probabilities", 12)
    with pytest.raises(ExecutionError, match="part cannot be read"):
        store.read(0, 0, "confidence")


def test_damage_in_a_plane_nobody_asked_for_is_noticed_before_a_part_is_used_again(tmp_path) -> None:
    store = PartStore(folder=tmp_path / "parts")
    values = np.zeros((3, 40, 40), np.uint8)
    store.write(0, 0, {"classes": values[0], "probabilities": values})
    content = bytearray(store.path(0, 0).read_bytes())
    content[len(content) // 2] ^= 1
    store.path(0, 0).write_bytes(bytes(content))
    assert store.recall(0, 0, Window(0, 0, 40, 40), "classes") is None
