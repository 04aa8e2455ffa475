import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.vector import pages
from geoseg.vector.pages import BLOB, INT, NULL_INT, REAL, ROW_ID, TEXT, BulkTable, PageFile, Rows

TEXTS = ("", "water", "Äcker & wälder " * 9)
BITS = (7, 15, 23, 31, 47)
EXTREMES = [0, 1, 2, -1, 2**63 - 1, -(2**63) + 1, NULL_INT]
EXTREMES += [v for b in BITS for v in (2**b - 1, 2**b, -(2**b), -(2**b) - 1)]


def new_file(path, *, page=512):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute("CREATE TABLE other (x)")
        connection.execute(
            "CREATE TABLE t (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom BLOB, a INTEGER, b REAL,"
            " name TEXT, c INTEGER, d REAL)"
        )
        connection.commit()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 't'").fetchone()
    return root


def random_rows(rng, count, *, longest):
    sizes = rng.integers(0, longest + 1, count) * rng.integers(0, 2, count)
    return Rows(
        layout=np.array([ROW_ID, BLOB, INT, REAL, TEXT, INT, REAL], np.int8),
        count=count,
        ints=rng.choice(np.array(EXTREMES, np.int64), (2, count)),
        reals=rng.choice(np.array([0.0, -1.5, 1e300, np.inf, np.nan, 3.0]), (2, count)),
        blobs=rng.integers(0, 256, sizes.sum(), dtype=np.uint8),
        blob_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        text_of_row=rng.integers(0, len(TEXTS), count),
        texts=TEXTS,
    )


def as_tuples(rows, first):
    for i in range(rows.count):
        a, c = (None if v == NULL_INT else v for v in rows.ints[:, i].tolist())
        b, d = (None if v != v else v for v in rows.reals[:, i].tolist())  # noqa: PLR0124 - NaN
        blob = rows.blobs[rows.blob_offsets[i] : rows.blob_offsets[i + 1]].tobytes()
        yield first + i, blob, a, b, TEXTS[rows.text_of_row[i]], c, d


def fill(path, root, lots):
    with path.open("r+b") as file:
        bulk = PageFile.of(file)
        table = BulkTable(pages=bulk, root=root)
        for rows in lots:
            table.add(rows)
        table.finish()
        bulk.finish()
    return table


def stored(path):
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT * FROM t ORDER BY fid").fetchall()
        return rows, connection.execute("PRAGMA integrity_check").fetchall()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 7, 40, 333]), max_size=4),
    longest=st.sampled_from([0, 30, 470, 480, 2000, 40_000]),
    page=st.sampled_from([512, 4096, 65536]),
    seed=st.integers(0, 1000),
)
def test_sqlite_reads_back_what_was_written(tmp_path_factory, counts, longest, page, seed):
    path = tmp_path_factory.mktemp("pages") / "a.db"
    root, rng = new_file(path, page=page), np.random.default_rng(seed)
    lots = [random_rows(rng, n, longest=longest if n < 100 else min(longest, 2000)) for n in counts]
    fill(path, root, lots)
    rows, check = stored(path)
    assert check == [("ok",)]
    firsts = np.cumsum([1, *counts])[:-1].tolist()
    assert rows == [t for lot, first in zip(lots, firsts, strict=True) for t in as_tuples(lot, first)]


def test_every_size_of_a_row_around_that_of_a_page(tmp_path):
    path = tmp_path / "a.db"
    root = new_file(path)
    sizes = np.arange(380, 1600)
    blobs = np.random.default_rng(0).integers(0, 256, sizes.sum(), dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = len(sizes)
    rows = Rows(
        layout=np.array([ROW_ID, BLOB, INT, REAL, TEXT, INT, REAL], np.int8),
        count=n,
        ints=np.zeros((2, n), np.int64),
        reals=np.zeros((2, n)),
        blobs=blobs,
        blob_offsets=offsets,
        text_of_row=np.zeros(n, np.int64),
        texts=TEXTS,
    )
    fill(path, root, [rows])
    found, check = stored(path)
    assert check == [("ok",)]
    assert found == list(as_tuples(rows, 1))


def test_deep_trees_are_searched_and_grow_on(tmp_path):
    path = tmp_path / "a.db"
    root, rng = new_file(path), np.random.default_rng(0)
    lots = [random_rows(rng, n, longest=60) for n in (20_000, 1, 9_999)]
    table = fill(path, root, lots)
    assert sum(map(len, table.numbers)) > 33 * 33, "three levels of 512 bytes"
    with closing(sqlite3.connect(path)) as connection, connection:
        for fid in (1, 2, 19_999, 20_000, 20_001, 20_002, 30_000):
            found = connection.execute("SELECT fid FROM t WHERE fid = ?", (fid,)).fetchall()
            assert found == [(fid,)]
        connection.execute("DELETE FROM t WHERE fid % 3 = 0")
        connection.executemany("INSERT INTO t (geom) VALUES (?)", [(b"x" * 700,)] * 500)
        assert connection.execute("SELECT count(*), max(fid) FROM t").fetchone() == (20_500, 30_499)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_rows_of_hundreds_of_columns_have_a_longer_header(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        names = ", ".join(f"c{i} REAL" for i in range(250))
        connection.execute(f"CREATE TABLE t (fid INTEGER PRIMARY KEY, {names})")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master").fetchone()
    values = np.random.default_rng(0).random((250, 30))
    rows = Rows(layout=np.array([ROW_ID, *[REAL] * 250], np.int8), count=30, reals=values)
    fill(path, root, [rows])
    found, check = stored(path)
    assert check == [("ok",)]
    assert np.array_equal(np.array(found)[:, 1:], values.T)


@pytest.mark.parametrize("kind", ["leaf", "overflow", "interior"])
def test_the_page_of_the_lock_byte_stays_empty(tmp_path, monkeypatch, kind):
    """It lies at 1 GiB; here nearer."""
    path = tmp_path / "a.db"
    root, rng = new_file(path), np.random.default_rng(0)
    rows = random_rows(rng, 2000, longest=3000 if kind == "overflow" else 60)
    plain = tmp_path / "plain.db"
    plain.write_bytes(path.read_bytes())
    count = sum(map(len, fill(plain, root, [rows]).numbers))
    lock = {"leaf": 40, "overflow": 41, "interior": 4 + count}[kind]
    monkeypatch.setattr(pages, "_LOCK_BYTE", (lock - 1) * 512 + 17)
    fill(path, root, [rows])
    found, check = stored(path)
    assert found == list(as_tuples(rows, 1))
    assert len(check) == 1
    assert check[0][0].endswith(f"Page {lock} is never used")
    page = path.read_bytes()[(lock - 1) * 512 : lock * 512]
    assert page == bytes(512)


@pytest.mark.parametrize("pragma", ["journal_mode = WAL", "auto_vacuum = FULL", "encoding = 'UTF-16'"])
def test_files_that_are_kept_otherwise_are_refused(tmp_path, pragma):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE t (x)")
    with path.open("r+b") as file, pytest.raises(OSError, match="whose pages can be written as they are"):
        PageFile.of(file)
