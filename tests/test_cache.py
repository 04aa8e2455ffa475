"""The cache: what is remembered comes back, and nothing that lies in its folder can hurt."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from geoseg.cache import cache_dir, recall, remember

KEY = {"about": "runtime", "cores": 2, "shape": (3, 4)}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_is_the_first_that_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("GEOSEG_CACHE", "")
    assert cache_dir() == tmp_path / "xdg" / "geoseg"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_dir() == tmp_path / "home" / ".cache" / "geoseg"
    assert not list(tmp_path.iterdir()), "asking makes no folder"


def test_what_is_remembered_comes_back_for_an_equal_key_only(folder) -> None:
    assert recall(KEY) is None
    remember(KEY, {"name": "torch", "rates": [1.5, None]})
    remember({**KEY, "cores": 3}, {"name": "other"})
    assert recall(dict(reversed(KEY.items()))) == {"name": "torch", "rates": [1.5, None]}
    assert recall({**KEY, "cores": 4}) is None
    remember(KEY, {"name": "newer"})
    assert recall(KEY) == {"name": "newer"}
    assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".json"], "no temporary file is left"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[1, 2]",
        b"{}",
        b'{"key": 1, "value": {}}',
        b'{"key": ',
        json.dumps({"key": {**KEY, "cores": 9}, "value": {"name": "foreign"}}).encode(),
        json.dumps({"key": KEY, "value": "no dict"}).encode(),
    ],
)
def test_a_damaged_or_foreign_entry_is_as_good_as_none(folder, content) -> None:
    remember(KEY, {"name": "torch"})
    [path] = folder.iterdir()
    path.write_bytes(content)
    assert recall(KEY) is None
    remember(KEY, {"name": "again"})
    assert recall(KEY) == {"name": "again"}


def test_a_folder_that_cannot_be_written_is_told_once_and_harms_nobody(tmp_path, monkeypatch, caplog) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("GEOSEG_CACHE", str(blocked / "cache"))
    with caplog.at_level(logging.DEBUG, "geoseg.cache"):
        remember(KEY, {"name": "torch"})
        remember(KEY, {"name": "torch"})
    assert recall(KEY) is None
    assert len(caplog.records) == 1
    assert str(blocked) in caplog.text


def test_an_entry_that_is_a_folder_harms_nobody(folder, caplog) -> None:
    remember(KEY, {"name": "torch"})
    [path] = folder.iterdir()
    path.unlink()
    path.mkdir()
    remember(KEY, {"name": "torch"})
    assert recall(KEY) is None
