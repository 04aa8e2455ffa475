"""Connected regions of a class map: labels and sums per tile, and which of them meet across seams.

A region is a 4-connected set of pixels of one class; nodata belongs to none. A tile knows its regions by
label 1..n and keeps the labels along its four sides (`Edges`). `link_tiles` compares the sides where cores
abut and says which (tile, label) pairs are one region of the scene, whatever the tiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.errors import UsageError, explain
from geoseg.stitch import CONFIDENCE_NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from geoseg.windows import Window

_TILE_BITS = 32

EDGE_NAMES = ("edge_top", "edge_bottom", "edge_left", "edge_right")
"""Keys of the strips among a part's arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTable:
    """What is known of each region, one entry per region in every array."""

    class_id: NDArray[np.uint8]
    """Class of all its pixels."""
    pixels: NDArray[np.int64]
    """Number of pixels."""
    confidence_sum: NDArray[np.int64]
    """Sum of the confidences that exist, in percent."""
    confidence_count: NDArray[np.int64]
    """Number of pixels that have a confidence."""
    area_m2: NDArray[np.float64]
    """Sum of the pixels' areas."""
    first_pixel: NDArray[np.int32]
    """Shape (regions, 2): scene row and column of its first pixel in row-major order."""

    def __len__(self) -> int:
        return len(self.class_id)

    def take(self, index: NDArray[np.intp]) -> RegionTable:
        """The regions at `index`, in that order."""
        return RegionTable(
            class_id=self.class_id[index],
            pixels=self.pixels[index],
            confidence_sum=self.confidence_sum[index],
            confidence_count=self.confidence_count[index],
            area_m2=self.area_m2[index],
            first_pixel=self.first_pixel[index],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """The pixels along the four sides of a core; each of shape (2, pixels): labels, then class ids."""

    top: NDArray[np.int32]
    """First row, from left to right."""
    bottom: NDArray[np.int32]
    """Last row, from left to right."""
    left: NDArray[np.int32]
    """First column, from top to bottom."""
    right: NDArray[np.int32]
    """Last column, from top to bottom."""

    def to_arrays(self) -> dict[str, NDArray[np.int32]]:
        """The strips by name; `from_arrays` restores an equal value."""
        return dict(zip(EDGE_NAMES, (self.top, self.bottom, self.left, self.right), strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.int32]]) -> Edges:
        """The strips in `arrays`; other keys are not touched, so a lazy .npz reads only these."""
        top, bottom, left, right = (arrays[name] for name in EDGE_NAMES)
        return cls(top=top, bottom=bottom, left=left, right=right)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamGroups:
    """Which regions of which tiles are one: only those that cross a seam are listed."""

    keys: NDArray[np.int64]
    """Tile index and label as `tile << 32 | label`, sorted."""
    group: NDArray[np.intp]
    """Group of each key, 0..count - 1; each group has members in at least two tiles."""
    count: int
    """Number of groups."""

    def of_tile(self, tile: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Labels of a tile's seam-crossing regions, ascending, and the group of each."""
        first, stop = np.searchsorted(self.keys, [tile << _TILE_BITS, (tile + 1) << _TILE_BITS])
        return self.keys[first:stop] - (tile << _TILE_BITS), self.group[first:stop]

    def last_tile(self) -> NDArray[np.int64]:
        """The highest tile index among each group's members, shape (count,)."""
        last = np.zeros(self.count, np.int64)
        np.maximum.at(last, self.group, self.keys >> _TILE_BITS)
        return last


def find_regions(
    classes: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
    nodata: int,
) -> tuple[NDArray[np.int32], RegionTable]:
    """Labels of a tile's pixels and the table of its regions.

    Args:
        classes: class ids, of the core's shape.
        confidence: percent 0..100 or 255 for none, of the core's shape; None when there is none at all.
        pixel_area: m2 of each pixel, broadcastable to the core's shape.
        core: where the tile is in the scene.
        nodata: the value in `classes` that is no class.

    Returns:
        labels of the core's shape: 0 at nodata, else 1..n in the order of the regions' first pixels; and
        the table whose entry i is the region with label i + 1.
    """
    _check_shapes(classes, confidence, core)
    starts, run_of_pixel = _runs(classes)
    run_class = classes.ravel()[starts]
    run_label = _label_runs(classes, run_of_pixel, run_class != nodata)
    table = _measure(starts, run_label, run_class, confidence=confidence, pixel_area=pixel_area, core=core)
    return run_label[run_of_pixel], table


def edges_of(labels: NDArray[np.int32], classes: NDArray[np.uint8]) -> Edges:
    """The four sides of a tile, copied so that they do not keep the whole arrays alive."""
    sides: dict[str, tuple[slice | int, slice | int]] = {
        "top": (0, slice(None)),
        "bottom": (-1, slice(None)),
        "left": (slice(None), 0),
        "right": (slice(None), -1),
    }
    return Edges(**{k: np.stack([labels[at], classes[at].astype(np.int32)]) for k, at in sides.items()})


def link_tiles(cores: Sequence[Window], load_edges: Callable[[Window], Edges]) -> SeamGroups:
    """The regions that cross seams, as groups of (tile, label); tile is the index in `cores`.

    Each tile's edges are asked for once, in row-major order of the grid; no more than one row of tiles is
    held at a time.

    Raises:
        UsageError: when the cores are not a grid of rows and columns that abut.
    """
    pairs = [np.empty((2, 0), np.int64)]
    above: dict[int, tuple[int, NDArray[np.int32]]] = {}
    for row in core_grid(cores).tolist():
        beside = None
        for place, tile in enumerate(row):
            edges = load_edges(cores[tile])
            if place in above:
                pairs.append(_touching(*above[place], tile, edges.top))
            if beside is not None:
                pairs.append(_touching(*beside, tile, edges.left))
            above[place], beside = (tile, edges.bottom), (tile, edges.right)
    return _group(np.concatenate(pairs, axis=1))


def core_grid(cores: Sequence[Window]) -> NDArray[np.intp]:
    """Indices into `cores` laid out as (tile rows, tile columns).

    Raises:
        UsageError: when the cores do not partition their hull as a grid of rows and columns.
    """
    rows = sorted({(c.row, c.height) for c in cores})
    cols = sorted({(c.col, c.width) for c in cores})
    places = {(c.row, c.col): i for i, c in enumerate(cores)}
    complete = len(places) == len(cores) == len(rows) * len(cols)
    if not (complete and cores and _abut(rows) and _abut(cols)):
        raise UsageError(
            explain(
                "tiles do not form a grid",
                at=f"{len(cores)} cores",
                expected="cores that partition the scene into rows and columns, none empty",
                found=f"{len(rows)} rows {rows[:3]}..., {len(cols)} columns {cols[:3]}...",
                change="Merge the tiles of one plan, all of them, each once.",
            )
        )
    order = sorted(range(len(cores)), key=lambda i: cores[i])
    return np.array(order, np.intp).reshape(len(rows), len(cols))


def _abut(spans: list[tuple[int, int]]) -> bool:
    """True when each (start, size) begins where the one before ends."""
    following = [start for start, _ in spans[1:]]
    return all(size > 0 for _, size in spans) and following == [a + n for a, n in spans[:-1]]


def _check_shapes(classes: NDArray[np.uint8], confidence: NDArray[np.uint8] | None, core: Window) -> None:
    for name, array in (("classes", classes), ("confidence", confidence)):
        if array is not None and array.shape != core.shape:
            raise ValueError(f"{name} has shape {array.shape}, its core ({core}) {core.shape}")


def _runs(classes: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Where rows change class: flat index of each run's first pixel, and the run of every pixel."""
    begins = np.ones(classes.shape, bool)
    np.not_equal(classes[:, 1:], classes[:, :-1], out=begins[:, 1:])
    run_of_pixel = np.cumsum(begins, dtype=np.int32).reshape(classes.shape)
    run_of_pixel -= 1
    return np.flatnonzero(begins), run_of_pixel


def _label_runs(
    classes: NDArray[np.uint8], run_of_pixel: NDArray[np.int32], run_valid: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Label of each run: runs of one class that overlap in neighbouring rows share it.

    Runs, not pixels, are the nodes of the graph, and all classes are labelled at once: neither time nor
    memory grows with the number of classes.
    """
    upper, lower = run_of_pixel[:-1], run_of_pixel[1:]
    linked = classes[:-1] == classes[1:]
    # Where neither run begins, the column to the left has made the same link already.
    linked[:, 1:] &= (upper[:, 1:] != upper[:, :-1]) | (lower[:, 1:] != lower[:, :-1])
    count = len(run_valid)
    links = coo_array(
        (np.ones(np.count_nonzero(linked), np.int8), (upper[linked], lower[linked])), (count, count)
    )
    _, component = connected_components(links, directed=False)
    return _number(component, run_valid)


def _number(component: NDArray[np.int32], valid: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Components renumbered 1.. in the order of their first valid member; 0 where not valid."""
    present, first, inverse = np.unique(component[valid], return_index=True, return_inverse=True)
    rank = np.empty(len(present), np.int32)
    rank[np.argsort(first)] = np.arange(1, len(present) + 1, dtype=np.int32)
    label = np.zeros(len(component), np.int32)
    label[valid] = rank[inverse]
    return label


def _measure(
    starts: NDArray[np.intp],
    run_label: NDArray[np.int32],
    run_class: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
) -> RegionTable:
    """The table of the regions that runs belong to; sums go from pixels to runs to regions."""
    count = int(run_label.max(initial=0))
    length = np.diff(starts, append=core.size)

    def per_region(per_run: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
        # float64 holds these integers exactly: no region has 2**53 / 100 pixels
        return np.bincount(run_label, weights=per_run, minlength=count + 1)[1:].astype(np.float64)

    first_run = np.zeros(count + 1, np.intp)
    first_run[run_label[::-1]] = np.arange(len(starts))[::-1]  # the last assignment is the first run
    first_run = first_run[1:]
    rows, cols = np.divmod(starts[first_run], max(core.width, 1))
    sums, counts = _confidence_of_runs(confidence, starts)
    return RegionTable(
        class_id=run_class[first_run],
        pixels=per_region(length).astype(np.int64),
        confidence_sum=per_region(sums).astype(np.int64),
        confidence_count=per_region(counts).astype(np.int64),
        area_m2=per_region(_area_of_runs(pixel_area, starts, length, core)),
        first_pixel=np.stack([rows + core.row, cols + core.col], axis=1).astype(np.int32),
    )


def _confidence_of_runs(
    confidence: NDArray[np.uint8] | None, starts: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum and number of confidences in each run."""
    if confidence is None or not len(starts):
        return np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    known = (confidence != CONFIDENCE_NODATA).ravel()
    counts = np.add.reduceat(known, starts, dtype=np.int64)
    sums = np.add.reduceat(confidence.ravel(), starts, dtype=np.int64)
    unknown = np.add.reduceat(~known, starts, dtype=np.int64)
    return sums - CONFIDENCE_NODATA * unknown, counts


def _area_of_runs(
    pixel_area: NDArray[np.floating], starts: NDArray[np.intp], length: NDArray[np.intp], core: Window
) -> NDArray[np.float64]:
    """Area of each run; a column of areas, one per row, is never spread over the pixels."""
    area = np.atleast_2d(np.asarray(pixel_area, np.float64))
    if area.shape[1] == 1 or area.strides[1] == 0:
        per_row = np.broadcast_to(area[:, 0], core.height)
        return per_row[starts // max(core.width, 1)] * length
    flat = np.broadcast_to(area, core.shape).ravel()
    return np.add.reduceat(flat, starts) if len(starts) else np.empty(0, np.float64)


def _touching(
    tile: int, strip: NDArray[np.int32], other: int, other_strip: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Keys of the regions that meet along a seam, shape (2, pairs), repeats in a row dropped."""
    same = (strip[1] == other_strip[1]) & (strip[0] > 0) & (other_strip[0] > 0)
    labels = np.stack([strip[0][same], other_strip[0][same]]).astype(np.int64)
    fresh = np.ones(labels.shape[1], bool)
    fresh[1:] = (labels[:, 1:] != labels[:, :-1]).any(axis=0)
    return labels[:, fresh] + (np.array([[tile], [other]], np.int64) << _TILE_BITS)


def _group(pairs: NDArray[np.int64]) -> SeamGroups:
    """Connected components of the graph whose edges are `pairs`."""
    keys, inverse = np.unique(pairs, return_inverse=True)
    if not len(keys):
        return SeamGroups(keys=keys, group=np.empty(0, np.intp), count=0)
    one, other = np.split(inverse.ravel(), 2)
    graph = coo_array((np.ones(len(one), np.int64), (one, other)), (len(keys), len(keys)))
    count, group = connected_components(graph, directed=False)
    return SeamGroups(keys=keys, group=group.astype(np.intp), count=int(count))
