"""Lines on the demo landscape: paths of least cost over a coarse graph, smoothed and painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINK_PX = 16
"""Pixels between the nodes of the graph that streams and roads follow."""

_CHUNK = 512


def graph(cost: NDArray[np.float32]) -> csr_matrix:
    """The 8-connected graph of a square `cost` grid; an edge costs its length times the mean of its ends."""
    side = cost.shape[0]
    index = np.arange(side * side).reshape(side, side)
    ends = [
        (index[:, :-1], index[:, 1:], 1.0),
        (index[:-1], index[1:], 1.0),
        (index[:-1, :-1], index[1:, 1:], 2**0.5),
        (index[:-1, 1:], index[1:, :-1], 2**0.5),
    ]
    start = np.concatenate([a.ravel() for a, _, _ in ends])
    stop = np.concatenate([b.ravel() for _, b, _ in ends])
    length = np.concatenate([np.full(a.size, d) for a, _, d in ends])
    flat = cost.ravel().astype(np.float64)
    weight = length * (flat[start] + flat[stop]) / 2
    rows, cols = np.concatenate([start, stop]), np.concatenate([stop, start])
    return csr_matrix((np.concatenate([weight, weight]), (rows, cols)), shape=(index.size, index.size))


def trace(before: NDArray[np.int32], node: int) -> NDArray[np.int64]:
    """The nodes from `node` back to the root of a predecessor tree, both included."""
    path = [node]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return np.array(path)


def curve(path: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Pixel coordinates (n, 2) of a smooth line along graph nodes, one point per pixel, ends kept."""
    points = np.stack(np.divmod(path, side), axis=1).astype(np.float64) * LINK_PX
    if len(points) > 2:  # noqa: PLR2004 - two points are a straight line already
        calm = gaussian_filter1d(points, 1.6, axis=0, mode="nearest")
        calm[0], calm[-1] = points[0], points[-1]
        points = calm
    at = np.arange(len(points))
    fine = np.linspace(0, len(points) - 1, (len(points) - 1) * LINK_PX + 1)
    line = np.stack([np.interp(fine, at, points[:, axis]) for axis in (0, 1)], axis=1)
    return np.asarray(gaussian_filter1d(line, LINK_PX * 0.6, axis=0, mode="nearest"))


def paint(
    canvas: NDArray[np.uint8], line: NDArray[np.float64], radius: NDArray[np.float64], value: int
) -> None:
    """Set to `value` every pixel of `canvas` whose centre is within `radius[i]` pixels of point `line[i]`."""
    reach = int(np.ceil(radius.max())) + 1
    offset = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(offset, offset, indexing="ij"), axis=-1).reshape(-1, 2)
    for start in range(0, len(line), _CHUNK):
        points = line[start : start + _CHUNK, None, :]
        pixel = np.floor(points).astype(np.int64) + grid[None]
        distance = np.hypot(*np.moveaxis(pixel + 0.5 - points, -1, 0))
        inside = distance <= radius[start : start + _CHUNK, None]
        inside &= ((pixel >= 0) & (pixel < canvas.shape)).all(axis=-1)
        row, col = pixel[inside].T
        canvas[row, col] = value
