"""What was found out about this machine, kept between runs: small JSON files in the user's cache folder.

Only what can be found out again lies here. A file that is damaged, of another key or not readable is as good
as none, and a folder that cannot be written costs time, never a job.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from geoseg.errors import OutputError
from geoseg.files import write_text
from geoseg.manifest import digest

_MAX_BYTES = 1 << 20
"""Of an entry: what is longer is none of ours."""

_log = logging.getLogger(__name__)
_unwritable: set[Path] = set()
"""Folders that could not be written: said once per process."""


def cache_dir() -> Path:
    """Where entries lie: $GEOSEG_CACHE, else $XDG_CACHE_HOME/geoseg, else ~/.cache/geoseg. Makes nothing."""
    own = os.environ.get("GEOSEG_CACHE")
    if own:
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if Path(shared).is_absolute():  # the standard says to ignore others
        return Path(shared) / "geoseg"
    return Path(os.path.expanduser("~")) / ".cache" / "geoseg"  # noqa: PTH111 - Path.home() raises without one


def remember(key: dict[str, Any], value: dict[str, Any]) -> None:
    """Keeps `value`, plain JSON values, for `recall` with an equal key; at worst it is not kept."""
    path = _path(key)
    try:
        write_text(path, json.dumps({"key": key, "value": value}, indent=2, allow_nan=False) + "\n")
    except OutputError as error:
        if path.parent not in _unwritable:
            _unwritable.add(path.parent)
            _log.warning("nothing can be remembered for the next run: %s", error)


def recall(key: dict[str, Any]) -> dict[str, Any] | None:
    """The value last remembered with an equal key; None where there is none that can be read."""
    try:
        with _path(key).open("rb") as file:
            entry = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError):
        return None
    # Through JSON, so that a tuple in the key is the list it has become in the file.
    if not isinstance(entry, dict) or entry.get("key") != json.loads(json.dumps(key)):
        return None
    value = entry.get("value")
    return value if isinstance(value, dict) else None


def _path(key: dict[str, Any]) -> Path:
    return cache_dir() / f"{digest(key)[:32]}.json"
