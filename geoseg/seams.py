"""Does the lattice of patches show in the map? Class transitions on its lines against those beside them.

Where two patches meet, a network that saw too little around its patches changes its mind: pixels on either
side of the line differ more often than pixels on either side of parallel lines a few pixels away. Segments of
a line are compared with the same stretch of their own neighbours, so that neither towns nor lakes matter, and
each counts as one observation, for transitions along a line come in runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from geoseg.tiling import TilePlan

Read = Callable[[Window], "NDArray[np.uint8]"]
"""Class ids of a window of the raster."""

SEGMENT_PX = 256
"""Length of one observation along a line."""
PANE_PX = 4096
"""Side of the squares a raster is looked at in: a whole number of segments, and of blocks on disk."""
_BESIDE = (-3, -2, -1, 1, 2, 3)
"""Where the parallel lines are, in periods of the network."""
_LEAST_PERIOD = 8
_NEAR = 2
"""Parallel lines so close to another line of the lattice are left out."""
_RATIO, _Z = 1.25, 3.0
"""Above both, the lattice shows. A U-Net trained on aerial images, 2560 x 2560 px, overlaps of 0, 32, 64 and
128 px: ratios 13, 3.6 to 4.4, 2.0 to 2.6 and 1.6, z from 3.6 to 9.2; overlap beyond its context: 0.96, -0.7.
Of 4200 lattices laid over seven maps that have no seams there, none exceeded both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The lines at which other patches take over, in the product's own pixels.

    Line r runs between pixels r - 1 and r.

    In a blend, too, these are the middles of overlaps, where the decision passes from one patch to the next.
    It passes gradually: a blend has no line to find (measured, at the middles and at the patches' edges:
    0.93 to 1.09), which does not mean that it has no errors.
    """

    rows: tuple[int, ...]
    """Ascending."""
    cols: tuple[int, ...]
    """Ascending."""
    stride_px: int
    """Of the network. Decoders leave a texture of this period or parts of it, and lines of the lattice are
    all alike in it: what they are compared with must be a whole number of periods away."""

    @classmethod
    def of(cls, plan: TilePlan) -> Grid:
        """The lines inside the part of the scene that is wanted."""
        rows, cols = plan.cuts
        return cls(
            rows=tuple(r - plan.window.row for r in rows),
            cols=tuple(c - plan.window.col for c in cols),
            stride_px=plan.lattice.rows.stride_px,
        )

    @property
    def reach_px(self) -> int:
        """Pixels on either side of a line that are looked at."""
        return max(_BESIDE) * self._period + 1

    @property
    def _period(self) -> int:
        return max(_LEAST_PERIOD, self.stride_px)

    def beside(self, line: int, lines: Sequence[int], size: int) -> NDArray[np.intp]:
        """The lines to compare `line` with: inside the raster and off the lattice.

        On a lattice so narrow that there is none, parts of a period must do.
        """
        period = self._period
        while True:
            others = np.array(_BESIDE) * period + line
            distance = np.abs(others[:, None] - np.array(lines)[None, :]).min(axis=1)
            beside: NDArray[np.intp] = others[(others > 0) & (others < size) & (distance >= _NEAR)]
            if beside.size or period <= _LEAST_PERIOD:
                return beside
            period //= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GridScore:
    """How much more often the class changes across the lines of the lattice than beside them."""

    on: float
    """Share of the pixel pairs across lines that differ."""
    off: float
    """The same beside the lines, weighted like them."""
    ratio: float
    """Transitions found over those expected, one added to either; 1 where the lattice does not show."""
    pairs: int
    """Pixel pairs across lines, both of them with data."""
    z: float
    """Standard errors between `on` and `off`, with segments of lines as observations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was counted along the lines of a part of the raster; the parts of a raster add up."""

    found: int = 0
    """Transitions across lines."""
    expected: float = 0.0
    """Transitions there would be at the rate beside them."""
    pairs: int = 0
    """Pixel pairs across lines."""
    squares: float = 0.0
    """Sum over segments of (found - expected) squared."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            found=self.found + other.found,
            expected=self.expected + other.expected,
            pairs=self.pairs + other.pairs,
            squares=self.squares + other.squares,
        )

    def score(self) -> GridScore | None:
        """The score; None where no line has data on both sides and beside it."""
        if not self.pairs:
            return None
        excess = self.found - self.expected
        return GridScore(
            on=self.found / self.pairs,
            off=self.expected / self.pairs,
            ratio=(self.found + 1) / (self.expected + 1),
            pairs=self.pairs,
            # Under "no seams" segments have mean 0, whatever the variance of each: no model of it is needed.
            z=excess / self.squares**0.5 if self.squares else 0.0,
        )


def in_words(score: GridScore | None) -> str:
    """The score and what it means, in one phrase."""
    if score is None:
        return "no two patches meet over data"
    verdict = "the lattice of patches shows" if shows(score) else "the lattice of patches does not show"
    return f"the class changes {score.ratio:.2f} times as often where patches meet as beside it: {verdict}"


def shows(score: GridScore) -> bool:
    """True where changes of class are so many more on the lattice, and so surely, that one can see it."""
    return score.ratio >= _RATIO and score.z >= _Z


def warning(score: GridScore | None) -> str | None:
    """What to tell the user where the lattice shows, else None."""
    if score is None or not shows(score):
        return None
    return (
        f"the lattice of patches shows: the class changes {score.ratio:.1f} times as often where patches "
        f"meet as beside it ({100 * score.on:.2f} % of pixel pairs, not {100 * score.off:.2f} %); give the "
        "network more context with a larger --overlap"
    )


def panes(shape: tuple[int, int]) -> Iterator[Window]:
    """Squares that partition a raster of `shape` (height, width), row by row."""
    whole = Window(0, 0, *shape)
    for row in range(0, shape[0], PANE_PX):
        for col in range(0, shape[1], PANE_PX):
            yield Window(row, col, PANE_PX, PANE_PX).intersect(whole)


def tally(read: Read, pane: Window, grid: Grid, *, shape: tuple[int, int], nodata: int) -> Tally:
    """Counts along the lines inside one pane. Reads strips around them, and nothing else.

    Args:
        read: gives the pixels of a window of the raster, which may reach out of the pane.
        pane: one of `panes(shape)`.
        grid: where patches meet.
        shape: height and width of the raster.
        nodata: the value that is no class: pairs with it are not counted.
    """
    total = Tally()
    for line in _inside(grid.rows, pane.row, pane.stop_row):
        start, stop = max(0, line - grid.reach_px), min(shape[0], line + grid.reach_px)
        strip = read(Window(start, pane.col, stop - start, pane.width))
        total += _along(strip, line - start, grid.beside(line, grid.rows, shape[0]) - start, nodata)
    for line in _inside(grid.cols, pane.col, pane.stop_col):
        start, stop = max(0, line - grid.reach_px), min(shape[1], line + grid.reach_px)
        strip = np.ascontiguousarray(read(Window(pane.row, start, pane.height, stop - start)).T)
        total += _along(strip, line - start, grid.beside(line, grid.cols, shape[1]) - start, nodata)
    return total


def _inside(lines: Sequence[int], start: int, stop: int) -> list[int]:
    """The lines that have a pixel on either side and lie in [start, stop)."""
    return [line for line in lines if max(start, 1) <= line < stop]


def _along(strip: NDArray[np.uint8], line: int, beside: NDArray[np.intp], nodata: int) -> Tally:
    """Counts along one line of a strip whose rows are parallel to it."""
    at = np.array([line, *beside.tolist()])
    before, after = strip[at - 1], strip[at]
    valid = (before != nodata) & (after != nodata)
    differ = valid & (before != after)
    starts = np.arange(0, strip.shape[1], SEGMENT_PX)
    pairs = np.add.reduceat(valid, starts, axis=1, dtype=np.int64)
    changes = np.add.reduceat(differ, starts, axis=1, dtype=np.int64)
    compared = pairs[1:].sum(axis=0)
    use = (pairs[0] > 0) & (compared > 0)
    found, mine = changes[0, use], pairs[0, use]
    expected = mine * changes[1:].sum(axis=0)[use] / compared[use]
    return Tally(
        found=int(found.sum()),
        expected=float(expected.sum()),
        pairs=int(mine.sum()),
        squares=float(((found - expected) ** 2).sum()),
    )
