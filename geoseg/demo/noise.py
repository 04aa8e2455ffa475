"""Smooth random fields and hashes: the raw material of the demo landscape.

Coarse fields have a node every STEP pixels, the first one on pixel 0, and one or two nodes past the last
pixel, so that `refine` can interpolate any run of rows without looking at the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STEP = 4
"""Pixels between nodes of a coarse field."""


def nodes(size: int, step: int = STEP) -> int:
    """Number of nodes along one side of a coarse field for `size` pixels."""
    return size // step + 2


def _cubic(count: int, wavelength: float) -> NDArray[np.float32]:
    """Weights (count, knots) that spread random knots, `wavelength` nodes apart, over `count` nodes."""
    at = np.arange(count) / wavelength
    knots = int(at[-1]) + 4
    distance = np.abs(at[:, None] + 1 - np.arange(knots)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def smooth(rng: np.random.Generator, count: int, wavelength: float) -> NDArray[np.float32]:
    """A (count, count) field of zero mean and unit variance that varies over about `wavelength` nodes."""
    weights = _cubic(count, max(1.0, wavelength))
    knots = rng.standard_normal((weights.shape[1],) * 2, dtype=np.float32)
    field = weights @ knots @ weights.T
    return standardise(field.astype(np.float32))


def standardise(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """`field` shifted and scaled to zero mean and unit variance."""
    centred = field - field.mean(dtype=np.float64).astype(np.float32)
    return np.asarray(centred / np.float32(max(1e-6, float(centred.std()))), np.float32)


def fractal(rng: np.random.Generator, count: int, wavelengths: Sequence[float]) -> NDArray[np.float32]:
    """A sum of smooth fields whose weight falls with their wavelength (nodes), of unit variance."""
    total = np.zeros((count, count), np.float32)
    for wavelength in wavelengths:
        total += smooth(rng, count, wavelength) * np.float32((wavelength / wavelengths[0]) ** 0.9)
    return standardise(total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A run of full-width pixel rows, [start, stop), of a scene with `size` columns."""

    start: int
    """First row."""
    stop: int
    """First row below."""
    size: int
    """Pixels per row."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.stop - self.start, self.size

    @property
    def row(self) -> NDArray[np.float32]:
        """Row numbers as a column vector."""
        return np.arange(self.start, self.stop, dtype=np.float32)[:, None]

    @property
    def col(self) -> NDArray[np.float32]:
        """Column numbers as a row vector."""
        return np.arange(self.size, dtype=np.float32)[None, :]


def refine(field: NDArray[np.float32], rows: Rows, step: int = STEP) -> NDArray[np.float32]:
    """`field`, bilinearly interpolated at every pixel of `rows`."""
    at = np.arange(rows.start, rows.stop)
    part = ((at % step) / step).astype(np.float32)[:, None]
    lines = field[at // step] * (1 - part) + field[at // step + 1] * part
    col = np.arange(rows.size)
    fraction = ((col % step) / step).astype(np.float32)[None, :]
    left = lines[:, col // step]
    return left + (lines[:, col // step + 1] - left) * fraction


def mix(*keys: NDArray[np.int32] | int) -> NDArray[np.uint32]:
    """A well-scrambled 32-bit hash of integer keys, elementwise: the same keys, the same hash, anywhere."""
    state: NDArray[np.uint32] = np.array(0x9E3779B9, np.uint32)
    for key in keys:
        state = state ^ np.asarray(key).astype(np.uint32)
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x7FEB352D)
        state = (state ^ (state >> np.uint32(15))) * np.uint32(0x846CA68B)
        state = state ^ (state >> np.uint32(16))
    return state


def unit(bits: NDArray[np.uint32], shift: int) -> NDArray[np.float32]:
    """Ten bits of a hash, from bit `shift` up, as numbers in 0..1. Shifts 0, 10 and 20 are independent."""
    return ((bits >> np.uint32(shift)) & np.uint32(1023)).astype(np.float32) / np.float32(1023)
