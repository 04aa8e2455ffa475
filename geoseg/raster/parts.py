"""Parts: the immutable file a tile writes, read back only if it is whole.

A part is one `.npz` without pickled objects. Its members carry CRC-32 sums that numpy checks on reading, and
its folder is named after the job: a part of another model, scene or plan is never taken for one of ours.
"""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.raster.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.windows import Window


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

    @contextmanager
    def opened(self, row: int, col: int) -> Iterator[Mapping[str, NDArray[Any]]]:
        """The arrays of a tile by name, each read when it is asked for.

        Raises:
            OSError, ValueError, zipfile.BadZipFile: the part is missing or damaged.
        """
        # Opened here, not by numpy: a damaged file must not leave numpy's handle behind.
        with self.path(row, col).open("rb") as file, np.load(file, allow_pickle=False) as part:
            yield part

    def is_whole(self, row: int, col: int, core: Window) -> bool:
        """True when the tile's part exists, every byte matches its sum, and it is of the shape of `core`."""
        try:
            with self.opened(row, col) as part:
                shapes = {name: part[name].shape for name in part}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        return shapes.get("classes") == core.shape
