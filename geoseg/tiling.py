"""Where patches and tiles lie: one scene-wide lattice, grouped into tiles of work.

Pure arithmetic on integers. One axis of the lattice, with patch 6, overlap 2, stride 2, on 15 pixels:

    pixels    0 1 2 3 4 5 6 7 8 9 . . . . 14 (15 is padding up to a multiple of the stride)
    patch 0   |---------|
    patch 1           |---------|                      origins are multiples of the stride
    patch 2                   |---------|
    patch 3                       |---------|          the last one slides back, flush with the end
    supports  |-------|-------|-----|-------|          overlaps are split at their midpoint

Supports partition the axis, whatever the size. A patch never leaves the padded scene, so at the border the
network meets the border itself (its own padding), as it would in a run on the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from geoseg.errors import UsageError, explain
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

TILE_PX = 2048
"""Default side of a tile: large against any patch, small against memory (a few hundred MB for 10 bands)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Patches along one axis of a scene."""

    size: int
    """Pixels of the scene along this axis, at least 1."""
    patch_px: int
    """Side of a patch; smaller patches are used where the scene itself is smaller."""
    overlap_px: int
    """Pixels neighbouring patches share, at least."""
    stride_px: int
    """Patch origins, sizes and overlaps are multiples of this."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride_px < 1:
            raise ValueError(f"size {self.size} and stride {self.stride_px} must be at least 1")
        require_multiple("patch", self.patch_px, self.stride_px)
        require_multiple("overlap", self.overlap_px, self.stride_px)
        if not 0 <= self.overlap_px < self.patch_px:
            raise UsageError(
                explain(
                    "the overlap does not fit the patch",
                    at=f"patch {self.patch_px} px",
                    expected=f"an overlap of 0 to {self.patch_px - self.stride_px} px",
                    found=f"{self.overlap_px} px",
                    change="Make the patch larger or the overlap smaller.",
                )
            )

    @property
    def padded(self) -> int:
        """`size` rounded up to a multiple of the stride."""
        return -(-self.size // self.stride_px) * self.stride_px

    @property
    def length(self) -> int:
        """Side of every patch on this axis: `patch_px`, or the padded scene where that is smaller."""
        return min(self.patch_px, self.padded)

    @property
    def count(self) -> int:
        """Number of patches."""
        step = self.patch_px - self.overlap_px
        return 1 + -(-(self.padded - self.length) // step)

    def start(self, index: int) -> int:
        """First pixel of patch `index`."""
        return min(index * (self.patch_px - self.overlap_px), self.padded - self.length)

    def cut(self, index: int) -> int:
        """First pixel of the support of patch `index`; `cut(count)` is the scene's size."""
        if index == 0:
            return 0
        if index == self.count:
            return self.size
        return (self.start(index) + self.start(index - 1) + self.length) // 2

    def covering(self, start: int, stop: int) -> range:
        """Indices of the patches that contain a pixel of [start, stop)."""
        step = self.patch_px - self.overlap_px
        first = max(0, (start - self.length) // step)
        while first < self.count and self.start(first) + self.length <= start:
            first += 1
        last = first
        while last < self.count and self.start(last) < stop:
            last += 1
        return range(first, last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One square the network sees, in scene pixels."""

    window: Window
    """What the network is given; may reach past the scene by less than a stride."""
    support: Window
    """The part of the scene this patch alone decides when overlaps are split at their midpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """All patches of a scene, rows x columns."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, shape: tuple[int, int], *, patch_px: int, overlap_px: int, stride_px: int) -> Lattice:
        """The lattice of a scene of `shape` (height, width)."""
        rows, cols = (
            Axis(size=size, patch_px=patch_px, overlap_px=overlap_px, stride_px=stride_px) for size in shape
        )
        return cls(rows=rows, cols=cols)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of patches down and across."""
        return self.rows.count, self.cols.count

    def patch(self, row: int, col: int) -> Patch:
        """Patch in lattice row `row` and column `col`."""
        return Patch(
            window=Window(self.rows.start(row), self.cols.start(col), self.rows.length, self.cols.length),
            support=self.support(range(row, row + 1), range(col, col + 1)),
        )

    def support(self, rows: range, cols: range) -> Window:
        """The union of the supports of a rectangular run of patches."""
        row, col = self.rows.cut(rows.start), self.cols.cut(cols.start)
        return Window(row, col, self.rows.cut(rows.stop) - row, self.cols.cut(cols.stop) - col)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One unit of work, resume and retry: a rectangular run of patches."""

    row: int
    """Row of the tile in the grid of tiles."""
    col: int
    """Column of the tile in the grid of tiles."""
    core: Window
    """The pixels this tile owns and writes. Cores partition the scene."""
    patches: tuple[Patch, ...]
    """Every patch that has a say in the core, row by row."""

    @property
    def reach(self) -> Window:
        """The pixels this tile reads: the smallest window with all its patches (may exceed the scene)."""
        reach = self.patches[0].window
        for patch in (self.patches[-1], *self.patches):
            reach = reach.cover(patch.window)
        return reach


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How a scene is divided into tiles. Small and picklable: tiles are computed when asked for."""

    lattice: Lattice
    tile_px: int
    """Wanted side of a tile's core; it becomes a whole number of patches, at least one."""
    blend: bool = False
    """False: each pixel is decided by one patch. True: by all patches that contain it."""
    extent: Window | None = None
    """The part of the scene that is wanted, of at least one pixel; None: all of it. The lattice stays that of
    the whole scene, so a part of a scene is mapped exactly as it is in the map of the whole."""

    @property
    def window(self) -> Window:
        """The pixels that tiles own: `extent`, or the whole scene."""
        return self.extent or Window(0, 0, self.lattice.rows.size, self.lattice.cols.size)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles down and across."""
        return len(self._row_runs), len(self._col_runs)

    def __len__(self) -> int:
        rows, cols = self.shape
        return rows * cols

    def __iter__(self) -> Iterator[Tile]:
        rows, cols = self.shape
        return (self.tile(i, j) for i in range(rows) for j in range(cols))

    def tile(self, row: int, col: int) -> Tile:
        """The tile in row `row` and column `col` of the grid of tiles."""
        rows, cols = self._row_runs[row], self._col_runs[col]
        core = self.lattice.support(rows, cols).intersect(self.window)
        if self.blend:
            rows = self.lattice.rows.covering(core.row, core.stop_row)
            cols = self.lattice.cols.covering(core.col, core.stop_col)
        patches = tuple(self.lattice.patch(i, j) for i in rows for j in cols)
        return Tile(row=row, col=col, core=core, patches=patches)

    @property
    def _row_runs(self) -> tuple[range, ...]:
        return _runs(self.lattice.rows, self.tile_px, self.window.row, self.window.stop_row)

    @property
    def _col_runs(self) -> tuple[range, ...]:
        return _runs(self.lattice.cols, self.tile_px, self.window.col, self.window.stop_col)

    @property
    def patches(self) -> int:
        """Patches the network is given in all; those of a blend that several tiles need count for each."""
        rows, cols = ([sum(map(len, runs)) for runs in self._patch_runs][i] for i in (0, 1))
        return rows * cols

    @property
    def forwarded_px(self) -> int:
        """Pixels the network is given in all, duplicates and padding included."""
        return self.patches * self.lattice.rows.length * self.lattice.cols.length

    @property
    def duplication(self) -> float:
        """Pixels forwarded over pixels wanted; 1.0 means nothing is computed twice."""
        return self.forwarded_px / self.window.size

    @property
    def largest_reach_px(self) -> int:
        """Upper bound on the pixels any one tile reads."""
        rows, cols = (
            max(axis.start(r.stop - 1) + axis.length - axis.start(r.start) for r in runs)
            for axis, runs in zip((self.lattice.rows, self.lattice.cols), self._patch_runs, strict=True)
        )
        return rows * cols

    @property
    def largest_core_px(self) -> int:
        """Upper bound on the pixels any one tile owns."""
        rows, cols = (
            max(axis.cut(r.stop) - axis.cut(r.start) for r in runs)
            for axis, runs in (
                (self.lattice.rows, self._row_runs),
                (self.lattice.cols, self._col_runs),
            )
        )
        return rows * cols

    @property
    def cuts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and columns inside the window at which another patch begins to decide."""
        window = self.window
        return tuple(
            tuple(cut for r in runs for i in r if start < (cut := axis.cut(i)) < stop)
            for axis, runs, start, stop in (
                (self.lattice.rows, self._row_runs, window.row, window.stop_row),
                (self.lattice.cols, self._col_runs, window.col, window.stop_col),
            )
        )  # type: ignore[return-value]

    @property
    def _patch_runs(self) -> tuple[tuple[range, ...], tuple[range, ...]]:
        """For each row, and each column, of tiles: the patches that have a say in it."""
        if not self.blend:
            return self._row_runs, self._col_runs
        rows, cols, window = self.lattice.rows, self.lattice.cols, self.window
        return (
            _reaching(rows, self._row_runs, window.row, window.stop_row),
            _reaching(cols, self._col_runs, window.col, window.stop_col),
        )


def _reaching(axis: Axis, runs: tuple[range, ...], start: int, stop: int) -> tuple[range, ...]:
    """All patches over the part of each run's support that lies in [start, stop)."""
    return tuple(axis.covering(max(start, axis.cut(r.start)), min(stop, axis.cut(r.stop))) for r in runs)


def require_multiple(what: str, px: int, stride_px: int) -> None:
    """Returns when `px`, the size of the patch or the overlap, lies on the network's stride.

    Raises:
        UsageError: naming the nearest sizes that do.
    """
    if px % stride_px:
        low = px - px % stride_px
        raise UsageError(
            explain(
                f"the {what} size is off the network's stride",
                at=f"{px} px",
                expected=f"a multiple of {stride_px}",
                found=f"{px} = {low} + {px % stride_px}",
                change=f"Use {low} or {low + stride_px}.",
            )
        )


@lru_cache(maxsize=64)
def _runs(axis: Axis, tile_px: int, start: int, stop: int) -> tuple[range, ...]:
    """Consecutive runs of patches, of nearly equal length, whose cores are about `tile_px` long.

    Runs are those of the whole axis, without what lies outside [start, stop).
    """
    step = axis.patch_px - axis.overlap_px
    per_tile = max(1, tile_px // step)
    tiles = -(-axis.count // per_tile)
    edges = [axis.count * i // tiles for i in range(tiles + 1)]
    first = _deciding(axis, start)
    last = _deciding(axis, stop - 1) + 1
    runs = (range(max(a, first), min(b, last)) for a, b in pairwise(edges))
    return tuple(r for r in runs if r)


def _deciding(axis: Axis, pixel: int) -> int:
    """Index of the patch whose support holds `pixel`."""
    return next(i for i in axis.covering(pixel, pixel + 1) if axis.cut(i) <= pixel < axis.cut(i + 1))
