"""Generalised outlines: borders of fewer vertices, shared ones moved together, the same for every tiling.

Each border is simplified by itself, with the vertices of all original borders as obstacles that it must not
sweep over (`geoseg.vector.arcs` says why that keeps regions apart and pixels in their classes). So a tile can
do alone what does not touch another tile, and the merge does the rest once it has put borders together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import UsageError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.vector.obstacles import Index
    from geoseg.vector.outlines import Outlines
    from geoseg.vector.runs import Runs
    from geoseg.windows import Window

Box = tuple[int, int, int, int]

_NO_SEAM = np.iinfo(np.int32).min
_NO_SEAMS: Box = (_NO_SEAM, _NO_SEAM, _NO_SEAM, _NO_SEAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generalisation:
    """How borders are generalised."""

    tolerance: tuple[float, float]
    """How far borders may move, in pixels along columns and rows: metres over the pixel's size."""
    smooth: bool = False
    """Whether borders go through the midpoints of pixel sides first, so that stairs become slopes."""
    keep_outline: bool = False
    """Whether borders with nodata stay as they are; those with the scene's edge always do."""

    def __post_init__(self) -> None:
        positive = [0 < t < math.inf for t in self.tolerance]
        if not (all(positive) or self.tolerance == (0, 0)):
            raise UsageError(
                explain(
                    "lines cannot be simplified by this tolerance",
                    at=f"tolerance {self.tolerance} px",
                    expected="two positive numbers, along columns and along rows, or two zeros",
                    found=self.tolerance,
                    change="Give --simplify a distance above 0.",
                )
            )

    @property
    def scale(self) -> int:
        """Units of generalised coordinates per pixel: midpoints of pixel sides are halves."""
        return 2

    @property
    def reach(self) -> int:
        """How far from a border, in units, lies what may keep it from being simplified."""
        return math.ceil(2 * max(self.tolerance) * self.scale)


def generalise_tile(
    outlines: Outlines, *, core: Window, scene: Window, how: Generalisation
) -> tuple[Outlines, NDArray[np.int32]]:
    """A tile's outlines, generalised where no other tile has a say, and what merging must know for the rest.

    Args:
        outlines: of a tile as traced, in pixels; on seam lines every lattice point is a vertex.
        core: where the tile is.
        scene: what all tiles cover together; sides of the core that are not on its edge are seam lines.
        how: what to do.

    Returns:
        outlines in units of 1 / `how.scale` pixels: borders that touch no seam line are generalised and
        fixed, the others are as they were; and obstacles, shape (n, 2), in the same units: vertices of
        original borders, not on seam lines, near enough to borders that touch seam lines to matter to these.
    """
    from geoseg.vector.obstacles import near_lines

    scaled = _in_half_pixels(outlines)
    box, ends = _box(core, how.scale), _box(scene, how.scale)
    seams = (
        box[0] if box[0] > ends[0] else _NO_SEAM,
        box[1] if box[1] > ends[1] else _NO_SEAM,
        box[2] if box[2] < ends[2] else _NO_SEAM,
        box[3] if box[3] < ends[3] else _NO_SEAM,
    )
    simplified, runs, index = _simplify(scaled, _no_points(), seams, how)
    if seams == _NO_SEAMS or index is None:
        return simplified, _no_points()
    return simplified, near_lines(index, scaled.coords, runs, seams, box, how.reach)


def finish_arcs(outlines: Outlines, obstacles: NDArray[np.int32], how: Generalisation) -> Outlines:
    """The outlines with all that is not fixed generalised; then everything is fixed.

    Args:
        outlines: whole regions whose pieces come from `generalise_tile`, in its units; a vertex is where a
            ring turns and at nodes, on seam lines as elsewhere.
        obstacles: what `generalise_tile` said for all tiles within `how.reach` of a piece, and of seam lines
            as near the nodes and, of the unit edges that are borders, both ends (`smooth`: the midpoints
            instead). In any order, some may occur twice.
        how: what was asked of the tiles.

    Returns:
        canonical outlines, the same as of a scene in one tile.
    """
    simplified, _, _ = _simplify(outlines, obstacles, None, how)
    return replace(simplified, fixed=np.ones(len(simplified.coords), np.bool_))


def _simplify(
    outlines: Outlines, elsewhere: NDArray[np.int32], seams: Box | None, how: Generalisation
) -> tuple[Outlines, Runs, Index | None]:
    """Canonical outlines whose borders are generalised but for those on seam lines; their runs and obstacles.

    Args:
        outlines: in half pixels.
        elsewhere: obstacles that are not on these outlines; or are, if `seams` is None.
        seams: of a tile; None for whole regions.
        how: what to do.
    """
    from geoseg.vector.arcs import simplify_arcs
    from geoseg.vector.obstacles import index_points
    from geoseg.vector.rings import canonical
    from geoseg.vector.runs import collect_points, join_runs, number_arcs, room_for_lines, split_runs

    coords, fixed = outlines.coords, outlines.fixed
    runs = split_runs(coords, fixed, outlines.ring_offsets, seams or _NO_SEAMS)
    leader = number_arcs(coords, runs)
    line = room_for_lines(runs)
    whole = seams is None
    points, arc, rank = collect_points(
        coords, fixed, runs, leader, line, seams or _NO_SEAMS, how.smooth, whole
    )
    if not len(points) + len(elsewhere):
        return outlines, runs, None
    index = index_points(
        np.concatenate([points, elsewhere]),
        np.concatenate([arc, np.full(len(elsewhere), -1, np.int32)]),
        np.concatenate([rank, np.zeros(len(elsewhere), np.int32)]),
    )
    if not len(leader):
        return outlines, runs, index
    tolerance = (float(how.tolerance[0] * how.scale), float(how.tolerance[1] * how.scale))
    kept, kept_offsets = simplify_arcs(coords, runs, leader, index, line, tolerance, how.smooth)
    coords, fixed, offsets = join_runs(coords, fixed, runs, kept, kept_offsets)
    return canonical(replace(outlines, coords=coords, fixed=fixed, ring_offsets=offsets)), runs, index


def _box(window: Window, scale: int) -> Box:
    """Top, left, bottom and right."""
    return (
        scale * window.row,
        scale * window.col,
        scale * window.stop_row,
        scale * window.stop_col,
    )


def _in_half_pixels(outlines: Outlines) -> Outlines:
    if outlines.scale != 1:
        raise ValueError(f"outlines as traced are in pixels, not in units of 1/{outlines.scale}")
    return replace(outlines, coords=outlines.coords * np.int32(2), scale=2)


def _no_points() -> NDArray[np.int32]:
    return np.empty((0, 2), np.int32)
