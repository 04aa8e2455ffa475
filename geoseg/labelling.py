"""Compiled loops over the pixels of one tile: connected components, and sums per region.

Only what needs them imports this module, and inside functions: loading numba takes half a second.
Labels lie in an array with a frame of one pixel around the tile, so that no loop asks where the tile ends;
what the frame holds is the caller's business. The caller allocates what is large: numpy asks for huge pages,
and numba does not, which triples the cost of touching memory first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_CONFIDENCE = 255
_KERNEL = njit(cache=True, nogil=True)


@_KERNEL
def _root(parent: NDArray[np.int32], i: int) -> int:
    """The lowest label known to be one with `i`; halves the way there."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@_KERNEL
def _unite(parent: NDArray[np.int32], one: int, other: int) -> None:
    """Both become one, under the lower of their lowest labels."""
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@_KERNEL
def _number(parent: NDArray[np.int32], count: int) -> int:
    """Replaces parents by numbers 1.. in the order of the lowest labels; how many there are.

    Parents are lower than their children, hence numbered before them.
    """
    numbers = 0
    for i in range(1, count + 1):
        if parent[i] == i:
            numbers += 1
            parent[i] = numbers
        else:
            parent[i] = parent[parent[i]]
    return numbers


@_KERNEL
def label_components(classes: NDArray[np.uint8], nodata: int, framed: NDArray[np.int32]) -> int:
    """Labels the 4-connected components of equal class; returns how many there are.

    Args:
        classes: class ids, shape (height, width).
        nodata: the value that is no class.
        framed: shape (height + 2, width + 2); its inside is set to 0 at nodata and elsewhere to 1.. in the
            order of the components' first pixels, its frame is left as it is.
    """
    height, width = classes.shape
    parent = np.empty(classes.size + 1, np.int32)  # of which only what is used becomes memory
    parent[0] = 0
    used = 0
    for row in range(height):
        for col in range(width):
            value = classes[row, col]
            label = 0
            if value != nodata:
                left = col > 0 and classes[row, col - 1] == value
                above = row > 0 and classes[row - 1, col] == value
                if left:
                    label = framed[row + 1, col]
                    # If the pixel between them is alike too, they have met already.
                    if above and classes[row - 1, col - 1] != value:
                        _unite(parent, label, framed[row, col + 1])
                elif above:
                    label = framed[row, col + 1]
                else:
                    used += 1
                    parent[used] = used
                    label = used
            framed[row + 1, col + 1] = label
    count = _number(parent, used)
    for row in range(1, height + 1):
        for col in range(1, width + 1):
            framed[row, col] = parent[framed[row, col]]
    return count


@_KERNEL
def join_diagonals(classes: NDArray[np.uint8], framed: NDArray[np.int32], region: NDArray[np.int32]) -> int:
    """Makes components that touch at corners 8-connected regions; returns how many there are.

    Args:
        classes: class ids.
        framed: the components, with their frame.
        region: 0, 1, 2.. when called; then entry 0 is 0, and others are the region of each component, 1.. in
            the order of the regions' first pixels.
    """
    height, width = classes.shape
    for row in range(1, height):
        for col in range(1, width):
            nw, ne = framed[row, col], framed[row, col + 1]
            sw, se = framed[row + 1, col], framed[row + 1, col + 1]
            # Where two of the four lie side by side in one component, no corner joins any others.
            if nw in (ne, sw) or se in (ne, sw):
                continue
            if nw > 0 and classes[row - 1, col - 1] == classes[row, col]:
                _unite(region, nw, se)
            if ne > 0 and classes[row - 1, col] == classes[row, col - 1]:
                _unite(region, ne, sw)
    return _number(region, len(region) - 1)


@_KERNEL
def measure(
    framed: NDArray[np.int32],
    region: NDArray[np.int32],
    classes: NDArray[np.uint8],
    pixel_area: NDArray[Any],
    origin: tuple[int, int],
    class_id: NDArray[np.uint8],
    pixels: NDArray[np.int64],
    area_m2: NDArray[np.float64],
    first_pixel: NDArray[np.int32],
    box: NDArray[np.int32],
) -> None:
    """Sums over the pixels of each region, from pixels to runs of a row to regions.

    Args:
        framed: labels, with their frame.
        region: region 1.. of each label; 0 of label 0.
        classes: class ids.
        pixel_area: shape (1 or height, 1 or width).
        origin: row and column in the scene of the tile's first pixel.
        class_id: written, as are the following; one entry per region, as in `RegionTable`.
        pixels: written.
        area_m2: written.
        first_pixel: written.
        box: written.
    """
    height, width = classes.shape
    class_id[:], pixels[:], area_m2[:] = 0, 0, 0
    for row in range(height):
        areas = pixel_area[row if pixel_area.shape[0] > 1 else 0]
        start = 0
        while start < width:
            label = framed[row + 1, start + 1]
            stop = start + 1
            while stop < width and framed[row + 1, stop + 1] == label:
                stop += 1
            if label > 0:
                at = region[label] - 1
                if pixels[at] == 0:
                    class_id[at] = classes[row, start]
                    first_pixel[at, 0], first_pixel[at, 1] = row + origin[0], start + origin[1]
                    box[at, 0], box[at, 1], box[at, 3] = row + origin[0], start + origin[1], 0
                box[at, 1] = min(box[at, 1], start + origin[1])
                box[at, 2] = row + 1 + origin[0]
                box[at, 3] = max(box[at, 3], stop + origin[1])
                pixels[at] += stop - start
                if len(areas) > 1:
                    area_m2[at] += _total(areas[start:stop])
                else:
                    area_m2[at] += (stop - start) * np.float64(areas[0])
            start = stop


@_KERNEL
def _total(values: NDArray[Any]) -> float:
    """The sum of the values, in four sums that need not wait for one another; areas add up exactly anyway."""
    one = two = three = four = 0.0
    whole = len(values) // 4 * 4
    for i in range(0, whole, 4):
        one += values[i]
        two += values[i + 1]
        three += values[i + 2]
        four += values[i + 3]
    for i in range(whole, len(values)):
        one += values[i]
    return one + two + three + four


@_KERNEL
def add_confidence(
    framed: NDArray[np.int32],
    region: NDArray[np.int32],
    confidence: NDArray[np.uint8],
    total: NDArray[np.int64],
    known: NDArray[np.int64],
    lowest: NDArray[np.uint8],
) -> None:
    """Counts in the confidences of each region's pixels; 255 is none.

    Args:
        framed: labels, with their frame.
        region: region 1.. of each label; 0 of label 0.
        confidence: percent, of the tile's shape.
        total: sum of each region's confidences, added to.
        known: number of its pixels that have one, added to.
        lowest: its lowest confidence, lowered.
    """
    height, width = confidence.shape
    for row in range(height):
        for col in range(width):
            value = confidence[row, col]
            label = framed[row + 1, col + 1]
            if label > 0 and value != _NO_CONFIDENCE:
                at = region[label] - 1
                total[at] += value
                known[at] += 1
                lowest[at] = min(lowest[at], value)


@_KERNEL
def count_classes(
    framed: NDArray[np.int32],
    region: NDArray[np.int32],
    original: NDArray[np.uint8],
    column: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Counts in each region's pixels by what they were before.

    Args:
        framed: labels, with their frame.
        region: region 1.. of each label; 0 of label 0.
        original: class ids before regions were dissolved, of the tile's shape.
        column: shape (256,): where each id is counted; -1: nowhere.
        counts: shape (regions, columns), added to.
    """
    for row in range(original.shape[0]):
        for col in range(original.shape[1]):
            label = framed[row + 1, col + 1]
            at = column[original[row, col]]
            if label > 0 and at >= 0:
                counts[region[label] - 1, at] += 1
