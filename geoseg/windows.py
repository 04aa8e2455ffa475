"""Half-open integer rectangles in a pixel plane, rows before columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A half-open rectangle of pixels: rows [row, row + height), columns [col, col + width).

    Ordered by row, then column. Sizes are at least 0; origins may be negative (a window is a place in
    the plane, not a promise that pixels exist there).
    """

    row: int
    """First row, in pixels from the scene's upper-left corner."""
    col: int
    """First column."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise ValueError(f"a window cannot have negative size: height {self.height}, width {self.width}")

    @property
    def stop_row(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def stop_col(self) -> int:
        """First column right of the window."""
        return self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), as numpy has it."""
        return self.height, self.width

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def slices(self, *, origin: Window | None = None) -> tuple[slice, slice]:
        """Row and column slices of this window in an array whose [0, 0] is at `origin` (or the scene's)."""
        row0, col0 = (origin.row, origin.col) if origin else (0, 0)
        return (
            slice(self.row - row0, self.stop_row - row0),
            slice(self.col - col0, self.stop_col - col0),
        )

    def intersect(self, other: Window) -> Window:
        """The pixels in both; of size 0 when there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        return Window(
            row,
            col,
            max(0, min(self.stop_row, other.stop_row) - row),
            max(0, min(self.stop_col, other.stop_col) - col),
        )

    def contains(self, other: Window) -> bool:
        """True when every pixel of `other` is in this window."""
        return self.intersect(other).size == other.size

    def cover(self, other: Window) -> Window:
        """The smallest window that contains both."""
        row, col = min(self.row, other.row), min(self.col, other.col)
        return Window(
            row,
            col,
            max(self.stop_row, other.stop_row) - row,
            max(self.stop_col, other.stop_col) - col,
        )

    def __str__(self) -> str:
        return f"rows {self.row}:{self.stop_row}, columns {self.col}:{self.stop_col}"
