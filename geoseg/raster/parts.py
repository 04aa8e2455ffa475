"""Parts: the immutable file a tile writes, read back only if it is whole.

A part is one `.npz` without pickled objects. Its members carry CRC-32 sums that numpy checks on reading, and
its folder is named after the job: a part of another model, scene or plan is never taken for one of ours.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ExecutionError, explain
from geoseg.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.windows import Window

_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a missing, cut off or altered .npz raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStore:
    """The parts of one job, in a folder that all workers can reach."""

    folder: Path
    """Belongs to one job alone."""

    def path(self, row: int, col: int) -> Path:
        """Where the part of tile (`row`, `col`) is or will be."""
        return self.folder / f"tile_{row:05d}_{col:05d}.npz"

    def write(self, row: int, col: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Stores the arrays of a tile, whole or not at all."""
        with replacing(self.path(row, col)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def read(self, row: int, col: int, *names: str) -> dict[str, NDArray[Any]]:
        """The named arrays of a tile, or all of them.

        Raises:
            ExecutionError: the part is missing or damaged.
        """
        try:
            return self._read(row, col, names)
        except _DAMAGE as error:
            raise ExecutionError(
                explain(
                    "a tile's part cannot be read",
                    at=self.path(row, col),
                    expected="the part this job has written",
                    found=f"{type(error).__name__}: {error}",
                    change="Run the same command again: the tile is computed anew.",
                )
            ) from error

    def recall(self, row: int, col: int, core: Window, *names: str) -> dict[str, NDArray[Any]] | None:
        """The named arrays of a part an earlier run left, if every byte of it is whole and of its core."""
        try:
            arrays = self._read(row, col, ())
        except _DAMAGE:
            return None
        if arrays["classes"].shape != core.shape or not set(names) <= set(arrays):
            return None
        return {name: arrays[name] for name in names}

    def _read(self, row: int, col: int, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        # Opened here, not by numpy: a damaged file must not leave numpy's handle behind.
        with self.path(row, col).open("rb") as file, np.load(file, allow_pickle=False) as part:
            return {name: part[name] for name in names or part.files}
