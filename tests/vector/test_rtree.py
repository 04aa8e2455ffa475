import sqlite3
from contextlib import closing

import numpy as np
import pytest

from geoseg.vector.pages import BulkTable, PageFile
from geoseg.vector.rtree import PackedTree, _outward


def random_boxes(count, seed=0, *, spread=1e6):
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * spread
    return np.concatenate([low, low + rng.exponential(spread / 300, (count, 2))], axis=1)


def index(path, lots):
    """A file with an rtree table `r` of the boxes, numbered from 1."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIRTUAL TABLE r USING rtree(id, minx, maxx, miny, maxy)")
        connection.commit()
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
    with path.open("r+b") as file:
        pages = PageFile.of(file)
        rows, nodes = (BulkTable(pages=pages, root=roots[name]) for name in ("r_rowid", "r_node"))
        tree = PackedTree(rows=rows, nodes=nodes)
        for boxes in lots:
            tree.add(boxes)
        for table in (rows, nodes):
            table.finish()
        pages.finish()
    with closing(sqlite3.connect(path)) as connection, connection:
        tree.finish(connection, "r")
    return np.concatenate([np.empty((0, 4)), *lots])


def found(connection, x0, y0, x1, y1):
    query = "SELECT id FROM r WHERE minx <= ? AND maxx >= ? AND miny <= ? AND maxy >= ? ORDER BY id"
    return [row[0] for row in connection.execute(query, (x1, x0, y1, y0))]


def expected(boxes, x0, y0, x1, y1):
    hit = (boxes[:, 0] <= x1) & (boxes[:, 2] >= x0) & (boxes[:, 1] <= y1) & (boxes[:, 3] >= y0)
    return (np.flatnonzero(hit) + 1).tolist()


@pytest.mark.parametrize(
    "counts", [(), (1,), (2,), (51,), (52,), (1, 1, 1), (2601,), (2602,), (700, 3, 2500), (9000, 9000)]
)
def test_windows_find_the_boxes_that_brute_force_finds(tmp_path, counts):
    boxes = index(tmp_path / "a.db", [random_boxes(n, i) for i, n in enumerate(counts)])
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT rtreecheck('r')").fetchone() == ("ok",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM r").fetchone() == (len(boxes),)
        rounded = _outward(boxes)  # what the index can know
        for window in random_boxes(60, 99) * [1, 1, 1.02, 1.02]:
            assert found(connection, *window.tolist()) == expected(rounded, *window.tolist())
        assert found(connection, -1e9, -1e9, 1e9, 1e9) == list(range(1, len(boxes) + 1))


def test_few_nodes_are_read_for_a_window(tmp_path):
    """A packed tree is as good as can be: the leaves that meet a small window are few."""
    boxes = index(tmp_path / "a.db", [random_boxes(20_000)])
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        leaves = connection.execute("SELECT count(DISTINCT nodeno) FROM r_rowid").fetchone()[0]
        assert leaves == -(-len(boxes) // 51)
        query = (
            "SELECT count(DISTINCT nodeno) FROM r_rowid WHERE rowid IN"
            " (SELECT id FROM r WHERE minx <= ? AND maxx >= ? AND miny <= ? AND maxy >= ?)"
        )
        (touched,) = connection.execute(query, (520_000, 500_000, 520_000, 500_000)).fetchone()
    assert touched <= 9


def test_it_lives_on_under_sql(tmp_path):
    boxes = index(tmp_path / "a.db", [random_boxes(3000), random_boxes(40, 7)])
    more = random_boxes(500, 5)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("DELETE FROM r WHERE id % 2 = 0")
        connection.executemany(
            "INSERT INTO r VALUES (?, ?, ?, ?, ?)",
            [(5000 + i, x0, x1, y0, y1) for i, (x0, y0, x1, y1) in enumerate(more.tolist())],
        )
        assert connection.execute("SELECT rtreecheck('r')").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM r").fetchone() == (1520 + 500,)
        kept = found(connection, *boxes[100].tolist())
        assert 101 in kept
        connection.execute("DELETE FROM r")
        assert connection.execute("SELECT rtreecheck('r')").fetchone() == ("ok",)


def test_boxes_are_rounded_outwards():
    boxes = random_boxes(2000) * [1, -1, 1, -1]
    boxes = boxes[:, [0, 3, 2, 1]] + [0.1, 0.1, 0.3, 0.3]
    rounded = _outward(boxes).astype(np.float64)
    assert (rounded[:, :2] <= boxes[:, :2]).all()
    assert (rounded[:, 2:] >= boxes[:, 2:]).all()
    assert np.abs(rounded - boxes).max() <= 1e6 * 2**-23
    exact = np.array([[1.0, 2.0, 3.0, 4.5]])
    assert (_outward(exact) == exact).all()
