"""Where the pixels of a file lie in the pixel plane of a scene that has another grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from affine import Affine

from geoseg.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

NEAR_PX = 0.01
"""Grids whose pixels are nowhere further apart than this are one grid; in pixels of the scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One axis of a file in the pixel plane of a scene: edges at start, start + step, start + 2 step ..."""

    start: float
    """The file's first edge, in pixels of the scene."""
    step: float
    """Pixels of the scene per pixel of the file."""
    size: int
    """Pixels of the file."""

    @property
    def stop(self) -> float:
        """The file's last edge, in pixels of the scene."""
        return self.start + self.step * self.size

    @property
    def is_aligned(self) -> bool:
        """True when each pixel is a pixel of the scene."""
        return self.step == 1 and self.start.is_integer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A file in the pixel plane of a scene of the same CRS and orientation."""

    rows: Span
    cols: Span

    @property
    def is_aligned(self) -> bool:
        """True when each pixel of the file is a pixel of the scene."""
        return self.rows.is_aligned and self.cols.is_aligned

    @property
    def window(self) -> Window:
        """The file's place in the scene's plane, if it is aligned."""
        return Window(int(self.rows.start), int(self.cols.start), self.rows.size, self.cols.size)

    @property
    def is_finer(self) -> bool:
        """True when the file's pixels are shorter than the scene's on an axis, by more than rounding."""
        return min(self.rows.step, self.cols.step) < 0.99  # noqa: PLR2004

    def covers(self, window: Window) -> bool:
        """True when the file reaches at least as far as `window` on all sides, to within NEAR_PX."""
        return (
            self.rows.start <= window.row + NEAR_PX
            and self.cols.start <= window.col + NEAR_PX
            and self.rows.stop >= window.stop_row - NEAR_PX
            and self.cols.stop >= window.stop_col - NEAR_PX
        )


def place(file: GeoBox, scene: GeoBox) -> Placement | None:
    """Where the grid `file` lies in the pixel plane of the grid `scene`.

    None when no placement describes it: another CRS, or axes that are not parallel.
    """
    if file.crs != scene.crs:
        return None
    height, width = (int(n) for n in file.shape)
    to_scene = _after(~scene.affine, file.affine)
    if max(abs(to_scene.b) * height, abs(to_scene.d) * width) > NEAR_PX or min(to_scene.a, to_scene.e) <= 0:
        return None
    return Placement(rows=_span(to_scene.f, to_scene.e, height), cols=_span(to_scene.c, to_scene.a, width))


def _after(outer: Affine, inner: Affine) -> Affine:
    """First `inner`, then `outer`, in arithmetic that affine 2 and 3 agree on."""
    a, b, c, d, e, f = list(inner)[:6]
    return Affine(
        outer.a * a + outer.b * d,
        outer.a * b + outer.b * e,
        outer.a * c + outer.b * f + outer.c,
        outer.d * a + outer.e * d,
        outer.d * b + outer.e * e,
        outer.d * c + outer.e * f + outer.f,
    )


def _span(start: float, step: float, size: int) -> Span:
    """The axis, rid of the rounding of its transform where that moves no pixel by more than NEAR_PX."""
    whole = round(step)
    if abs(whole - step) * size <= NEAR_PX:
        step = float(whole)
    if abs(round(start) - start) <= NEAR_PX:
        start = float(round(start))
    return Span(start=start, step=step, size=size)


def is_finer(a: GeoBox, b: GeoBox) -> bool:
    """True when the pixels of `a` are smaller than those of `b`; both in one CRS."""
    return math.sqrt(abs(a.affine.determinant)) < math.sqrt(abs(b.affine.determinant)) * (1 - 1e-9)
