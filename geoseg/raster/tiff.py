"""The container of a cloud-optimised GeoTIFF: a header that GDAL made, and blocks compressed before.

    signature | structural metadata | directories, raster first | blocks, smallest overview first

GDAL writes the tags (georeference, colours, names, nodata) into an empty file of the same shape; they are
copied, and only where the blocks lie is filled in. Each block has its length before it and its last four
bytes once more behind it, as GDAL's own writer leaves them: readers then need one request per block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8, 18: 8}
_LONG, _LONG8 = 4, 16
_SUBFILE, _WIDTH, _HEIGHT, _OFFSETS, _BYTE_COUNTS = 254, 256, 257, 324, 325
_OF_OVERVIEWS = {258, 259, 262, 277, 284, 317, 320, 322, 323, 338, 339, 42113}
"""Tags an overview shares with its raster: how pixels are stored, colours, nodata."""
_CLASSIC_LIMIT = 0xFFFF0000
"""Files that stay below need no 64-bit offsets; the rest of the way is for rounding."""
_STRUCTURE = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_STRUCTURE) + _STRUCTURE

Tags = dict[int, tuple[int, int, bytes]]
"""By tag: its type, how many values it has, and their bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One directory and where its compressed blocks are in the spool."""

    tags: Tags
    start: NDArray[np.int64]
    """First byte of each block in the spool, in the order blocks have in the file."""
    length: NDArray[np.int64]
    """Bytes of each block."""


def read_tags(content: bytes) -> Tags:
    """The tags of the first directory of a classic, little-endian TIFF.

    Raises:
        ValueError: it is something else.
    """
    if content[:4] != b"II*\0":
        raise ValueError(f"not a classic little-endian TIFF: it begins with {content[:4]!r}")
    (at,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, at)
    tags: Tags = {}
    for i in range(entries):
        tag, kind, count = struct.unpack_from("<HHI", content, at + 2 + 12 * i)
        size = _TYPE_BYTES[kind] * count
        place = at + 10 + 12 * i
        if size > 4:  # noqa: PLR2004 - what fits stands in the entry itself
            (place,) = struct.unpack_from("<I", content, place)
        tags[tag] = (kind, count, content[place : place + size])
    return tags


def overview_tags(tags: Tags, shape: tuple[int, int]) -> Tags:
    """The tags of a reduced image of `shape` (height, width)."""
    return {
        **{tag: value for tag, value in tags.items() if tag in _OF_OVERVIEWS},
        _SUBFILE: (_LONG, 1, struct.pack("<I", 1)),
        _HEIGHT: (_LONG, 1, struct.pack("<I", shape[0])),
        _WIDTH: (_LONG, 1, struct.pack("<I", shape[1])),
    }


def write_cog(file: BinaryIO, images: Sequence[Image], spool: BinaryIO) -> None:
    """The whole file: `images` from the raster to its smallest overview."""
    body = sum(int(image.length.sum()) + 8 * len(image.length) for image in images)
    layout = _Layout.of(images, big=False)
    if layout.end + body > _CLASSIC_LIMIT:
        layout = _Layout.of(images, big=True)
    offsets: list[NDArray[np.int64]] = []
    end = layout.end
    for image in reversed(images):
        ends = end + np.cumsum(image.length + 8)
        offsets.insert(0, ends - image.length - 4)
        end = int(ends[-1])
    file.write(layout.header())
    for image, places, at in zip(images, offsets, layout.places, strict=True):
        file.seek(at)
        file.write(layout.directory(image, places, at, last=image is images[-1]))
    file.seek(layout.end)
    for image in reversed(images):
        for start, length in zip(image.start.tolist(), image.length.tolist(), strict=True):
            spool.seek(start)
            block = spool.read(length)
            file.write(struct.pack("<I", length) + block + block[-4:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the directories stand, in a classic file or one with 64-bit offsets."""

    big: bool
    places: tuple[int, ...]
    end: int
    """First byte behind the last directory."""

    @classmethod
    def of(cls, images: Sequence[Image], *, big: bool) -> _Layout:
        sizes = [_size(_complete(image, image.start, big=big), big=big) for image in images]
        first = _even((16 if big else 8) + len(_GHOST))
        ends = [first + sum(sizes[: i + 1]) for i in range(len(sizes))]
        return cls(big=big, places=(first, *ends[:-1]), end=ends[-1])

    def header(self) -> bytes:
        """Signature, place of the first directory, and the promise how blocks are laid out."""
        first = self.places[0]
        start = (
            struct.pack("<2sHHHQ", b"II", 43, 8, 0, first)
            if self.big
            else struct.pack("<4sI", b"II*\0", first)
        )
        return start + _GHOST

    def directory(self, image: Image, offsets: NDArray[np.int64], at: int, *, last: bool) -> bytes:
        """One directory for the place `at`, with its values behind it."""
        tags = _complete(image, offsets, big=self.big)
        entry, room = ("<HHQ", 8) if self.big else ("<HHI", 4)
        word, count = ("<Q", "<Q") if self.big else ("<I", "<H")
        table = bytearray(struct.pack(count, len(tags)))
        values = bytearray()
        behind = at + _table_size(tags, big=self.big)
        for tag, (kind, length, content) in sorted(tags.items()):
            table += struct.pack(entry, tag, kind, length)
            if len(content) <= room:
                table += content.ljust(room, b"\0")
            else:
                table += struct.pack(word, behind + len(values))
                values += content.ljust(_even(len(content)), b"\0")
        following = 0 if last else at + _size(tags, big=self.big)
        return bytes(table + struct.pack(word, following) + values)


def _complete(image: Image, offsets: NDArray[np.int64], *, big: bool) -> Tags:
    """The image's tags with the places and lengths of its blocks."""
    places = offsets.astype("<u8" if big else "<u4")
    lengths = image.length.astype("<u4")
    return {
        **image.tags,
        _OFFSETS: (_LONG8 if big else _LONG, len(places), places.tobytes()),
        _BYTE_COUNTS: (_LONG, len(lengths), lengths.tobytes()),
    }


def _table_size(tags: Mapping[int, object], *, big: bool) -> int:
    return 8 + 20 * len(tags) + 8 if big else 2 + 12 * len(tags) + 4


def _size(tags: Tags, *, big: bool) -> int:
    """Bytes of a directory and the values behind it, rounded up to whole words."""
    outside = sum(_even(len(content)) for _, _, content in tags.values() if len(content) > (8 if big else 4))
    return _even(_table_size(tags, big=big) + outside)


def _even(size: int) -> int:
    return size + size % 2
