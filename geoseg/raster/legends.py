"""The legend a class raster carries: geoseg's own tag, else its colour table and category names."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoseg.errors import LabelError, SceneError, explain
from geoseg.legend import CodedClass, CodedLegend, Legend, LegendClass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LEGEND_TAG = "GEOSEG_LEGEND"
_MAX_SIDECAR_BYTES = 1 << 20
"""256 class names are far smaller; what is larger holds something else."""


def legend_tag(legend: Legend) -> dict[str, str]:
    """The dataset tag that carries a legend with its raster."""
    classes = [{"id": c.id, "name": c.name, "color": c.color} for c in legend.classes]
    return {LEGEND_TAG: json.dumps({"classes": classes, "nodata": legend.nodata}, ensure_ascii=False)}


def own_legend(path: Path) -> Legend | None:
    """The legend that geoseg stored with the class raster at `path`; None when there is none.

    Raises:
        SceneError: the raster cannot be opened. LabelError: the tag is not a legend.
    """
    tag = _header(path).tag
    return None if tag is None else _parse(tag, path)


def read_legend(path: Path, *, present: Iterable[int], band: int = 1) -> Legend:
    """The legend of the class raster at `path`, its own or one made up for the ids that occur.

    Args:
        path: a raster of class ids.
        present: ids that occur in it; without a tag they become classes, named from the raster's category
            names or "class N", coloured from its colour table or a fixed palette.
        band: which one holds them.

    Raises:
        LabelError: nothing but nodata occurs, 255 occurs as a class, or the raster's own legend is not valid.
    """
    header = _header(path, band)
    if header.tag is not None:
        return _parse(header.tag, path)
    ids = sorted(set(present) - {header.missing})
    if 255 in ids:  # noqa: PLR2004 - uint8
        raise _not_a_class_id(path, header.missing)
    _require_some(ids, path, f"nothing but {header.missing}")
    return replace(_made_up(ids, header, path, band).legend, nodata=header.missing)


def read_coded_legend(path: Path, *, present: Iterable[int], band: int = 1) -> CodedLegend:
    """As `read_legend`, of a raster whose values may be any integers; `present` are those that are valid.

    Raises:
        LabelError: nothing but nodata occurs, or the raster's own legend is not valid.
    """
    header = _header(path, band)
    if header.tag is not None:
        return CodedLegend.of(_parse(header.tag, path))
    codes = sorted(set(present))
    _require_some(codes, path, "nothing but nodata")
    return _made_up(codes, header, path, band)


def _made_up(codes: list[int], header: _Header, path: Path, band: int) -> CodedLegend:
    """Names and colours from the raster, where it has them; a name that comes twice is told apart."""
    names = {code: name for code, name in _category_names(path, band).items() if code in set(codes)}
    often = Counter(names.values())
    names = {code: f"{name} ({code})" if often[name] > 1 else name for code, name in names.items()}
    return CodedLegend(
        classes=tuple(
            CodedClass(
                id=i, name=names.get(i) or f"class {i}", color=_hex(header.colors.get(i) or _palette(i))
            )
            for i in codes
        )
    )


def _require_some(codes: list[int], path: Path, found: str) -> None:
    if not codes:
        raise LabelError(
            explain(
                "there is no class in the raster",
                at=path,
                expected="at least one pixel that is not nodata",
                found=found,
                change="Check that this is a class raster, and its nodata value.",
            )
        )


def nodata_of(path: Path, *, band: int = 1) -> int | None:
    """The value that is no class: of the raster's own legend, else as the file declares it, else None.

    Raises:
        SceneError: the raster cannot be opened. LabelError: the tag is not a legend.
    """
    header = _header(path, band)
    if header.tag is not None:
        return _parse(header.tag, path).nodata
    return None if header.nodata is None else header.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    tag: str | None
    nodata: float | None
    colors: dict[int, tuple[int, int, int]]

    @property
    def missing(self) -> int:
        """The declared nodata value where it is one of uint8, else 255."""
        return 255 if self.nodata is None or not 0 <= self.nodata <= 255 else int(self.nodata)  # noqa: PLR2004


def _header(path: Path, band: int = 1) -> _Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                return _Header(
                    tag=dataset.tags().get(LEGEND_TAG),
                    nodata=dataset.nodatavals[band - 1],
                    colors=_colors(dataset, band),
                )
    except RasterioError as error:
        raise SceneError(
            explain(
                "the class raster cannot be opened",
                at=path,
                expected="a raster file",
                found=str(error),
                change="Check the path and the file.",
            )
        ) from error


def _not_a_class_id(path: Path, missing: int) -> LabelError:
    return LabelError(
        explain(
            "the raster has a class that cannot be one",
            at=path,
            expected=f"class ids 0 to 254 (nodata is {missing})",
            found="pixels of 255",
            change="Give 255 another value, or declare it as nodata with gdal_edit.py -a_nodata 255.",
        )
    )


def _colors(dataset: Any, band: int) -> dict[int, tuple[int, int, int]]:
    try:
        table = dataset.colormap(band)
    except ValueError:  # rasterio's way to say that there is none
        return {}
    return {value: rgba[:3] for value, rgba in table.items()}


def _parse(tag: str, path: Path) -> Legend:
    try:
        document = json.loads(tag)
        classes = tuple(LegendClass(**c) for c in document["classes"])
        return Legend(classes=classes, nodata=document["nodata"])
    except (ValueError, TypeError, KeyError) as error:
        raise LabelError(
            explain(
                f"the raster's {LEGEND_TAG} tag is not a legend",
                at=path,
                expected="classes with id, name and color",
                found=str(error),
                change="Give the legend with --legend FILE.",
            )
        ) from error


def _category_names(path: Path, band: int) -> dict[int, str]:
    """Names by id from GDAL's sidecar, written by geoseg or any other tool."""
    sidecar = path.with_name(path.name + ".aux.xml")
    if not sidecar.is_file() or sidecar.stat().st_size > _MAX_SIDECAR_BYTES:
        return {}
    try:
        root = ET.fromstring(sidecar.read_text("utf-8", errors="replace"))  # noqa: S314 - a local sidecar; no entities are fetched
    except ET.ParseError:
        return {}
    found = root.find(f"PAMRasterBand[@band='{band}']/CategoryNames")
    return {} if found is None else {i: e.text for i, e in enumerate(found) if e.text}


def _hex(rgb: tuple[int, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _palette(index: int) -> tuple[int, int, int]:
    """A distinct, stable colour: hues a golden angle apart."""
    import colorsys

    r, g, b = colorsys.hls_to_rgb(index * 0.618033988749895 % 1, 0.5, 0.55)
    return round(r * 255), round(g * 255), round(b * 255)
