"""A packed R*-tree in the shadow tables of SQLite's rtree module.

SQLite inserts one box after the other and splits nodes as they fill. Here whole nodes are made of boxes that
lie together (sort-tile-recursive) and stored as SQLite itself would read them, a batch at a time: the leaves
as the boxes come, the levels above at the end. In memory stays one box per leaf, not one per feature.

A node is: the depth of the tree (2 bytes, in the root only), the number of cells (2 bytes), the cells: an id
(8 bytes: row of a leaf's cell, node of another's) and least x, greatest x, least y, greatest y (4 bytes
each). Everything is big-endian. Coordinates are rounded outwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

    from geoseg.vector.pages import BulkTable, Rows

_MOST_CELLS = 51
"""Cells in a node: what SQLite takes, whatever the page size."""

_CELL = np.dtype([("id", ">i8"), ("x0", ">f4"), ("x1", ">f4"), ("y0", ">f4"), ("y1", ">f4")])
_NODE = np.dtype([("depth", ">u2"), ("count", ">u2"), ("cells", _CELL, _MOST_CELLS)])

_ROOT = 1


@dataclass(slots=True, kw_only=True)
class PackedTree:
    """Nodes and rows of an index while boxes are added."""

    rows: BulkTable
    """The table `..._rowid`: which leaf each row is in."""
    nodes: BulkTable
    """The table `..._node`."""
    leaf_boxes: list[NDArray[np.float32]] = field(default_factory=list)
    """Shape (leaves, 4) per batch; leaves are numbered in this order, from 2."""

    def add(self, boxes: NDArray[np.float64]) -> None:
        """Store the boxes of the next rows, shape (boxes, 4): least x, least y, greatest x, greatest y."""
        from geoseg.vector.pages import INT, ROW_ID, Rows

        if not len(boxes):
            return
        if not self.leaf_boxes:  # the root comes first in its table, and is written last
            self.nodes.add(_node_rows(np.zeros(1, _NODE)))
        outward = _outward(boxes)
        order, starts = _pack(outward)
        first_node, first_row = self.nodes.next_id, self.rows.next_id
        self.nodes.add(_node_rows(_nodes(order + first_row, outward, order, starts)))
        of_row = np.empty((1, len(boxes)), np.int64)
        of_row[0, order] = np.repeat(np.arange(len(starts) - 1) + first_node, np.diff(starts))
        self.rows.add(Rows(layout=np.array([ROW_ID, INT], np.int8), count=len(boxes), ints=of_row))
        self.leaf_boxes.append(_around(outward, order, starts))

    def finish(self, connection: sqlite3.Connection, name: str) -> None:
        """Store the levels above the leaves, when those are in the file."""
        boxes = np.concatenate([np.empty((0, 4), np.float32), *self.leaf_boxes])
        numbers = np.arange(len(boxes)) + _ROOT + 1
        depth = 1 if len(boxes) else 0
        while len(boxes) > _MOST_CELLS:
            order, starts = _pack(boxes)
            nodes = _nodes(numbers[order], boxes, order, starts)
            above = np.arange(len(nodes)) + numbers.max() + 1
            connection.executemany(
                f'INSERT INTO "{name}_node" VALUES (?, ?)',  # noqa: S608 - our own name
                zip(above.tolist(), _blobs(nodes), strict=True),
            )
            _adopt(connection, name, numbers[order], np.repeat(above, np.diff(starts)))
            boxes, numbers = _around(boxes, order, starts), above
            depth += 1
        _adopt(connection, name, numbers, np.full(len(numbers), _ROOT))
        root = _nodes(numbers, boxes, np.arange(len(boxes)), np.array([0, len(boxes)]))
        root["depth"] = depth
        connection.execute(
            f'INSERT OR REPLACE INTO "{name}_node" VALUES (?, ?)',  # noqa: S608 - our own name
            (_ROOT, root.tobytes()),
        )


def _adopt(
    connection: sqlite3.Connection, name: str, children: NDArray[np.int64], parents: NDArray[np.int64]
) -> None:
    """Store which node the entries of other nodes are in."""
    order = np.argsort(children)
    connection.executemany(
        f'INSERT INTO "{name}_parent" VALUES (?, ?)',  # noqa: S608 - our own name
        zip(children[order].tolist(), parents[order].tolist(), strict=True),
    )


def _blobs(nodes: NDArray[np.void]) -> list[bytes]:
    data, size = nodes.tobytes(), _NODE.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def _node_rows(nodes: NDArray[np.void]) -> Rows:
    """The nodes as rows of their table."""
    from geoseg.vector.pages import BLOB, ROW_ID, Rows

    return Rows(
        layout=np.array([ROW_ID, BLOB], np.int8),
        count=len(nodes),
        blobs=nodes.view(np.uint8).reshape(-1),
        blob_offsets=np.arange(len(nodes) + 1) * _NODE.itemsize,
    )


def _outward(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """The smallest boxes in single precision that contain `boxes`."""
    rounded = boxes.astype(np.float32)
    toward = np.array([-np.inf, -np.inf, np.inf, np.inf], np.float32)
    cut = np.concatenate([rounded[:, :2] > boxes[:, :2], rounded[:, 2:] < boxes[:, 2:]], axis=1)
    return np.where(cut, np.nextafter(rounded, toward), rounded)


def _pack(boxes: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """An order of the boxes, and where in it each node begins and the last one ends.

    Nodes are as full as can be, and evenly. The plane is cut into upright slices of as many nodes as each is
    to hold, and each slice into nodes from bottom to top.
    """
    nodes = -(-len(boxes) // _MOST_CELLS)
    slices = math.ceil(math.sqrt(nodes))
    starts = np.arange(nodes + 1) * len(boxes) // nodes
    of_slice = np.diff(starts[np.arange(slices + 1) * nodes // slices])
    middle = boxes[:, :2].astype(np.float64) + boxes[:, 2:]
    across = np.argsort(middle[:, 0], kind="stable")
    within = np.lexsort((middle[across, 1], np.repeat(np.arange(slices), of_slice)))
    return across[within], starts


def _nodes(
    ids: NDArray[np.int64], boxes: NDArray[np.float32], order: NDArray[np.intp], starts: NDArray[np.intp]
) -> NDArray[np.void]:
    """Nodes of the ids, given in order, and the boxes at `order`."""
    counts = np.diff(starts)
    nodes = np.zeros(len(counts), _NODE)
    nodes["count"] = counts
    at = np.repeat(np.arange(len(counts)), counts), np.arange(len(order)) - np.repeat(starts[:-1], counts)
    cells = np.empty(len(order), _CELL)
    cells["id"] = ids
    for column, name in enumerate(("x0", "y0", "x1", "y1")):
        cells[name] = boxes[order, column]
    nodes["cells"][at] = cells
    return nodes


def _around(
    boxes: NDArray[np.float32], order: NDArray[np.intp], starts: NDArray[np.intp]
) -> NDArray[np.float32]:
    """The box around each run of boxes in the order."""
    low = np.minimum.reduceat(boxes[order, :2], starts[:-1])
    high = np.maximum.reduceat(boxes[order, 2:], starts[:-1])
    return np.concatenate([low, high], axis=1)
