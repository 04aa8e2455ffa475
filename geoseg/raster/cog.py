"""Cloud-optimised GeoTIFFs, written by one process from parts that arrive in any order.

Two processes writing one compressed GeoTIFF damage it silently, so workers write parts and one writer pulls
them. Windows go to an uncompressed scratch file first (parts are not aligned to blocks); GDAL's COG driver
then makes the final file. Memory is bounded by one part and GDAL's block cache.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil

from geoseg.errors import OutputError, explain
from geoseg.files import replacing, write_text
from geoseg.raster.read import rio_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.legend import Legend
    from geoseg.windows import Window

    WindowWriter = Callable[[Window, NDArray[np.uint8]], None]

_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CogStyle:
    """How one single-band uint8 product is stored and drawn."""

    nodata: int
    resampling: str
    """Overview resampling: "mode" for classes, "average" for quantities."""
    description: str
    """Band description."""
    legend: Legend | None = None
    """Gives a colour table, class names and an attribute table."""
    scale: float = 1.0
    """Band scale: stored value times this is the quantity."""


@contextmanager
def cog_writer(
    path: Path, geobox: GeoBox, style: CogStyle, tags: Mapping[str, str]
) -> Iterator[WindowWriter]:
    """A function that stores windows; the COG appears under `path` when the block ends without an error.

    Args:
        path: final name. With a legend, `<name>.tif.aux.xml` is written beside it.
        geobox: grid of the product.
        style: nodata value, overviews, colours.
        tags: dataset metadata; the same tags and pixels give the same bytes.

    Raises:
        OutputError: the file cannot be written, or does not read back as it was written.
    """
    height, width = geobox.shape
    with replacing(path) as temporary:
        scratch = temporary.with_name(f".{path.stem}.{secrets.token_hex(4)}.scratch.tif")
        counts = np.zeros(256, np.int64)
        try:
            with rasterio.open(scratch, "w", **_scratch_profile(geobox, style)) as dataset:
                _describe(dataset, style, tags)

                def write(window: Window, values: NDArray[np.uint8]) -> None:
                    dataset.write(values, 1, window=rio_window(window))
                    counts[:] += np.bincount(values.ravel(), minlength=256)

                yield write
            if counts.sum() != int(height) * int(width):
                raise AssertionError(f"{counts.sum()} of {int(height) * int(width)} pixels were written")
            _copy_to_cog(scratch, temporary, style)
            _verify(temporary, counts)
        except rasterio.errors.RasterioError as error:
            raise _cannot_write(path, str(error.__cause__ or error)) from error
        finally:
            scratch.unlink(missing_ok=True)
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


def _scratch_profile(geobox: GeoBox, style: CogStyle) -> dict[str, Any]:
    height, width = geobox.shape
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": int(height),
        "width": int(width),
        "crs": rasterio.CRS.from_wkt(geobox.crs.to_wkt()),
        "transform": geobox.affine,
        "nodata": style.nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "bigtiff": "IF_SAFER",
    }


def _describe(dataset: Any, style: CogStyle, tags: Mapping[str, str]) -> None:
    dataset.update_tags(**tags)
    dataset.set_band_description(1, style.description)
    if style.legend is not None:
        dataset.write_colormap(1, {c.id: (*c.rgb, 255) for c in style.legend.classes})
    if style.scale != 1.0:
        dataset.scales = (style.scale,)


def _copy_to_cog(source: Path, target: Path, style: CogStyle) -> None:
    rasterio.shutil.copy(
        source,
        target,
        driver="COG",
        compress="DEFLATE",
        blocksize=_BLOCK,
        overview_resampling=style.resampling.upper(),
        bigtiff="IF_SAFER",
        num_threads="ALL_CPUS",
    )


def _verify(path: Path, expected: NDArray[np.int64]) -> None:
    """Reads the finished file and compares how often each value occurs with what was written."""
    found = np.zeros(256, np.int64)
    with rasterio.open(path) as dataset:
        for _, window in dataset.block_windows(1):
            found += np.bincount(dataset.read(1, window=window).ravel(), minlength=256)
    if not np.array_equal(found, expected):
        raise _cannot_write(path, "a file whose pixels differ from those written")


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
