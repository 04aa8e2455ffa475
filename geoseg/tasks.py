"""One tile of a job, from reading to a part on disk: what an executor runs, wherever that is.

Tasks and what they return are small and picklable: paths, windows and counts, never pixels.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import LabelError, PackageError, explain
from geoseg.inference import normalise, segment_tile
from geoseg.raster.read import read_window
from geoseg.vector.area import pixel_areas
from geoseg.vector.trace import trace_tile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.inference import Predictor
    from geoseg.package import Card
    from geoseg.raster.parts import PartStore
    from geoseg.raster.read import Pixels
    from geoseg.raster.scene import Scene
    from geoseg.tiling import Tile
    from geoseg.windows import Window


DONE = "done"
"""Name of the tile's own record among the arrays of its part."""

_BANDS_TO_SUSPECT = 3
"""With fewer bands, equal extremes are too common to mean anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How a worker runs the network."""

    device: str = "auto"
    """One of cpu, cuda, cuda:N, auto."""
    threads: int | None = 1
    """CPU threads per network call; None leaves it to the worker's environment. With one, results do not
    depend on how many calls run side by side; with more, sums are formed in another order."""
    batch_size: int = 1
    """Patches given to the network at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictTask:
    """Everything a worker needs to label one tile."""

    scene: Scene
    """Its bands are the package's, in the package's order."""
    package: Path
    """Folder, readable by the worker."""
    fingerprint: str
    """Of the card the job was planned with."""
    tile: Tile
    blend: bool
    scale: float
    """Factor from the scene's values to the model's."""
    offset: float
    """Added after scaling."""
    runtime: Runtime
    store: PartStore
    polygons: bool
    """Whether to trace outlines."""

    def __str__(self) -> str:
        return f"{self.scene.name}, tile {self.tile.row}/{self.tile.col} ({self.tile.core})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTask:
    """Everything a worker needs to trace one tile of a class raster that exists already."""

    classes: Scene
    """A single-band class raster."""
    confidence: Scene | None
    core: Window
    row: int
    col: int
    nodata: int
    """Value that is no class."""
    nodata_is_declared: bool
    """False: nobody said so, and a pixel that holds it is an error rather than silently left out."""
    store: PartStore

    def __str__(self) -> str:
        return f"{self.classes.name}, tile {self.row}/{self.col} ({self.core})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileDone:
    """What the driver learns about a finished tile."""

    row: int
    col: int
    pixels: dict[int, int]
    """Pixels by class id, nodata included."""
    area_m2: dict[int, float]
    """True area by class id."""
    patches: int
    """Patches the network was given."""
    seconds: float
    """In the worker, writing the part not included."""
    suspects: dict[int, int] = field(default_factory=dict)
    """Valid pixels that hold the same extreme value in every band, by value: undeclared nodata, perhaps."""
    sums: list[float] = field(default_factory=list)
    """Sum of the normalised valid pixels by band."""
    squares: list[float] = field(default_factory=list)
    """Sum of their squares by band."""

    def to_array(self) -> NDArray[np.uint8]:
        """The record as bytes of JSON, to lie in the part it speaks of; `from_array` restores it."""
        return np.frombuffer(json.dumps(asdict(self)).encode(), np.uint8)

    @classmethod
    def from_array(cls, array: NDArray[np.uint8]) -> TileDone:
        """The record that `to_array` made; JSON has turned the ids into text."""
        document = json.loads(array.tobytes())
        by_id = {
            name: {int(k): v for k, v in document[name].items()} for name in ("pixels", "area_m2", "suspects")
        }
        return cls(**(document | by_id))


def predict_tile(task: PredictTask) -> TileDone:
    """Reads, labels and traces one tile and stores its part.

    Raises:
        SceneError: reading failed. PackageError: the package is not the one the job was planned with.
    """
    start = time.perf_counter()
    card, predictor = _load(task)
    core = task.tile.core
    reach = task.tile.reach.intersect(task.scene.window)
    pixels = read_window(task.scene, reach)
    normal = normalise(pixels.values, pixels.valid, card.bands, scale=task.scale, offset=task.offset)
    found = segment_tile(
        normal,
        pixels.valid,
        task.tile,
        predictor,
        origin=reach,
        classes=len(card.legend),
        blend=task.blend,
        batch_size=task.runtime.batch_size,
    )
    classes = card.legend.decode(found.index)
    areas = np.broadcast_to(pixel_areas(task.scene.geobox, core), core.shape)
    arrays = {"classes": classes, "confidence": found.confidence}
    if task.polygons:
        regions = trace_tile(
            classes, confidence=found.confidence, pixel_area=areas, core=core, nodata=card.legend.nodata
        )
        arrays |= regions.to_arrays()
    done = _summary(task.tile.row, task.tile.col, classes, areas, patches=found.patches, start=start)
    here = core.slices(origin=reach)
    sums, squares = moments(normal[(slice(None), *here)])
    done = replace(done, suspects=suspects(pixels, here), sums=sums, squares=squares)
    task.store.write(task.tile.row, task.tile.col, arrays | {DONE: done.to_array()})
    return done


def trace_part(task: TraceTask) -> TileDone:
    """Traces one tile of a class raster and stores its part."""
    start = time.perf_counter()
    pixels = read_window(task.classes, task.core)
    values = pixels.values[0]
    if not task.nodata_is_declared and (values[pixels.valid] == task.nodata).any():
        raise LabelError(
            explain(
                f"the raster holds {task.nodata}, and nothing says what it means",
                at=task,
                expected="class ids 0 to 254, or a declared nodata value",
                found=f"pixels of {task.nodata}",
                change=f"If it is no class: gdal_edit.py -a_nodata {task.nodata}; else give it another id.",
            )
        )
    classes = np.where(pixels.valid, values, task.nodata).astype(np.uint8)
    confidence = None
    if task.confidence is not None:
        scored = read_window(task.confidence, task.core)
        confidence = np.where(scored.valid, scored.values[0], 255).astype(np.uint8)
    areas = np.broadcast_to(pixel_areas(task.classes.geobox, task.core), task.core.shape)
    regions = trace_tile(classes, confidence=confidence, pixel_area=areas, core=task.core, nodata=task.nodata)
    task.store.write(task.row, task.col, {"classes": classes} | regions.to_arrays())
    return _summary(task.row, task.col, classes, areas, patches=0, start=start)


def _load(task: PredictTask) -> tuple[Card, Predictor]:
    from geoseg.models.runtime import load_predictor

    card, predictor = load_predictor(task.package, device=task.runtime.device, threads=task.runtime.threads)
    if card.fingerprint != task.fingerprint:
        raise PackageError(
            explain(
                "the model package changed while the job was running",
                at=task.package,
                expected=f"fingerprint {task.fingerprint[:12]}",
                found=card.fingerprint[:12],
                change="Run again: tiles made with the other package are not mixed in.",
            )
        )
    return card, predictor


def _summary(
    row: int,
    col: int,
    classes: NDArray[np.uint8],
    areas: NDArray[np.float64],
    *,
    patches: int,
    start: float,
) -> TileDone:
    pixels, area_m2 = tally(classes, areas)
    seconds = time.perf_counter() - start
    return TileDone(row=row, col=col, pixels=pixels, area_m2=area_m2, patches=patches, seconds=seconds)


def moments(normal: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """Sums and sums of squares by band; pixels without data are 0 and add nothing."""
    flat = normal.reshape(len(normal), -1)
    squares = np.einsum("bp,bp->b", flat, flat, dtype=np.float64)
    return flat.sum(axis=1, dtype=np.float64).tolist(), squares.tolist()


def suspects(pixels: Pixels, where: tuple[slice, slice]) -> dict[int, int]:
    """Valid pixels of integer scenes, by value, that are 0 or the type's maximum in all of several bands."""
    values = pixels.values[(slice(None), *where)]
    if values.dtype.kind not in "ui" or len(values) < _BANDS_TO_SUSPECT:
        return {}
    first = values[0]
    flat = pixels.valid[where] & (values == first).all(axis=0)
    extremes = (0, int(np.iinfo(values.dtype).max))
    return {value: n for value in extremes if (n := int((flat & (first == value)).sum()))}


def tally(classes: NDArray[np.uint8], areas: NDArray[np.float64]) -> tuple[dict[int, int], dict[int, float]]:
    """Pixels and true area in m2 by class id, for the ids that occur."""
    flat = classes.ravel()
    pixels = np.bincount(flat, minlength=256)
    area = np.bincount(flat, weights=areas.ravel(), minlength=256)
    present = np.flatnonzero(pixels).tolist()
    return {i: int(pixels[i]) for i in present}, {i: float(area[i]) for i in present}
