"""Classes of a land-use map: ids, names, colours, and how labels become network targets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE_INDEX = 255
"""Target value (uint8) that no loss and no metric counts."""

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendClass:
    """One class: the id stored in rasters, the name people read, the colour maps are drawn in."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    id: int
    """Pixel value in class rasters, 0 to 254."""
    name: str
    """Name shown in tables and maps, unique within a legend."""
    color: str
    """Colour as #rrggbb."""

    def __post_init__(self) -> None:
        if not 0 <= self.id <= 254:  # noqa: PLR2004 - 255 is left for nodata
            raise ValueError(f"class {self.name!r}: id {self.id} is outside 0..254")
        if not self.name.strip():
            raise ValueError(f"class {self.id} has an empty name")
        if not _COLOR.fullmatch(self.color):
            raise ValueError(f"class {self.name!r}: colour {self.color!r} is not of the form #rrggbb")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Colour as three integers, 0 to 255."""
        value = int(self.color[1:], 16)
        return value >> 16, (value >> 8) & 255, value & 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """The classes of a map, in the order of the network's output channels.

    Class *index* (0..n-1, the channel) and class *id* (the pixel value) are different things:
    `ids` maps the first to the second, `encode` the second to the first.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    classes: tuple[LegendClass, ...]
    """At least one class; ids and names are unique."""
    nodata: int = 255
    """Pixel value for "no answer", 0 to 255 and not the id of a class."""

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        if not ids:
            raise ValueError("a legend needs at least one class")
        columns: tuple[tuple[str, list[Any]], ...] = (("id", ids), ("name", list(self.names)))
        for what, values in columns:
            twice = [v for v in values if values.count(v) > 1]
            if twice:
                raise ValueError(f"a legend names each class once; class {what} {twice[0]!r} appears twice")
        if not 0 <= self.nodata <= 255:  # noqa: PLR2004 - uint8
            raise ValueError(f"legend nodata {self.nodata} is outside 0..255")
        if self.nodata in ids:
            raise ValueError(f"legend nodata {self.nodata} is also the id of a class")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def ids(self) -> NDArray[np.uint8]:
        """Class ids by class index, shape (classes,)."""
        return np.array([c.id for c in self.classes], dtype=np.uint8)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by class index."""
        return tuple(c.name for c in self.classes)

    def decode(self, index: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids for class indices of any shape; IGNORE_INDEX becomes `nodata`."""
        table: NDArray[np.uint8] = np.full(256, self.nodata, np.uint8)
        table[: len(self)] = self.ids
        return table[index]

    def encode(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class indices for class ids of any shape; `nodata` and unknown ids become IGNORE_INDEX."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[self.ids] = np.arange(len(self), dtype=np.uint8)
        return table[ids]

    def unknown(self, ids: NDArray[np.uint8]) -> list[int]:
        """Values in `ids` that are neither a class nor `nodata`, sorted."""
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
        return sorted(set(present.tolist()) - set(self.ids.tolist()) - {self.nodata})


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedClass:
    """One class of a raster whose values may be any integers, such as the codes of CORINE."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    id: int
    """Pixel value."""
    name: str
    """Name shown in tables and maps, unique within a legend."""
    color: str
    """Colour as #rrggbb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedLegend:
    """A legend of any integers; where they cannot be class ids, 0 to 254, they are numbered."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    classes: tuple[CodedClass, ...]
    """At least one and at most 255 classes; ids and names are unique."""
    nodata: int | None = None
    """Pixel value for "no answer"; None: 255 where that is possible, else none but the raster's own."""

    def __post_init__(self) -> None:
        codes = [c.id for c in self.classes]
        if len(codes) > IGNORE_INDEX:
            raise ValueError(f"a legend has at most {IGNORE_INDEX} classes, not {len(codes)}")
        twice = [code for code in codes if codes.count(code) > 1]
        if twice:
            raise ValueError(f"a legend names each class once; class id {twice[0]} appears twice")
        if self.nodata in codes:
            raise ValueError(f"legend nodata {self.nodata} is also the id of a class")
        _ = self.legend

    @classmethod
    def of(cls, legend: Legend) -> CodedLegend:
        """The same classes, their ids as codes."""
        classes = tuple(CodedClass(id=c.id, name=c.name, color=c.color) for c in legend.classes)
        return cls(classes=classes, nodata=legend.nodata)

    @property
    def is_plain(self) -> bool:
        """True when the codes themselves can be class ids."""
        nodata_fits = self.nodata is None or 0 <= self.nodata <= IGNORE_INDEX
        return nodata_fits and all(0 <= c.id < IGNORE_INDEX for c in self.classes)

    @property
    def legend(self) -> Legend:
        """The legend of the map's class ids: the codes themselves, else their places in `classes`."""
        plain = self.is_plain
        classes = tuple(
            LegendClass(id=c.id if plain else place, name=c.name, color=c.color)
            for place, c in enumerate(self.classes)
        )
        nodata = self.nodata if plain and self.nodata is not None else IGNORE_INDEX
        return Legend(classes=classes, nodata=nodata)

    @property
    def codes(self) -> dict[int, int]:
        """Pixel value of each class id."""
        ids = self.legend.ids.tolist()
        return {i: c.id for i, c in zip(ids, self.classes, strict=True)}
