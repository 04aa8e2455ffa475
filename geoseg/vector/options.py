"""What may be chosen about polygons, and what it comes to on a grid."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from geoseg.errors import UsageError, explain
from geoseg.regions import Connectivity
from geoseg.vector.lengths import Ruler
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from odc.geo.geobox import GeoBox
    from pyproj import CRS

    from geoseg.sieve import Area
    from geoseg.vector.simplify import Generalisation

Format = Literal["gpkg", "parquet", "fgb", "geojson", "pmtiles"]
"""Files polygons can be written to, named as they end."""
FORMATS: tuple[Format, ...] = get_args(Format)

_METRES = {"m": 1.0, "km": 1000.0}
_FINEST_WEIGHT = 1000
"""Sides of pixels are compared in thousandths of the longer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """A length on the ground, or in pixels."""

    value: float
    """Greater than 0."""
    unit: Literal["m", "px"]

    def __str__(self) -> str:
        return f"{self.value:.15g} {self.unit}"


def parse_distance(text: str) -> Distance:
    """The distance written as "10m", "0.5 km" or "2px".

    Raises:
        UsageError: it is no distance greater than 0.
    """
    parts = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(m|km|px)\s*", text.lower())
    value = float(parts[1]) if parts else 0.0
    if parts is None or not 0 < value < math.inf:
        raise UsageError(
            explain(
                "this is no distance",
                at=repr(text),
                expected="a number greater than 0 with m, km or px",
                found=repr(text),
                change="Write 10m, 0.5km or 2px.",
            )
        )
    if parts[2] == "px":
        return Distance(value=value, unit="px")
    return Distance(value=value * _METRES[parts[2]], unit="m")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonOptions:
    """What may be chosen about polygons. All of it is part of a job's id."""

    connectivity: Connectivity = 4
    """Whether pixels that touch at a corner only are in one region (8) or not (4)."""
    min_area: Area | None = None
    """Minimum mapping unit: smaller regions go to the class they share most border with."""
    simplify: Distance | None = None
    """How far lines may move when vertices are left out."""
    smooth: bool = False
    """Cut the corners of the pixels' staircase, by half a pixel."""
    keep_outline: bool = False
    """Leave borders with nodata as they are when lines are simplified or smoothed."""
    class_fractions: bool = False
    """Say of each polygon what its pixels were before the minimum mapping unit."""
    crs: str | None = None
    """CRS of the files, as PROJ understands it; None: the scene's. GeoJSON and PMTiles have their own."""
    formats: tuple[Format, ...] | None = None
    """Files to write, at least one; None: what the name of the output says, else a GeoPackage."""

    def __post_init__(self) -> None:
        if self.connectivity not in get_args(Connectivity):
            raise UsageError(f"connectivity is 4 or 8, not {self.connectivity}")
        formats = ("gpkg",) if self.formats is None else self.formats
        if not formats or set(formats) - set(FORMATS) or len(set(formats)) < len(formats):
            raise UsageError(
                f"formats are one or more of {', '.join(FORMATS)}, each once, not {list(formats)}"
            )
        if self.class_fractions and self.min_area is None:
            raise UsageError(
                "class fractions tell what a polygon was before the minimum mapping unit; without --min-area "
                "every polygon is of one class"
            )
        if self.keep_outline and not self.moves_lines:
            raise UsageError("--keep-outline says what --simplify and --smooth leave alone: give one of them")
        if self.crs is not None:
            parse_crs(self.crs)

    @property
    def moves_lines(self) -> bool:
        """Whether outlines are other than the pixels' own."""
        return self.simplify is not None or self.smooth

    @property
    def facts(self) -> dict[str, Any]:
        """The options as plain JSON values, for job ids and manifests."""
        return asdict(self) | {
            "min_area": self.min_area and str(self.min_area),
            "simplify": self.simplify and str(self.simplify),
            "formats": self.formats and [f for f in FORMATS if f in self.formats],
        }

    def on(self, geobox: GeoBox, *, nodata: int, ids: Sequence[int] | None = None) -> Tracing:
        """The options on the grid of a product.

        Args:
            geobox: the product's grid.
            nodata: value in its class raster that is no class.
            ids: of its classes; None: nobody knows yet, so their fractions cannot be counted.

        Raises:
            UsageError: metres or hectares are asked for, and the grid has no CRS to tell them.
        """
        self._require_metres(geobox)
        ruler = Ruler.of(geobox)
        height, width = (int(n) for n in geobox.shape)
        return Tracing(
            scene=Window(0, 0, height, width),
            nodata=nodata,
            connectivity=self.connectivity,
            minimum=self.min_area,
            weights=_weights(ruler, geobox),
            generalise=self._generalisation(ruler),
            mixed=None if ids is None or not self.class_fractions else tuple(ids),
        )

    def require_possible(self, geobox: GeoBox) -> None:
        """Returns when polygons of a grid can be as they are asked for: said before any work is done.

        Raises:
            UsageError: they cannot, and why.
        """
        self._require_metres(geobox)
        if self.crs is not None:
            from geoseg.vector.reproject import require_room

            require_room(geobox, parse_crs(self.crs))

    def _require_metres(self, geobox: GeoBox) -> None:
        for name, given in (("--min-area", self.min_area), ("--simplify", self.simplify)):
            if given is not None and given.unit != "px" and geobox.crs is None:
                raise _nowhere(name, str(given))

    def _generalisation(self, ruler: Ruler) -> Generalisation | None:
        if not self.moves_lines:
            return None
        from geoseg.vector.simplify import Generalisation

        rows = cols = 0.0
        if self.simplify is not None:
            by_metres = self.simplify.unit == "m"
            rows, cols = ruler.reach_px(self.simplify.value) if by_metres else (self.simplify.value,) * 2
        return Generalisation(tolerance=(cols, rows), smooth=self.smooth, keep_outline=self.keep_outline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """How the tiles of one product are traced: the options in pixels of its grid."""

    scene: Window
    """The whole product, in its own pixels."""
    nodata: int
    """Value that is no class."""
    connectivity: Connectivity = 4
    minimum: Area | None = None
    """Minimum mapping unit; None: every region stays."""
    weights: tuple[int, int] = (1, 1)
    """What one pixel of shared border counts: horizontal borders, vertical borders."""
    generalise: Generalisation | None = None
    """How lines are simplified; None: they stay the pixels'."""
    mixed: tuple[int, ...] | None = None
    """Classes whose pixels before the minimum mapping unit are counted; None: nobody asks."""


def parse_crs(text: str) -> CRS:
    """The CRS that `text` names.

    Raises:
        UsageError: PROJ does not know it.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise UsageError(
            explain(
                "the CRS is not known",
                at=repr(text),
                expected="EPSG:code, WKT, or another form that PROJ reads",
                found=str(error),
                change="Write for example EPSG:3035.",
            )
        ) from error


def _weights(ruler: Ruler, geobox: GeoBox) -> tuple[int, int]:
    """Width and height of a pixel, which borders are as long as, as two whole numbers."""
    height, width = ruler.pixel_size_m
    if not (0 < height < math.inf and 0 < width < math.inf):  # no CRS: what the transform says
        t = geobox.affine
        height, width = math.hypot(t.b, t.e), math.hypot(t.a, t.d)
    longest = max(height, width)
    across, down = (max(1, round(_FINEST_WEIGHT * size / longest)) for size in (width, height))
    common = math.gcd(across, down)
    return across // common, down // common


def _nowhere(option: str, given: str) -> UsageError:
    return UsageError(
        explain(
            f"{option} cannot be measured",
            at=given,
            expected="a raster with a CRS",
            found="none: nobody knows how large its pixels are",
            change="Give the size in pixels, such as 20px, or assign a CRS with gdal_edit.py -a_srs.",
        )
    )
