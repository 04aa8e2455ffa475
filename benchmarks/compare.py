"""Where two class rasters differ: everywhere, near the cuts between patches, and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.windows import Window

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.jobs import Cuts

NEAR_PX = 16
"""On either side of a cut."""
_STRIP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Shares of pixels with another class, 0 to 1."""

    all: float
    near: float | None
    """Of the pixels near cuts; None: there are none."""
    elsewhere: float | None
    """Of the others; None: there are none."""
    same_grid: bool
    """Shape, transform and CRS agree."""


def difference(reference: Path, other: Path, cuts: Cuts, *, near_px: int = NEAR_PX) -> Difference:
    """How `other` differs from `reference`.

    Raises:
        ValueError: they are of different sizes.
    """
    with rasterio.open(reference) as a, rasterio.open(other) as b:
        if a.shape != b.shape:
            raise ValueError(f"{other} is of {b.shape} pixels, {reference} of {a.shape}")
        rows, cols = (_near(size, at, near_px) for size, at in zip(a.shape, cuts, strict=True))
        counts = np.zeros((2, 2), np.int64)  # [near or not][differs or not]
        for row in range(0, a.height, _STRIP):
            window = Window(0, row, a.width, min(_STRIP, a.height - row))
            differs = a.read(1, window=window) != b.read(1, window=window)
            near = rows[row : row + _STRIP, None] | cols[None, :]
            counts += np.bincount((2 * near + differs).ravel(), minlength=4).reshape(2, 2)
        same = a.crs == b.crs and a.transform.almost_equals(b.transform)
    (far_same, far_other), (near_same, near_other) = counts.tolist()
    return Difference(
        all=(far_other + near_other) / counts.sum(),
        near=_share(near_other, near_same),
        elsewhere=_share(far_other, far_same),
        same_grid=bool(same),
    )


def _near(size: int, cuts: list[int], near_px: int) -> NDArray[np.bool_]:
    """Which of `size` positions are within `near_px` of a cut."""
    near = np.zeros(size, bool)
    for cut in cuts:
        near[max(0, cut - near_px) : cut + near_px] = True
    return near


def _share(differing: int, same: int) -> float | None:
    total = differing + same
    return differing / total if total else None
