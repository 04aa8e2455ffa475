"""Scores of a map, raster or polygons, against reference data it has not seen, streamed block by block.

reference, map, confidence   read in chunks fixed to the grid, wherever blocks begin
each block                   with a margin for boundaries; objects are put together across blocks
counts of blocks             add up, and scores follow from them: block size changes no number
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, ValidationError

from geoseg.accuracy.boundary import BoundaryCounts, BoundaryScores, Disc, count_boundaries
from geoseg.accuracy.calibration import LEVELS, Reliability, tally_confidence
from geoseg.accuracy.clusters import PolygonIntervals, polygon_matrices
from geoseg.accuracy.layers import blocks, is_vector, open_confidence, open_map, open_reference
from geoseg.accuracy.objects import DEFAULT_EDGES_PX, ObjectCounter, ObjectScores
from geoseg.config import LabelSource
from geoseg.errors import LabelError, UsageError, explain
from geoseg.files import write_text
from geoseg.legend import IGNORE_INDEX, Legend
from geoseg.metrics import Scores, confusion
from geoseg.raster.labels import PolygonLabels, open_labels
from geoseg.raster.scene import open_scene
from geoseg.value import Value
from geoseg.vector.area import pixel_areas
from geoseg.vector.lengths import Ruler
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from geoseg.accuracy.layers import Layer
    from geoseg.raster.aoi import Aoi
    from geoseg.raster.scene import Scene

BLOCK_PX = 2048
_TOLERANCE_PX = 2
"""How far a boundary may be off where nobody says: the labels of most references are no better."""

Matrix = tuple[tuple[int, ...], ...]


class PolygonScores(Value):
    """Polygons against the same reference, and against the raster they were made from."""

    path: str
    confusion: Matrix = Field(description="As of the raster; polygons are burnt on its grid by pixel centres")
    scores: Scores
    compared_px: int = Field(description="Pixels of the window, whether the reference knows them or not")
    disagreement_px: int = Field(
        description="Of these, where polygons and raster have not the same class: what simplifying and "
        "dissolving small areas changed"
    )


class Evaluation(Value):
    """How well a map agrees with a reference; `to_json` is what `geoseg evaluate` writes."""

    format: Literal["geoseg-evaluation"] = "geoseg-evaluation"
    version: Literal[1] = 1
    predicted: str = Field(description="The map: a class raster, or polygons")
    reference: str = Field(description="The reference data")
    window: tuple[int, int, int, int] = Field(description="[row, column, height, width], scored")
    legend: Legend
    pixels: int = Field(description="Pixels of the window, inside the area of interest where there is one")
    ignored_px: int = Field(
        description="Of these, where the reference says nothing: not counted anywhere else"
    )
    confusion: Matrix = Field(
        description="Pixels by reference class (rows) and predicted class (columns), in the legend's order. "
        "The last column holds reference pixels without a prediction"
    )
    scores: Scores = Field(description="Classes are in the legend's order")
    absent: tuple[str, ...] = Field(
        default=(), description="Classes the reference does not have here: in no mean"
    )
    boundary: BoundaryScores | None = Field(default=None, description="None: not asked for")
    objects: ObjectScores | None = Field(default=None, description="None: not asked for")
    reliability: Reliability | None = Field(default=None, description="None: no confidence was given")
    polygons: PolygonScores | None = Field(default=None, description="None: none were given")
    intervals: PolygonIntervals | None = Field(
        default=None, description="How the scores vary with the reference's polygons. None: not asked for"
    )

    def to_json(self) -> str:
        """Indented JSON; `Evaluation.model_validate_json` restores an equal value."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateEvent:
    """What a progress display is told."""

    done_px: int
    """Pixels scored so far."""
    total_px: int
    """Pixels there are."""


def evaluate(
    predicted: str | Path,
    reference: str | Path,
    *,
    legend: Legend,
    remap: Mapping[int, int | None] | None = None,
    layer: str | None = None,
    column: str | None = None,
    classes: Mapping[str, str | int | None] | None = None,
    window: Window | None = None,
    aoi: Aoi | None = None,
    grid: str | Path | None = None,
    polygons: str | Path | None = None,
    confidence: str | Path | None = None,
    tolerance_m: float | Literal["auto"] | None = "auto",
    object_edges_px: Sequence[int] | None = DEFAULT_EDGES_PX,
    intervals: bool = False,
    out: Path | None = None,
    block_px: int = BLOCK_PX,
    on_progress: Callable[[EvaluateEvent], None] | None = None,
) -> Evaluation:
    """Scores of a map, pixel by pixel on its own grid.

    Args:
        predicted: a raster with class ids of `legend` in its first band, or polygons as geoseg writes them.
        reference: a raster of class ids, or polygons when `column` is given; any grid or CRS.
        legend: the classes of the map.
        remap: for a raster reference, source value to class id, None to leave pixels out.
        layer: for polygons, the layer of the file if it has several.
        column: for polygons, the attribute that says the class.
        classes: for polygons, attribute value to class name or id, None to leave polygons out.
        window: the only part of the map that is scored; None: all of it.
        aoi: the only area that is scored.
        grid: where `predicted` is polygons, a raster on whose grid they are scored; None: the reference's.
        polygons: those made from the raster `predicted`, to be scored beside it.
        confidence: the raster, percent, that was written with the map; None: no reliability.
        tolerance_m: how far a boundary may be off; "auto": two pixels; None: boundaries are not scored.
        object_edges_px: sizes at which groups of objects begin; None: objects are not scored.
        intervals: for a reference of polygons, how much scores vary with them; see `accuracy.clusters`.
        out: JSON file to write.
        block_px: side of what is in memory at once; changes no number.
        on_progress: called after each block.

    Raises:
        GeosegError: a file cannot be read, classes are unknown, or the two share no pixel.
    """
    paths = _Paths(map=Path(predicted), reference=Path(reference))
    source = _label_source(paths.reference, remap=remap, layer=layer, column=column, classes=classes)
    scene = _grid(paths, None if grid is None else Path(grid), source)
    window = _checked(window or scene.window, scene.window, paths.map)
    task = _Task(
        scene=scene,
        classes=len(legend),
        reference=open_reference(source, path=paths.reference, scene=scene, legend=legend),
        predicted=open_map(paths.map, scene=scene, legend=legend),
        polygons=None if polygons is None else open_map(_vector(polygons), scene=scene, legend=legend),
        confidence=None if confidence is None else open_confidence(open_scene(confidence), grid=scene),
        disc=_disc(scene, tolerance_m),
        object_edges_px=object_edges_px,
        window=window if aoi is None else window.intersect(aoi.extent),
        aoi=aoi,
    )
    counts = _count(task, block_px, on_progress)
    _require_reference(counts, paths.reference)
    result = _result(task, counts, legend, paths, None if polygons is None else str(polygons))
    if intervals:
        labels = open_labels(source, path=paths.reference, scene=scene, legend=legend)
        result = result.model_copy(update={"intervals": _intervals(task, labels, paths.reference)})
    if out:
        write_text(out, result.to_json())
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    map: Path
    reference: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """Everything that is opened and settled before the first block."""

    scene: Scene
    """The grid."""
    classes: int
    reference: Layer
    predicted: Layer
    polygons: Layer | None
    confidence: Layer | None
    disc: Disc | None
    object_edges_px: Sequence[int] | None
    window: Window
    aoi: Aoi | None

    def blocks(self, side: int) -> Iterator[_Block]:
        """The window in blocks, row by row, each with what is known and said about it."""
        down, right = (0, 0) if self.disc is None else (n + 1 for n in self.disc.reach_px)
        for core in blocks(self.window, side):
            reach = Window(
                core.row - down, core.col - right, core.height + 2 * down, core.width + 2 * right
            ).intersect(self.window)
            inside = None if self.aoi is None else self.aoi.mask(reach, self.scene.geobox)
            reference = self.reference(reach)
            if inside is not None:
                reference = np.where(inside, reference, np.uint8(IGNORE_INDEX))
            yield _Block(
                core=core,
                at=core.slices(origin=reach),
                reference=reference,
                predicted=self.predicted(reach),
                inside=inside,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    core: Window
    """What it counts."""
    at: tuple[slice, slice]
    """Where that lies in its arrays, which reach further."""
    reference: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    inside: NDArray[np.bool_] | None
    """The area of interest; None: everywhere."""


class _Counts:
    """Sums over blocks."""

    def __init__(self, task: _Task) -> None:
        shape = task.classes, task.classes + 1
        self.pixels = 0
        self.matrix = np.zeros(shape, np.int64)
        self.polygons = np.zeros(shape, np.int64)
        self.disagreement = 0
        self.boundary = BoundaryCounts.none(task.classes)
        self.tally = np.zeros((2, LEVELS), np.int64)
        edges = task.object_edges_px
        self.objects = None if edges is None else ObjectCounter(task.classes, edges)

    def add(self, task: _Task, block: _Block) -> None:
        """Counts in a block."""
        reference, predicted = block.reference[block.at], block.predicted[block.at]
        inside = None if block.inside is None else block.inside[block.at]
        self.pixels += block.core.size if inside is None else int(inside.sum())
        if self.objects is not None:
            self.objects.add(block.core, reference, predicted)
        if task.polygons is not None:
            self._add_polygons(task.polygons(block.core), reference, predicted, inside)
        if (reference == IGNORE_INDEX).all():
            return
        self.matrix += confusion(reference, predicted, task.classes)
        if task.disc is not None:
            self.boundary += count_boundaries(
                block.reference, block.predicted, core=block.at, classes=task.classes, disc=task.disc
            )
        if task.confidence is not None:
            percent = task.confidence(block.core)
            told = (reference != IGNORE_INDEX) & (predicted != IGNORE_INDEX) & (percent < LEVELS)
            self.tally += tally_confidence(percent[told], (reference == predicted)[told])

    def _add_polygons(
        self,
        polygons: NDArray[np.uint8],
        reference: NDArray[np.uint8],
        predicted: NDArray[np.uint8],
        inside: NDArray[np.bool_] | None,
    ) -> None:
        self.polygons += confusion(reference, polygons, len(self.polygons))
        differ = polygons != predicted
        self.disagreement += int((differ if inside is None else differ & inside).sum())


def _count(task: _Task, block_px: int, on_progress: Callable[[EvaluateEvent], None] | None) -> _Counts:
    counts, done = _Counts(task), 0
    for block in task.blocks(block_px):
        counts.add(task, block)
        done += block.core.size
        if on_progress:
            on_progress(EvaluateEvent(done_px=done, total_px=task.window.size))
    return counts


def _result(task: _Task, counts: _Counts, legend: Legend, paths: _Paths, polygons: str | None) -> Evaluation:
    scores = Scores.of(counts.matrix)
    window, disc = task.window, task.disc
    height, width = task.scene.window.shape
    pixel_m2 = float(pixel_areas(task.scene.geobox, Window(height // 2, width // 2, 1, 1)).mean())
    return Evaluation(
        predicted=str(paths.map),
        reference=str(paths.reference),
        window=(window.row, window.col, window.height, window.width),
        legend=legend,
        pixels=counts.pixels,
        ignored_px=counts.pixels - int(counts.matrix.sum()),
        confusion=_rows(counts.matrix),
        scores=scores,
        absent=tuple(
            name for name, c in zip(legend.names, scores.classes, strict=True) if not c.reference_px
        ),
        boundary=None if disc is None else BoundaryScores.of(counts.boundary, tolerance_m=disc.radius_m),
        objects=None if counts.objects is None else counts.objects.finish(pixel_m2=pixel_m2),
        reliability=None if task.confidence is None else Reliability.of(counts.tally),
        polygons=None
        if polygons is None
        else PolygonScores(
            path=polygons,
            confusion=_rows(counts.polygons),
            scores=Scores.of(counts.polygons),
            compared_px=counts.pixels,
            disagreement_px=counts.disagreement,
        ),
    )


def _intervals(task: _Task, labels: object, reference: Path) -> PolygonIntervals | None:
    if not isinstance(labels, PolygonLabels):
        raise UsageError(
            explain(
                "there is nothing to tell intervals by",
                at=reference,
                expected="a reference of polygons",
                found="a raster, whose pixels are no independent observations",
                change="Leave --intervals out, or draw points with `geoseg sample`.",
            )
        )
    aoi, geobox = task.aoi, task.scene.geobox
    matrices = polygon_matrices(
        labels,
        task.predicted,
        window=task.window,
        classes=task.classes,
        inside=None if aoi is None else lambda part: aoi.mask(part, geobox),
    )
    return PolygonIntervals.of(matrices)


def _rows(matrix: NDArray[np.int64]) -> Matrix:
    return tuple(tuple(row) for row in matrix.tolist())


def _grid(paths: _Paths, grid: Path | None, source: LabelSource) -> Scene:
    """The grid pixels are compared on: the map's, or for polygons the one given or the reference's."""
    if not is_vector(paths.map):
        if grid is not None:
            raise UsageError("a raster is scored on its own grid: another one is for polygons")
        return open_scene(paths.map)
    if grid is None and source.column is not None:
        raise UsageError(
            explain(
                "there is no grid to compare polygons with polygons on",
                at=paths.map,
                expected="a raster whose pixels are compared",
                found="polygons as map and as reference",
                change="Give one with --grid, for example the class raster that belongs to the polygons.",
            )
        )
    return open_scene(grid or paths.reference)


def _vector(polygons: str | Path) -> Path:
    path = Path(polygons)
    if not is_vector(path):
        raise UsageError(f"these are no polygons that can be scored: {path}; give a GeoPackage or FlatGeobuf")
    return path


def _disc(scene: Scene, tolerance_m: float | Literal["auto"] | None) -> Disc | None:
    """What is near a boundary; None: they are not scored."""
    if tolerance_m is None:
        return None
    row_m, col_m = Ruler.of(scene.geobox).pixel_size_m
    coarse = max(row_m, col_m)
    if tolerance_m == "auto":
        tolerance_m = _TOLERANCE_PX * coarse
    try:
        return Disc(radius_m=tolerance_m, row_m=row_m, col_m=col_m)
    except ValueError as error:
        raise UsageError(
            explain(
                "the tolerance of boundaries is too small",
                at=f"{tolerance_m:g} m",
                expected=f"at least a pixel of {scene.name}, {coarse:.4g} m",
                found="less",
                change="Give a larger one, or leave boundaries out.",
            )
        ) from error


def _label_source(
    reference: Path,
    *,
    remap: Mapping[int, int | None] | None,
    layer: str | None,
    column: str | None,
    classes: Mapping[str, str | int | None] | None,
) -> LabelSource:
    try:
        return LabelSource(
            path=str(reference),
            remap=dict(remap or {}),
            layer=layer,
            column=column,
            classes=dict(classes or {}),
        )
    except ValidationError as error:
        reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise UsageError(f"the reference cannot be understood: {reference}. {reasons}") from None


def _checked(window: Window, scene: Window, predicted: Path) -> Window:
    if scene.contains(window) and window.size:
        return window
    raise UsageError(
        explain(
            "the window is not inside the map",
            at=predicted,
            expected=f"a part of {scene}",
            found=str(window),
            change="Correct it, or leave it out to score everything.",
        )
    )


def _require_reference(counts: _Counts, reference: Path) -> None:
    if counts.matrix.any():
        return
    raise LabelError(
        explain(
            "there is nothing to compare",
            at=reference,
            expected="reference pixels within the part of the map that is scored",
            found=f"none in {counts.pixels} pixels",
            change="Check the window and the reference's own nodata or remapping.",
        )
    )
