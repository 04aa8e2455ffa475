from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from geoseg.raster import tiff
from geoseg.raster.tiff import Image, overview_tags, read_tags, write_cog


def header(shape=(700, 900)) -> tiff.Tags:
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=shape[1], height=shape[0], count=1, dtype="uint8", tiled=True,
            blockxsize=512, blockysize=512, compress="DEFLATE", sparse_ok=True, nodata=9, crs="EPSG:32631",
            transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        ) as dataset:  # fmt: skip
            dataset.update_tags(NOTE="odd")
        return read_tags(memory.read())


def build() -> tuple[bytes, list[np.ndarray]]:
    """A file of 2 x 2 blocks and an overview of one, each block of one value."""
    spool = io.BytesIO()
    start, length = [], []
    for value in (10, 11, 12, 13, 14):
        start.append(spool.tell())
        length.append(spool.write(zlib.compress(np.full((512, 512), value, np.uint8))))
    tags = header()
    images = [
        Image(tags=tags, start=np.array(start[:4]), length=np.array(length[:4])),
        Image(tags=overview_tags(tags, (350, 450)), start=np.array(start[4:]), length=np.array(length[4:])),
    ]
    out = io.BytesIO()
    write_cog(out, images, spool)
    expected = np.block(
        [
            [np.full((512, 512), 10), np.full((512, 388), 11)],
            [np.full((188, 512), 12), np.full((188, 388), 13)],
        ]
    )
    return out.getvalue(), [expected, np.full((350, 450), 14)]


@pytest.mark.parametrize("big", [False, True])
def test_gdal_reads_what_was_put_together(monkeypatch, tmp_path, big) -> None:
    if big:
        monkeypatch.setattr(tiff, "_CLASSIC_LIMIT", 100)
    content, (raster, overview) = build()
    assert content[:4] == (b"II+\0" if big else b"II*\0")
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.read(1), raster)
        assert dataset.overviews(1) == [2]
        assert dataset.tags()["NOTE"] == "odd"
        assert (dataset.nodata, dataset.crs.to_epsg(), dataset.transform.c) == (9, 32631, 5e5)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(path, overview_level=0) as dataset:
        assert np.array_equal(dataset.read(1), overview)


def test_blocks_have_their_length_before_and_their_end_behind() -> None:
    content, _ = build()
    kind, count, places = read_tags(content)[324]
    lengths = read_tags(content)[325][2]
    assert (kind, count) == (4, 4)
    for place, length in zip(struct.unpack("<4I", places), struct.unpack("<4I", lengths), strict=True):
        assert struct.unpack_from("<I", content, place - 4) == (length,)
        assert content[place + length - 4 : place + length] == content[place + length : place + length + 4]


def test_the_header_of_a_raster_far_beyond_4_gb_can_be_made() -> None:
    tags = header((300_000, 400_000))
    assert struct.unpack("<I", tags[256][2]) == (400_000,)


def test_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a classic little-endian TIFF: it begins with b'MM"):
        read_tags(b"MM\0*" + bytes(100))
