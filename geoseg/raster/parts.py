"""Parts: the immutable file a tile writes, read back only if it is whole.

A part is one `.npz` without pickled objects. Its members carry CRC-32 sums that numpy checks on reading, and
its folder is named after the job: a part of another model, scene or plan is never taken for one of ours.
Arrays of three dimensions are stored plane by plane, so that one band can be had without the others.
"""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ExecutionError, explain
from geoseg.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.windows import Window

_PLANE = "@"
"""Stands between the name of an array and the number of a plane."""
_DIMENSIONS_OF_PLANES = 3
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
        """Stores the arrays of a tile, whole or not at all.

        What a power cut may leave of it is found by the checksums of its members, and computed anew.
        """
        with replacing(self.path(row, col), durable=False) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **_members(arrays))

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

    def read_plane(self, row: int, col: int, name: str, plane: int) -> NDArray[Any]:
        """One plane (height, width) of a tile's array of three dimensions.

        Raises:
            ExecutionError: the part is missing or damaged.
        """
        member = f"{name}{_PLANE}{plane}"
        return self.read(row, col, member)[member]

    def recall(self, row: int, col: int, core: Window, *names: str) -> dict[str, NDArray[Any]] | None:
        """The named arrays of a part an earlier run left, if every byte of it is whole and of its core."""
        try:
            with self._opened(row, col) as part:
                shape = part["classes"].shape
                if shape != core.shape or not set(names) <= {_name(member) for member in part.files}:
                    return None
                for member in part.files:
                    part[member]  # reading is what checks it; one at a time is all the memory needed
                return {name: _array(part, name) for name in names}
        except _DAMAGE:
            return None

    def _read(self, row: int, col: int, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        with self._opened(row, col) as part:
            return {name: _array(part, name) for name in names or dict.fromkeys(map(_name, part.files))}

    @contextmanager
    def _opened(self, row: int, col: int) -> Iterator[Any]:
        # Opened here, not by numpy: a damaged file must not leave numpy's handle behind.
        with self.path(row, col).open("rb") as file, np.load(file, allow_pickle=False) as part:
            yield part


def _members(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays as they are stored: those of three dimensions as their planes."""
    members: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim == _DIMENSIONS_OF_PLANES:
            members |= {f"{name}{_PLANE}{i}": plane for i, plane in enumerate(array)}
        else:
            members[name] = array
    return members


def _name(member: str) -> str:
    """The array a member belongs to."""
    return member.partition(_PLANE)[0]


def _array(part: Any, name: str) -> NDArray[Any]:
    if name in part.files:
        array: NDArray[Any] = part[name]
        return array
    planes = [member for member in part.files if _name(member) == name]
    if not planes:
        raise KeyError(name)
    return np.stack([part[member] for member in planes])  # stored, and so listed, in order
