"""Folders in which jobs keep their parts: who is at work in them, and what becomes of those nobody needs.

They lie beside the product, hidden, named after it and what it is made from and how: parts of one job are
never taken for those of another.
"""

from __future__ import annotations

import glob
import logging
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from geoseg.files import claimed, unclaimed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ID = 16
"""Characters of a job's id in the name of its folder."""
_CLAIM = "claim"
"""A file in that folder, locked by the process that runs the job."""
_QUIET_SECONDS = 7 * 24 * 3600
"""Where nothing has changed for so long nobody is at work, whether or not locks can be seen."""

PARTS = "parts"
"""Where in the folder the first pass of a job leaves its parts."""

_log = logging.getLogger(__name__)


def scratch_of(folder: Path, stem: str, job: str) -> Path:
    """The folder of the job with that id whose product is called `stem`."""
    return folder / f".{stem}-{job[:_ID]}.work"


@contextmanager
def at_work(scratch: Path) -> Iterator[None]:
    """While the block runs, nobody takes the folder for abandoned; without parts, it goes afterwards."""
    with claimed(scratch / _CLAIM):
        try:
            yield
        finally:
            if not (scratch / PARTS).exists():
                forget(scratch)


def forget(scratch: Path) -> None:
    """Removes the folder."""
    shutil.rmtree(scratch, ignore_errors=True)


def forget_abandoned(folder: Path, stem: str) -> None:
    """Removes what interrupted runs of other jobs have left under a name, unless it may be in use."""
    for scratch in folder.glob(f".{glob.escape(stem)}-{'[0-9a-f]' * _ID}.work"):
        # Alone while it goes: a run that begins now waits, and then makes the folder anew.
        with unclaimed(scratch / _CLAIM) as free:
            if free or (free is None and _is_quiet(scratch)):
                forget(scratch)
                _log.info("removed what an interrupted run of another job had left: %s", scratch)


def _is_quiet(folder: Path) -> bool:
    """True where nothing in the folder has changed for long."""
    try:
        last = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # it is changing now
        return False
    return time.time() - last > _QUIET_SECONDS
