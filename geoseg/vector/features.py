"""What writers of polygons take: finished features as arrays, and what the layer they go to is."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import LabelError, explain
from geoseg.vector.outlines import Outlines, concatenate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from pyproj import CRS

    from geoseg.legend import Legend

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The date in files whose makers gave none."""

NO_CONFIDENCE = 255
"""`min_confidence` of a region none of whose pixels has a confidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBatch:
    """Finished features, in the order they are to be written; one entry per feature in every array."""

    outlines: Outlines
    """In pixel coordinates of the scene."""
    region_id: NDArray[np.int64]
    """Unique in the scene, the same for any tiling."""
    class_id: NDArray[np.uint8]
    """Class of the region."""
    area_m2: NDArray[np.float64]
    """True area of the outline; NaN where nobody can know."""
    perimeter_m: NDArray[np.float64]
    """True length of all rings; NaN where nobody can know."""
    pixels: NDArray[np.int64]
    """Number of pixels."""
    mean_confidence: NDArray[np.float64]
    """Percent, over the pixels that have a confidence; NaN where none has."""
    min_confidence: NDArray[np.uint8]
    """Percent; NO_CONFIDENCE where no pixel has one."""
    confidence_count: NDArray[np.int64]
    """Number of pixels that have a confidence: the weight of `mean_confidence` in means over regions."""
    raw_area_m2: NDArray[np.float64] | None = None
    """Area of the region's pixels, when the outlines were generalised; None when `area_m2` is just that."""
    shares: NDArray[np.float64] | None = None
    """Shape (features, classes of the layer's `share_ids`): what part of the pixels had that class before
    the minimum mapping unit; None when the layer asks for none."""

    def __len__(self) -> int:
        return len(self.region_id)

    def part(self, start: int, stop: int) -> FeatureBatch:
        """The features from `start` up to `stop`; the arrays are views."""
        columns = {name: value[start:stop] for name, value in _columns(self).items()}
        return FeatureBatch(outlines=_part(self.outlines, start, stop), **columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What all features of a file have in common."""

    geobox: GeoBox
    """The scene's grid, in whose pixels outlines are."""
    legend: Legend
    """Names and colours of every class that occurs."""
    name: str = "landuse"
    """Name of the layer and its table."""
    description: str = ""
    """What the layer is, for people."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys and values stored with the layer, where the format can."""
    date: datetime = EPOCH
    """Written wherever a format wants one."""
    crs: CRS | None = None
    """Coordinates are written in this CRS; None: the scene's."""
    multi: bool = False
    """Whether a region may have several polygons (8-connected): all features are then MultiPolygons."""
    share_ids: tuple[int, ...] = ()
    """Classes whose shares are columns, named share_<code>."""
    codes: Mapping[int, int] | None = None
    """What tables and styles say instead of each class id, for maps whose ids do not fit a byte; None: the
    ids themselves."""

    def code(self, class_id: int) -> int:
        """What tables and styles say for a class id."""
        return class_id if self.codes is None else self.codes[class_id]

    @property
    def share_names(self) -> tuple[str, ...]:
        """Names of the columns of shares."""
        return tuple(f"share_{self.code(i)}" for i in self.share_ids)

    def class_codes(self, class_id: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The code of each class id of the legend."""
        table = np.zeros(256, np.int64)
        table[self.legend.ids] = [self.code(i) for i in self.legend.ids.tolist()]
        return table[class_id]


def class_names(class_id: NDArray[np.uint8], legend: Legend) -> NDArray[Any]:
    """The name of each class id, as objects: equal names are one string.

    Raises:
        LabelError: when an id is not in the legend.
    """
    require_named(class_id, legend)
    names = np.empty(256, object)
    names[legend.ids] = legend.names
    return names[class_id]


def require_named(class_id: NDArray[np.uint8], legend: Legend) -> None:
    """Refuse class ids that are not in the legend.

    Raises:
        LabelError: there are some; says which.
    """
    unknown = legend.unknown(class_id)
    if unknown or (class_id == legend.nodata).any():
        raise LabelError(
            explain(
                "polygons of a class without a name",
                at="class_id",
                expected=f"ids of the legend: {legend.ids.tolist()}",
                found=unknown or f"nodata, {legend.nodata}",
                change="Give a legend that names every class of the raster.",
            )
        )


def regroup(
    batches: Iterable[FeatureBatch], *, at_least: int, at_most: int, most_points: int = 4_000_000
) -> Iterator[FeatureBatch]:
    """The same features in the same order, in batches of a handy size; never an empty one.

    Small batches are put together until they have `at_least` features; large ones are cut, so that none has
    more than `at_most` nor, unless a single feature has, more than about `most_points` points.
    """
    waiting: list[FeatureBatch] = []
    for batch in batches:
        for start, stop in _cuts(batch.outlines, at_most, most_points):
            waiting.append(batch.part(start, stop))
            if sum(map(len, waiting)) >= at_least:
                yield _joined(waiting)
                waiting = []
    if waiting:
        yield _joined(waiting)


def _cuts(outlines: Outlines, at_most: int, most_points: int) -> Iterator[tuple[int, int]]:
    """Runs of regions with few enough regions and points."""
    points = outlines.ring_offsets[outlines.polygon_offsets[outlines.region_offsets]]
    start = 0
    while start < len(outlines):
        stop = int(np.searchsorted(points, points[start] + most_points, side="right")) - 1
        stop = min(max(stop, start + 1), start + at_most, len(outlines))
        yield start, stop
        start = stop


def _part(outlines: Outlines, start: int, stop: int) -> Outlines:
    """A run of regions, as views of the coordinates."""
    regions = outlines.region_offsets[start : stop + 1]
    polygons = outlines.polygon_offsets[regions[0] : regions[-1] + 1]
    rings = outlines.ring_offsets[polygons[0] : polygons[-1] + 1]
    points = slice(rings[0], rings[-1])
    return Outlines(
        coords=outlines.coords[points],
        fixed=outlines.fixed[points],
        ring_offsets=rings - rings[0],
        polygon_offsets=polygons - polygons[0],
        region_offsets=regions - regions[0],
        scale=outlines.scale,
    )


def _columns(batch: FeatureBatch) -> dict[str, NDArray[Any]]:
    """The arrays of a batch that are there, the outlines left out."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "outlines"}
    return {name: value for name, value in values.items() if value is not None}


def _joined(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    if len(batches) == 1:
        return batches[0]
    columns = [_columns(b) for b in batches]
    return FeatureBatch(
        outlines=concatenate([b.outlines for b in batches]),
        **{name: np.concatenate([c[name] for c in columns]) for name in columns[0]},
    )
