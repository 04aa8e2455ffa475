"""Connected regions of a class map: labels and sums per tile, and which of them meet across seams.

A region is a connected set of pixels of one class, by sides alone or (8-connected) by corners too; nodata
belongs to none. A tile knows its regions by label 1..n and keeps the labels along its four sides (`Edges`).
`link_tiles` compares the sides where cores abut and says which (tile, label) pairs are one region of the
scene, whatever the tiling.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.errors import UsageError, explain
from geoseg.stitch import CONFIDENCE_NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from geoseg.windows import Window

OUTSIDE = -1
"""Label of what lies outside the scene,"""
UNKNOWN = -2
"""and of what lies in another tile."""

_TILE_BITS = 32

EDGE_NAMES = ("edge_top", "edge_bottom", "edge_left", "edge_right")
"""Keys of the strips among a part's arrays."""

Connectivity = Literal[4, 8]

_Strip = tuple[int, NDArray[np.int32]]
"""A tile's index, and the pixels along one of its sides as in `Edges`."""


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
    confidence_min: NDArray[np.uint8]
    """Lowest confidence, in percent; 255 where no pixel has one."""
    area_m2: NDArray[np.float64]
    """Sum of the pixels' areas."""
    first_pixel: NDArray[np.int32]
    """Shape (regions, 2): scene row and column of its first pixel in row-major order."""
    box: NDArray[np.int32]
    """Shape (regions, 4): row, column, stop row and stop column in the scene of the pixels' hull."""
    mix: NDArray[np.int64] | None = None
    """Shape (regions, classes): pixels by what they were before regions were dissolved; None: not asked."""

    def __len__(self) -> int:
        return len(self.class_id)

    def take(self, index: NDArray[np.intp]) -> RegionTable:
        """The regions at `index`, in that order."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {name: None if a is None else a[index] for name, a in arrays.items()}
        return RegionTable(**taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The 4-connected pieces of a tile's regions, and the regions they make up.

    With connectivity 4 a region is one piece, and labels of pieces and regions are the same.
    """

    framed: NDArray[np.int32]
    """Shape (height + 2, width + 2): pieces, 0 at nodata, else 1.. in the order of their first pixels. The
    frame holds OUTSIDE beyond the scene and UNKNOWN beyond seams."""
    region: NDArray[np.int32]
    """Shape (pieces + 1,): region of each piece, 1.. in the order of first pixels; entry 0 is 0."""
    regions: int
    """Number of regions."""

    def edges(self, classes: NDArray[np.uint8]) -> Edges:
        """The four sides of the tile; `classes` are of its shape."""
        found = edges_of(self.framed[1:-1, 1:-1], classes)
        for strip in (found.top, found.bottom, found.left, found.right):
            strip[0] = self.region[strip[0]]
        return found

    def labels(self) -> NDArray[np.int32]:
        """The region of each pixel, of the tile's shape; 0 at nodata."""
        inside = self.framed[1:-1, 1:-1]
        return inside.copy() if self.regions == len(self.region) - 1 else self.region[inside]


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
    connectivity: Connectivity = 4,
) -> tuple[NDArray[np.int32], RegionTable]:
    """Labels of a tile's pixels and the table of its regions.

    Args:
        classes: class ids, of the core's shape.
        confidence: percent 0..100 or 255 for none, of the core's shape; None when there is none at all.
        pixel_area: m2 of each pixel, broadcastable to the core's shape.
        core: where the tile is in the scene.
        nodata: the value in `classes` that is no class.
        connectivity: 4, or 8 if pixels that touch at corners are connected too.

    Returns:
        labels of the core's shape: 0 at nodata, else 1..n in the order of the regions' first pixels; and
        the table whose entry i is the region with label i + 1.
    """
    found = find_components(classes, core=core, scene=core, nodata=nodata, connectivity=connectivity)
    table = measure_regions(found, classes, confidence=confidence, pixel_area=pixel_area, core=core)
    return found.labels(), table


def find_components(
    classes: NDArray[np.uint8], *, core: Window, scene: Window, nodata: int, connectivity: Connectivity = 4
) -> Components:
    """The regions of a tile and their pieces.

    Args:
        classes: class ids, of the core's shape.
        core: where the tile is in the scene.
        scene: all pixels there are; where the core ends and the scene does not, there is a seam.
        nodata: the value in `classes` that is no class.
        connectivity: 4, or 8 if pixels that touch at corners are connected too.
    """
    from geoseg.labelling import join_diagonals, label_components

    _check_shape("classes", classes, core)
    classes = _plain(classes)
    framed = np.empty((core.height + 2, core.width + 2), np.int32)
    top, bottom, left, right = (UNKNOWN if seam else OUTSIDE for seam in seam_sides(core, scene))
    framed[0], framed[-1], framed[:, 0], framed[:, -1] = top, bottom, left, right
    regions = pieces = label_components(classes, nodata, framed)
    region = np.arange(pieces + 1, dtype=np.int32)
    if connectivity == 8:  # noqa: PLR2004
        regions = join_diagonals(classes, framed, region)
    return Components(framed=framed, region=region, regions=regions)


def seam_sides(core: Window, scene: Window) -> tuple[bool, bool, bool, bool]:
    """Whether other tiles lie above, below, to the left and to the right of a core."""
    return (
        core.row > scene.row,
        core.stop_row < scene.stop_row,
        core.col > scene.col,
        core.stop_col < scene.stop_col,
    )


def measure_regions(
    found: Components,
    classes: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None,
    pixel_area: NDArray[np.floating],
    core: Window,
    mix: NDArray[np.int64] | None = None,
) -> RegionTable:
    """The table of a tile's regions; sums go from pixels to runs of a row to regions.

    Args:
        found: the regions.
        classes: class ids, of the core's shape.
        confidence: percent 0..100 or 255 for none, of the core's shape; None when there is none at all.
        pixel_area: m2 of each pixel, broadcastable to the core's shape.
        core: where the tile is in the scene.
        mix: of each region, pixels by what they were before, for the table.
    """
    from geoseg.labelling import add_confidence, measure

    _check_shape("classes", classes, core)
    n = found.regions
    table = RegionTable(
        class_id=np.empty(n, np.uint8),
        pixels=np.empty(n, np.int64),
        confidence_sum=np.zeros(n, np.int64),
        confidence_count=np.zeros(n, np.int64),
        confidence_min=np.full(n, CONFIDENCE_NODATA, np.uint8),
        area_m2=np.empty(n, np.float64),
        first_pixel=np.empty((n, 2), np.int32),
        box=np.empty((n, 4), np.int32),
        mix=mix,
    )
    sums = (table.class_id, table.pixels, table.area_m2, table.first_pixel, table.box)
    origin = (core.row, core.col)
    measure(found.framed, found.region, _plain(classes), _area_rows(pixel_area), origin, *sums)
    if confidence is not None:
        _check_shape("confidence", confidence, core)
        scores = (table.confidence_sum, table.confidence_count, table.confidence_min)
        add_confidence(found.framed, found.region, _plain(confidence), *scores)
    return table


def class_mix(
    found: Components, original: NDArray[np.uint8], ids: NDArray[np.uint8], *, core: Window
) -> NDArray[np.int64]:
    """Shape (regions, len(ids)): pixels of each region by the class they had; other classes are left out."""
    from geoseg.labelling import count_classes

    _check_shape("original", original, core)
    column = np.full(256, -1, np.int64)
    column[ids] = np.arange(len(ids))
    counts = np.zeros((found.regions, len(ids)), np.int64)
    count_classes(found.framed, found.region, _plain(original), column, counts)
    return counts


def edges_of(labels: NDArray[np.int32], classes: NDArray[np.uint8]) -> Edges:
    """The four sides of a tile, copied so that they do not keep the whole arrays alive."""
    sides: dict[str, tuple[slice | int, slice | int]] = {
        "top": (0, slice(None)),
        "bottom": (-1, slice(None)),
        "left": (slice(None), 0),
        "right": (slice(None), -1),
    }
    return Edges(**{k: np.stack([labels[at], classes[at].astype(np.int32)]) for k, at in sides.items()})


def link_tiles(
    cores: Sequence[Window], load_edges: Callable[[Window], Edges], *, connectivity: Connectivity = 4
) -> SeamGroups:
    """The regions that cross seams, as groups of (tile, label); tile is the index in `cores`.

    Each tile's edges are asked for once, in row-major order of the grid; no more than one row of tiles is
    held at a time.

    Args:
        cores: where the tiles are.
        load_edges: the edges of the tile with the given core.
        connectivity: 4, or 8 if pixels that touch at corners connect, across seams and tile corners too.

    Raises:
        UsageError: when the cores are not a grid of rows and columns that abut.
    """
    pairs = [np.empty((2, 0), np.int64)]
    above: dict[int, _Strip] = {}
    for row in core_grid(cores).tolist():
        before = None
        for place, tile in enumerate(row):
            edges = load_edges(cores[tile])
            up, top, left = above.get(place), (tile, edges.top), (tile, edges.left)
            if up is not None:
                pairs += _across(up, top, connectivity)
            if before is not None:
                beside, corner = before
                pairs += _across(beside, left, connectivity)
                if corner is not None and up is not None and connectivity == 8:  # noqa: PLR2004
                    pairs += [_meet(_part(corner, -1, None), _part(top, 0, 1))]
                    pairs += [_meet(_part(up, 0, 1), _part(beside, 0, 1))]
            above[place], before = (tile, edges.bottom), ((tile, edges.right), up)
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


def _check_shape(name: str, array: NDArray[np.uint8], core: Window) -> None:
    if array.shape != core.shape:
        raise ValueError(f"{name} has shape {array.shape}, its core ({core}) {core.shape}")


def _plain(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contiguous and writable: compiled loops exist once per kind of array."""
    return np.require(array, np.uint8, ["C", "W"])


def _area_rows(pixel_area: NDArray[np.floating]) -> NDArray[np.floating]:
    """Areas of shape (1 or height, 1 or width): those that are one per row are not spread over the pixels."""
    area = np.atleast_2d(pixel_area)
    if area.strides[1] == 0:
        area = area[:, :1]
    if area.strides[0] == 0:
        area = area[:1]
    return np.require(area, None if area.dtype == np.float32 else np.float64, ["C", "W"])


def _across(one: _Strip, other: _Strip, connectivity: Connectivity) -> list[NDArray[np.int64]]:
    """Keys of the regions that meet along a seam: by sides and, if they connect, by corners."""
    straight = _meet(one, other)
    if connectivity == 4:  # noqa: PLR2004
        return [straight]
    falling = _meet(_part(one, 0, -1), _part(other, 1, None))
    return [straight, falling, _meet(_part(one, 1, None), _part(other, 0, -1))]


def _part(strip: _Strip, start: int, stop: int | None) -> _Strip:
    return strip[0], strip[1][:, start:stop]


def _meet(one: _Strip, other: _Strip) -> NDArray[np.int64]:
    """Keys of the regions whose pixels lie face to face, shape (2, pairs), repeats in a row dropped."""
    (tile, strip), (other_tile, other_strip) = one, other
    same = (strip[1] == other_strip[1]) & (strip[0] > 0) & (other_strip[0] > 0)
    labels = np.stack([strip[0][same], other_strip[0][same]]).astype(np.int64)
    fresh = np.ones(labels.shape[1], bool)
    fresh[1:] = (labels[:, 1:] != labels[:, :-1]).any(axis=0)
    return labels[:, fresh] + (np.array([[tile], [other_tile]], np.int64) << _TILE_BITS)


def _group(pairs: NDArray[np.int64]) -> SeamGroups:
    """Connected components of the graph whose edges are `pairs`."""
    keys, inverse = np.unique(pairs, return_inverse=True)
    if not len(keys):
        return SeamGroups(keys=keys, group=np.empty(0, np.intp), count=0)
    one, other = np.split(inverse.ravel(), 2)
    graph = coo_array((np.ones(len(one), np.int64), (one, other)), (len(keys), len(keys)))
    count, group = connected_components(graph, directed=False)
    return SeamGroups(keys=keys, group=group.astype(np.intp), count=int(count))
