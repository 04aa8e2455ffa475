"""Cloud-optimised GeoTIFFs, written by one process from parts that arrive in any order.

Two processes writing one compressed GeoTIFF damage it silently, so workers write parts and one writer pulls
them. Every pixel is touched once: a block that is complete gives its share of all overviews, is compressed
into a spool, and is forgotten. At the end the spool is put in order behind a header that GDAL has made. Then
the file is checked as a reader meets it: the bytes of every block where GDAL finds it, and the pixels of a
sample of them.

Windows that come row by row leave about one row of blocks per level open: the memory needed grows with the
raster's width (1 to 2 kB per column), never with its height or the number of its bands.
"""

from __future__ import annotations

import secrets
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from geoseg.errors import OutputError, explain
from geoseg.files import replacing, write_text
from geoseg.raster.overviews import means, modes
from geoseg.raster.read import rio_window
from geoseg.raster.tiff import Image, overview_tags, read_tags, write_cog
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.legend import Legend
    from geoseg.raster.tiff import Tags

    Place = tuple[int, int]
    """Row and column of a block among the blocks of its level."""

_BLOCK = 512
_DEEPEST = 9
"""Level at which a block has become one pixel."""
_CHECKED_AT_ONCE = 256
"""Blocks checked with one opening of the file: GDAL keeps the pixels it has read until it is closed."""
_ALL_DECODED, _DECODED = 16, 8
"""Of images with more blocks than the first, one in so many is decoded. The others are known by their bytes:
a stream that was made from the right pixels, and is in the right place, has nothing else to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CogStyle:
    """How a uint8 product is stored and drawn."""

    nodata: int
    resampling: Literal["mode", "average"]
    """Overviews: "mode" for classes, "average" for quantities."""
    bands: tuple[str, ...]
    """Description of each band."""
    legend: Legend | None = None
    """Gives a single band a colour table, class names and an attribute table."""
    scale: float = 1.0
    """Stored value times this is the quantity."""


class WindowWriter(Protocol):
    """Stores one window of one band; every pixel of every band comes exactly once."""

    def __call__(self, window: Window, values: NDArray[np.uint8], band: int = 0, /) -> None:
        """`values` has the window's shape; bands count from 0."""


@contextmanager
def cog_writer(
    path: Path, geobox: GeoBox, style: CogStyle, tags: Mapping[str, str], *, threads: int = 1
) -> Iterator[WindowWriter]:
    """A function that stores windows; the COG appears under `path` when the block ends without an error.

    Several bands are stored one after the other. Memory is bounded where windows come row by row, and all
    of one band before the next.

    Args:
        path: final name. With a legend, `<name>.tif.aux.xml` is written beside it.
        geobox: grid of the product.
        style: nodata value, overviews, colours.
        tags: dataset metadata; the same tags and pixels give the same bytes.
        threads: blocks that are compressed, or read back, at once.

    Raises:
        OutputError: the file cannot be written, or does not read back as it was written.
    """
    with replacing(path) as temporary:
        spool_path = temporary.with_name(f".{path.stem}.{secrets.token_hex(4)}.spool")
        try:
            with spool_path.open("wb+") as spool, ThreadPoolExecutor(threads) as pool:
                pyramid = _Pyramid(geobox.shape, style, spool, pool, threads)
                yield pyramid.write
                pyramid.finish()
                header = _header(geobox, style, tags)
                with temporary.open("wb") as file:
                    write_cog(file, pyramid.images(header), spool)
                _verify(temporary, pyramid.levels, pool)
        except rasterio.errors.RasterioError as error:
            raise _cannot_write(path, str(error.__cause__ or error)) from error
        finally:
            spool_path.unlink(missing_ok=True)
    if style.legend is not None:
        write_text(path.with_name(path.name + ".aux.xml"), attribute_table(style.legend))


def attribute_table(legend: Legend) -> str:
    """GDAL's `.aux.xml` with category names and an attribute table (Value, Class_name, Red, Green, Blue)."""
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = {c.id: c.name for c in legend.classes}
    categories = ET.SubElement(band, "CategoryNames")
    for value in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(value, "")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # GFT_Integer 0, GFT_String 2; GFU_MinMax 5, GFU_Name 2, GFU_Red 6, GFU_Green 7, GFU_Blue 8.
    for index, (name, kind, usage) in enumerate(
        [("Value", 0, 5), ("Class_name", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    ):
        field = ET.SubElement(table, "FieldDefn", index=str(index))
        ET.SubElement(field, "Name").text = name
        ET.SubElement(field, "Type").text = str(kind)
        ET.SubElement(field, "Usage").text = str(usage)
    for index, item in enumerate(legend.classes):
        row = ET.SubElement(table, "Row", index=str(index))
        for cell in (item.id, item.name, *item.rgb):
            ET.SubElement(row, "F").text = str(cell)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


class _Level:
    """One image of the pyramid: the raster (level 0) or an overview, and what is known of its blocks.

    By band, row and column of blocks: their place in the spool, and the CRC-32 of their compressed streams
    and, of those that are decoded when the file is checked, of their pixels.
    """

    def __init__(self, shape: tuple[int, int], bands: int) -> None:
        self.shape = shape
        self.grid = (-(-shape[0] // _BLOCK), -(-shape[1] // _BLOCK))
        self.start = np.full((bands, *self.grid), -1, np.int64)
        self.length = np.zeros((bands, *self.grid), np.int64)
        self.streams = np.zeros((bands, *self.grid), np.uint32)
        self.pixels = np.zeros((bands, *self.grid), np.uint32)

    def window(self, row: int, col: int) -> Window:
        """The pixels of a block that are inside the image."""
        block = Window(row * _BLOCK, col * _BLOCK, _BLOCK, _BLOCK)
        return block.intersect(Window(0, 0, *self.shape))

    def is_decoded(self, row: int, col: int) -> bool:
        """True for blocks whose pixels are read back, along diagonals: in every row and column of blocks."""
        return self.grid[0] * self.grid[1] <= _ALL_DECODED or (3 * row + col) % _DECODED == 0


class _Canvas:
    """The blocks of one level of one band that are not complete yet, padded with nodata."""

    def __init__(self, level: _Level, nodata: int) -> None:
        self._level, self._nodata = level, nodata
        self._open: dict[Place, tuple[NDArray[np.uint8], int]] = {}

    def put(self, window: Window, values: NDArray[np.uint8]) -> Iterator[tuple[Place, NDArray[np.uint8]]]:
        """Adds a window; gives the blocks that are complete with it."""
        for row in range(window.row // _BLOCK, -(-window.stop_row // _BLOCK)):
            for col in range(window.col // _BLOCK, -(-window.stop_col // _BLOCK)):
                block = self._level.window(row, col)
                mine = block.intersect(window)
                pixels, missing = self._open.pop((row, col), (None, block.size))
                if pixels is None:
                    pixels = np.full((_BLOCK, _BLOCK), self._nodata, np.uint8)
                pixels[mine.slices(origin=block)] = values[mine.slices(origin=window)]
                if missing > mine.size:
                    self._open[row, col] = pixels, missing - mine.size
                else:
                    yield (row, col), pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A block that needs no more work."""

    level: int
    band: int
    place: Place
    stream: bytes
    """Its pixels, compressed."""
    pixels: int
    """CRC-32 of its pixels inside the image; 0 where nobody will ask."""
    reduced: list[NDArray[np.uint8]]
    """Of a block of the raster: its share of each overview, from the largest to the smallest."""


class _Pyramid:
    """Takes windows, keeps what is incomplete, spools what is complete."""

    def __init__(
        self,
        shape: tuple[int, int],
        style: CogStyle,
        spool: BinaryIO,
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> None:
        height, width = (int(side) for side in shape)
        count = min(_DEEPEST, max(0, (max(height, width) - 1).bit_length() - _BLOCK.bit_length() + 1))
        self.levels = [_Level((-(-height >> k), -(-width >> k)), len(style.bands)) for k in range(count + 1)]
        self._style, self._spool, self._pool = style, spool, pool
        self._canvases: dict[tuple[int, int], _Canvas] = {}
        self._running: deque[Future[_Ready]] = deque()
        self._at_once = 2 * threads
        self._written = 0

    def write(self, window: Window, values: NDArray[np.uint8], band: int = 0, /) -> None:
        """Stores a window of the raster."""
        self._written += window.size
        self._put(0, band, window, values)

    def finish(self) -> None:
        """Waits for the blocks under way and sees that there are no others."""
        while self._running:
            self._spool_one()
        level = self.levels[0]
        if (level.start < 0).any():
            total = level.shape[0] * level.shape[1] * len(level.start)
            raise AssertionError(f"{self._written} of {total} pixels were written")

    def images(self, header: Tags) -> list[Image]:
        """The directories, from the raster to its smallest overview."""
        return [
            Image(
                tags=overview_tags(header, level.shape) if k else header,
                start=level.start.ravel(),
                length=level.length.ravel(),
            )
            for k, level in enumerate(self.levels)
        ]

    def _put(self, level: int, band: int, window: Window, values: NDArray[np.uint8]) -> None:
        canvas = self._canvases.setdefault((band, level), _Canvas(self.levels[level], self._style.nodata))
        for place, pixels in canvas.put(window, values):
            while len(self._running) >= self._at_once:
                self._spool_one()
            self._running.append(self._pool.submit(self._prepare, level, band, place, pixels))

    def _prepare(self, level: int, band: int, place: Place, pixels: NDArray[np.uint8]) -> _Ready:
        """Compresses a block and reduces it; runs in any thread and changes nothing."""
        image = self.levels[level]
        inside = image.window(*place)
        shares = []
        if level == 0:
            reduce = modes if self._style.resampling == "mode" else means
            levels = len(self.levels) - 1
            shares = [share[0] for share in reduce(pixels[None], nodata=self._style.nodata, levels=levels)]
        return _Ready(
            level=level,
            band=band,
            place=place,
            stream=_compress(pixels, self._style),
            pixels=_checksum(pixels[: inside.height, : inside.width]) if image.is_decoded(*place) else 0,
            reduced=shares,
        )

    def _spool_one(self) -> None:
        """Stores the block that was begun first and hands its shares to the overviews."""
        ready = self._running.popleft().result()
        level, at = self.levels[ready.level], (ready.band, *ready.place)
        level.start[at] = self._spool.tell()
        level.length[at] = self._spool.write(ready.stream)
        level.streams[at] = zlib.crc32(ready.stream)
        level.pixels[at] = ready.pixels
        for k, share in enumerate(ready.reduced, start=1):
            side = _BLOCK >> k
            whole = Window(ready.place[0] * side, ready.place[1] * side, side, side)
            inside = whole.intersect(Window(0, 0, *self.levels[k].shape))
            self._put(k, ready.band, inside, share)


def _compress(pixels: NDArray[np.uint8], style: CogStyle) -> bytes:
    """The block as an ordinary DEFLATE stream, searched only for what there is to find.

    Classes are runs of one value: looking for nothing else is twice as fast and gives smaller files than the
    usual search. Quantities are stored as differences along the row, noisy ones of which have no repetitions
    at all: only the frequent values get short codes.
    """
    strategy = zlib.Z_RLE
    if style.resampling == "average":
        differences = pixels.copy()
        differences[:, 1:] -= pixels[:, :-1]
        repeated = np.count_nonzero(differences[:, 1:] == differences[:, :-1])
        strategy = zlib.Z_RLE if 3 * repeated > differences.size else zlib.Z_HUFFMAN_ONLY
        pixels = differences
    deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, 15, 9, strategy)
    return deflate.compress(pixels.data) + deflate.flush()


def _checksum(pixels: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _header(geobox: GeoBox, style: CogStyle, tags: Mapping[str, str]) -> Tags:
    """The tags GDAL gives an empty raster of this shape, place, style and metadata."""
    with MemoryFile() as memory:
        with memory.open(**_profile(geobox, style)) as dataset:
            _describe(dataset, style, tags)
        return read_tags(memory.read())


def _profile(geobox: GeoBox, style: CogStyle) -> dict[str, Any]:
    height, width = geobox.shape
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": len(style.bands),
        "height": int(height),
        "width": int(width),
        "crs": rasterio.CRS.from_wkt(geobox.crs.to_wkt()),
        "transform": geobox.affine,
        "nodata": style.nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "interleave": "band",
        "photometric": "MINISBLACK" if style.legend is None else "PALETTE",  # three bands are no picture
        "compress": "DEFLATE",
        "predictor": 2 if style.resampling == "average" else 1,
        "sparse_ok": True,
        "bigtiff": "NO",
    }


def _describe(dataset: Any, style: CogStyle, tags: Mapping[str, str]) -> None:
    dataset.update_tags(**tags)
    for index, text in enumerate(style.bands, start=1):
        dataset.set_band_description(index, text)
    if style.legend is not None:
        dataset.write_colormap(1, {c.id: (*c.rgb, 255) for c in style.legend.classes})
    if style.scale != 1.0:
        dataset.scales = (style.scale,) * len(style.bands)


def _verify(path: Path, levels: list[_Level], pool: ThreadPoolExecutor) -> None:
    """Compares what a reader finds in the finished file with what was to be written."""
    runs = [
        (k, band, places[i : i + _CHECKED_AT_ONCE])
        for k, level in enumerate(levels)
        for band in range(len(level.start))
        for places in [list(np.ndindex(*level.grid))]
        for i in range(0, len(places), _CHECKED_AT_ONCE)
    ]
    for same in pool.map(lambda run: _reads_back(path, levels[run[0]], *run), runs):
        if not same:
            raise _cannot_write(path, "a file whose pixels differ from those written")


def _reads_back(path: Path, level: _Level, k: int, band: int, places: list[Place]) -> bool:
    options = {"overview_level": k - 1} if k else {}
    with path.open("rb") as file, rasterio.open(path, **options) as dataset:
        return dataset.shape == level.shape and all(
            _stream_checksum(file, dataset, band, place) == level.streams[band][place]
            and (
                not level.is_decoded(*place)
                or _checksum(dataset.read(band + 1, window=rio_window(level.window(*place))))
                == level.pixels[band][place]
            )
            for place in places
        )


def _stream_checksum(file: BinaryIO, dataset: Any, band: int, place: Place) -> int:
    """CRC-32 of the bytes that GDAL would decode for the block at `place`."""
    row, col = place
    start, length = (
        int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band + 1) or 0)
        for what in ("OFFSET", "SIZE")
    )
    file.seek(start)
    return zlib.crc32(file.read(length))


def _cannot_write(path: Path, found: str) -> OutputError:
    return OutputError(
        explain(
            "the raster cannot be written",
            at=path,
            expected="a complete cloud-optimised GeoTIFF",
            found=found,
            change="Check free space and permissions, then run again: finished tiles are kept.",
        )
    )
