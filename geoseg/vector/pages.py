"""Rows in bulk into tables of an SQLite file, as finished pages: compiled, many times faster than SQL.

A table is a B-tree of pages: leaves hold the rows, sorted by row id; interior pages hold, for each page below
but the last, its number and its last row id. Rows here come in the order of their ids, so leaves are filled
one after the other and appended to the file; the interior pages follow at the end, and the root goes where
the schema says it is. What this relies on is the file format that SQLite has promised to keep
(https://www.sqlite.org/fileformat2.html). Nobody else may have the file open meanwhile.

Importing this module loads numba: do it where tables are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NULL_INT = np.iinfo(np.int64).min
"""An integer that is stored as null."""

ROW_ID, BLOB, TEXT, INT, REAL = range(5)
"""Kinds of columns: the row's id, the one blob, the one text, the next integer, the next real."""

_LOCK_BYTE = 1 << 30
"""The page that holds this byte of the file is left to the locks of operating systems."""

_LEAF, _INTERIOR = 13, 5
_SEVEN_BITS, _LONGEST_VARINT = 128, 9
_REAL_TYPE, _BLOB_TYPE = 7, 12
"""Serial types; blobs and texts have this one plus twice their size, texts one more."""
_INT_BYTES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0])
"""By serial type: null, integers of some sizes, a real, the constants 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one table."""

    layout: NDArray[np.int8]
    """The kind of each column, in the table's order."""
    count: int
    """Number of rows."""
    ints: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """Shape (integer columns, rows); NULL_INT is null."""
    reals: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0), np.float64))
    """Shape (real columns, rows); NaN is null."""
    blobs: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    """The bytes of all blobs."""
    blob_offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    """Where each row's blob begins, and where the last one ends."""
    text_of_row: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Which text each row has."""
    texts: tuple[str, ...] = ()
    """The texts there are."""


@dataclass(slots=True, kw_only=True)
class PageFile:
    """An SQLite file to whose end pages are appended."""

    file: IO[bytes]
    page_bytes: int
    usable_bytes: int
    """Of a page; the rest is reserved."""
    count: int
    """Pages in the file."""

    @classmethod
    def of(cls, file: IO[bytes]) -> PageFile:
        """The pages of a file opened to read and write: in UTF-8, not in WAL mode, nor vacuuming itself."""
        file.seek(0)
        header = file.read(100)
        size = int.from_bytes(header[16:18], "big")
        size = 65536 if size == 1 else size
        kept_plainly = header[18:20] == b"\1\1" and not any(header[52:56]) and header[59:60] == b"\1"
        if not header.startswith(b"SQLite format 3\0") or not kept_plainly:
            raise OSError("not an SQLite file whose pages can be written as they are")
        count = file.seek(0, 2) // size
        return cls(file=file, page_bytes=size, usable_bytes=size - header[20], count=count)

    @property
    def lock_page(self) -> int:
        """Number of the page that stays empty."""
        return _LOCK_BYTE // self.page_bytes + 1

    def append(self, pages: NDArray[np.uint8]) -> None:
        """Write pages, shape (pages, page_bytes), after the last one."""
        self.file.seek(self.count * self.page_bytes)
        self.file.write(pages.data)
        self.count += len(pages)

    def replace(self, number: int, page: NDArray[np.uint8]) -> None:
        """Write one page where another was."""
        self.file.seek((number - 1) * self.page_bytes)
        self.file.write(page.data)

    def finish(self) -> None:
        """Tell the header how long the file is, and that it changed."""
        self.file.seek(24)
        change = (int.from_bytes(self.file.read(4), "big") + 1) & 0xFFFFFFFF
        for at, value in ((24, change), (28, self.count), (92, change)):
            self.file.seek(at)
            self.file.write(value.to_bytes(4, "big"))
        self.file.flush()


@dataclass(slots=True, kw_only=True)
class BulkTable:
    """A table, empty until now, while it is filled; `finish` makes it whole."""

    pages: PageFile
    root: int
    """Number of its root page."""
    next_id: int = 1
    """Id of the next row."""
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    """Page numbers of the leaves."""
    last_ids: list[NDArray[np.int64]] = field(default_factory=list)
    """The last row id in each."""
    held: Rows | None = None
    """The first rows, as long as they fill one leaf only: it may turn out to be the root."""

    def add(self, rows: Rows) -> None:
        """Append rows; their ids count on."""
        if not rows.count:
            return
        if self.held is not None:
            held, self.held = self.held, None
            self._append(held, 1)
        elif self.next_id == 1 and self._encoded(rows, 1, first_page=self.pages.count + 1)[1].size == 1:
            self.held = rows
            self.next_id += rows.count
            return
        self._append(rows, self.next_id)
        self.next_id += rows.count

    def _append(self, rows: Rows, first_id: int) -> None:
        data, numbers, last_ids = self._encoded(rows, first_id, first_page=self.pages.count + 1)
        self.pages.append(data)
        self.numbers.append(numbers)
        self.last_ids.append(last_ids)

    def _encoded(
        self, rows: Rows, first_id: int, *, first_page: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Pages from `first_page` on, and number and last row id of each leaf among them."""
        texts = [text.encode() for text in rows.texts]
        types = np.empty((rows.count, len(rows.layout)), np.int64)
        values, sizes = np.empty_like(types), np.empty((rows.count, 2), np.int64)
        _measure(
            rows.layout,
            rows.ints,
            rows.reals.view(np.int64),
            np.isnan(rows.reals),
            rows.blob_offsets,
            rows.text_of_row,
            np.cumsum([0, *map(len, texts)]),
            types,
            values,
            sizes,
        )
        usable, lock = self.pages.usable_bytes, self.pages.lock_page
        leaves, overflow = _count_pages(first_id, sizes, usable)
        new = leaves + overflow
        new += first_page <= lock < first_page + new
        data = np.zeros((new, self.pages.page_bytes), np.uint8)
        numbers, last_ids = np.empty(leaves, np.int64), np.empty(leaves, np.int64)
        _fill(
            first_id,
            rows.layout,
            types,
            values,
            sizes,
            rows.blobs,
            np.frombuffer(b"".join(texts), np.uint8),
            usable,
            self.pages.page_bytes,
            first_page,
            lock,
            data.reshape(-1),
            numbers,
            last_ids,
        )
        return data, numbers, last_ids

    def finish(self) -> None:
        """Write the pages above the leaves, the root in its place."""
        if self.held is not None:  # the leaf is the root; what overflows from it begins on the next page
            data, _, _ = self._encoded(self.held, 1, first_page=self.pages.count)
            self.pages.replace(self.root, data[0])
            self.pages.append(data[1:])
            return
        if not self.numbers:
            return
        numbers, last_ids = np.concatenate(self.numbers), np.concatenate(self.last_ids)
        most = (self.pages.usable_bytes - 12) // (4 + 9 + 2)
        while len(numbers) > most:
            groups = -(-len(numbers) // most)
            starts = np.arange(groups + 1) * len(numbers) // groups
            first = self.pages.count + 1
            at = np.arange(first, first + groups)
            at[at >= self.pages.lock_page] += first <= self.pages.lock_page
            data = np.zeros((at[-1] - first + 1, self.pages.page_bytes), np.uint8)
            for group, page in enumerate(at.tolist()):
                run = slice(starts[group], starts[group + 1])
                _interior(numbers[run], last_ids[run], self.pages.usable_bytes, data[page - first])
            self.pages.append(data)
            numbers, last_ids = at, last_ids[starts[1:] - 1]
        root = np.zeros(self.pages.page_bytes, np.uint8)
        _interior(numbers, last_ids, self.pages.usable_bytes, root)
        self.pages.replace(self.root, root)


@numba.njit(cache=True, nogil=True)
def _varint_bytes(value: int) -> int:
    size = 1
    while value >= _SEVEN_BITS and size < _LONGEST_VARINT:
        value >>= 7
        size += 1
    return size


@numba.njit(cache=True, nogil=True)
def _put_varint(data: Any, at: int, value: int) -> int:
    """Write a number below 2**56; returns where the next one goes."""
    if value < _SEVEN_BITS:
        data[at] = value
        return at + 1
    size = _varint_bytes(value)
    for i in range(size):
        more = 128 if i < size - 1 else 0
        data[at + i] = ((value >> (7 * (size - 1 - i))) & 127) | more
    return at + size


@numba.njit(cache=True, nogil=True)
def _put_int(data: Any, at: int, value: int, size: int) -> int:
    """Write the lowest `size` bytes; returns where the next ones go."""
    for i in range(size):
        data[at + i] = (value >> (8 * (size - 1 - i))) & 255
    return at + size


@numba.njit(cache=True, nogil=True)
def _int_type(value: int) -> int:
    """Serial type of an integer: the shortest that holds it."""
    if value == NULL_INT:
        return 0
    if 0 <= value <= 1:
        return 8 + value
    size = value if value >= 0 else ~value
    serial = 1
    while serial < 6 and size >> (8 * _INT_BYTES[serial] - 1):  # noqa: PLR2004 - the longest integer
        serial += 1
    return serial


@numba.njit(cache=True, nogil=True)
def _measure(
    layout: Any,
    ints: Any,
    real_bits: Any,
    real_nulls: Any,
    blob_offsets: Any,
    text_of_row: Any,
    text_offsets: Any,
    types: Any,
    values: Any,
    sizes: Any,
) -> None:
    """Serial type of each value, and the value itself or where its bytes begin; bytes of rows.

    Of each row: those of its header, and all.
    """
    count, i, r = len(types), 0, 0
    sizes[:] = 0
    for column in range(len(layout)):
        kind = layout[column]
        for row in range(count):
            serial, size, value = 0, 0, 0
            if kind == BLOB:
                value = blob_offsets[row]
                size = blob_offsets[row + 1] - value
                serial = _BLOB_TYPE + 2 * size
            elif kind == TEXT:
                value = text_offsets[text_of_row[row]]
                size = text_offsets[text_of_row[row] + 1] - value
                serial = _BLOB_TYPE + 1 + 2 * size
            elif kind == INT:
                value = ints[i, row]
                serial = _int_type(value)
                size = _INT_BYTES[serial]
            elif kind == REAL and not real_nulls[r, row]:
                serial, size, value = _REAL_TYPE, 8, real_bits[r, row]
            types[row, column], values[row, column] = serial, value
            sizes[row, 0] += _varint_bytes(serial)
            sizes[row, 1] += size
        i += kind == INT
        r += kind == REAL
    for row in range(count):
        sizes[row, 0] += 1 if sizes[row, 0] < _SEVEN_BITS - 1 else 2
        sizes[row, 1] += sizes[row, 0]


@numba.njit(cache=True, nogil=True)
def _local_bytes(size: int, usable: int) -> int:
    """How much of a row is in its leaf; the rest is in a chain of overflow pages."""
    most = usable - 35
    if size <= most:
        return size
    least = (usable - 12) * 32 // 255 - 23
    fitting = least + (size - least) % (usable - 4)
    return fitting if fitting <= most else least


@numba.njit(cache=True, nogil=True)
def _cell_bytes(size: int, row_id: int, usable: int) -> int:
    """What a row takes of a leaf, the pointer to it left out."""
    local = _local_bytes(size, usable)
    return _varint_bytes(size) + _varint_bytes(row_id) + local + (4 if local < size else 0)


@numba.njit(cache=True, nogil=True)
def _count_pages(first_id: int, sizes: Any, usable: int) -> tuple[int, int]:
    """Number of leaves and of overflow pages."""
    leaves, overflow, free = 0, 0, 0
    for row in range(len(sizes)):
        size = sizes[row, 1]
        cell = _cell_bytes(size, first_id + row, usable) + 2
        if cell > free:
            leaves += 1
            free = usable - 8
        free -= cell
        overflow += -(-(size - _local_bytes(size, usable)) // (usable - 4))
    return leaves, overflow


@numba.njit(cache=True, nogil=True)
def _put_row(
    data: Any, at: int, header: int, row: int, layout: Any, types: Any, values: Any, blobs: Any, texts: Any
) -> None:
    """Write a record: the types of its columns, then their values."""
    body = at + header
    at = _put_varint(data, at, header)
    for column in range(len(layout)):
        serial, value = types[row, column], values[row, column]
        at = _put_varint(data, at, serial)
        if serial == _REAL_TYPE:
            body = _put_int(data, body, value, 8)  # a constant: the loop is unrolled
            continue
        if serial < _BLOB_TYPE:
            body = _put_int(data, body, value, _INT_BYTES[serial])
            continue
        size = (serial - _BLOB_TYPE) // 2
        if layout[column] == BLOB:
            data[body : body + size] = blobs[value : value + size]
        else:
            for k in range(size):
                data[body + k] = texts[value + k]
        body += size


@numba.njit(cache=True, nogil=True)
def _put_leaf_header(data: Any, at: int, cells: int, start: int) -> None:
    data[at] = _LEAF
    _put_int(data, at + 3, cells, 2)
    _put_int(data, at + 5, start & 0xFFFF, 2)  # 65536 is written as 0


@numba.njit(cache=True, nogil=True)
def _fill(
    first_id: int,
    layout: Any,
    types: Any,
    values: Any,
    sizes: Any,
    blobs: Any,
    texts: Any,
    usable: int,
    page_bytes: int,
    first_page: int,
    lock_page: int,
    data: Any,
    numbers: Any,
    last_ids: Any,
) -> None:
    """Write leaves and overflow pages, and note number and last row id of each leaf."""
    scratch = np.empty(sizes[:, 1].max(), np.uint8)
    next_page, leaf, cells, start, base = first_page, -1, 0, 0, 0
    for row in range(len(sizes)):
        header, size = sizes[row, 0], sizes[row, 1]
        row_id = first_id + row
        local = _local_bytes(size, usable)
        cell = _cell_bytes(size, row_id, usable)
        if leaf < 0 or 8 + 2 * (cells + 1) + cell > start:
            if leaf >= 0:
                _put_leaf_header(data, base, cells, start)
            next_page += next_page == lock_page
            leaf, cells, start = leaf + 1, 0, usable
            base = (next_page - first_page) * page_bytes
            numbers[leaf] = next_page
            next_page += 1
        start -= cell
        at = _put_varint(data, _put_varint(data, base + start, size), row_id)
        _put_int(data, base + 8 + 2 * cells, start, 2)
        cells += 1
        last_ids[leaf] = row_id
        if local == size:
            _put_row(data, at, header, row, layout, types, values, blobs, texts)
            continue
        _put_row(scratch, 0, header, row, layout, types, values, blobs, texts)
        data[at : at + local] = scratch[:local]
        link, done = at + local, local
        while done < size:
            next_page += next_page == lock_page
            _put_int(data, link, next_page, 4)
            link = (next_page - first_page) * page_bytes
            next_page += 1
            part = min(usable - 4, size - done)
            data[link + 4 : link + 4 + part] = scratch[done : done + part]
            done += part
    _put_leaf_header(data, base, cells, start)


@numba.njit(cache=True, nogil=True)
def _interior(children: Any, last_ids: Any, usable: int, page: Any) -> None:
    """Write a page above others, of which there are two at least."""
    cells, start = len(children) - 1, usable
    for i in range(cells):
        start -= 4 + _varint_bytes(last_ids[i])
        _put_varint(page, _put_int(page, start, children[i], 4), last_ids[i])
        _put_int(page, 12 + 2 * i, start, 2)
    page[0] = _INTERIOR
    _put_int(page, 3, cells, 2)
    _put_int(page, 5, start & 0xFFFF, 2)
    _put_int(page, 8, children[-1], 4)
