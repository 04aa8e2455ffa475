"""One tile of a job, from reading to a part on disk: what an executor runs, wherever that is.

Tasks and what they return are small and picklable: paths, windows and counts, never pixels.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import PackageError, explain
from geoseg.inference import DecidingPredictor, Member, normalise, segment_tile
from geoseg.raster.read import read_window
from geoseg.vector.area import pixel_areas
from geoseg.vector.tracing import trace_or_find_small

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.inference import Request
    from geoseg.legend import Legend
    from geoseg.raster.aoi import Aoi
    from geoseg.raster.parts import PartStore
    from geoseg.raster.read import Pixels
    from geoseg.raster.scene import Scene
    from geoseg.tiling import Tile
    from geoseg.vector.options import Tracing
    from geoseg.windows import Window


DONE = "done"
"""Name of the tile's own record among the arrays of its part."""

_BANDS_TO_SUSPECT = 3
"""With fewer bands, equal extremes are too common to mean anything."""

_DEVICE_BATCH = 16
"""Patches offered to a device at once, at most,"""
_DEVICE_BATCH_BYTES = 512_000_000
"""and what they and all scores for them may take in this process's memory."""

_ROWS_AT_ONCE = 32

_SAMPLE_STEP = 4
"""Every so many rows and columns of the scene a pixel is looked at, to tell how its values are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How a worker runs the network."""

    name: str = "torch"
    """One of `geoseg.models.catalogue.RUNTIMES`, or "auto": the fastest that labels a sample of the scene as
    the reference does."""
    device: str = "auto"
    """One of cpu, cuda, cuda:N, auto."""
    cores: int = 1
    """CPU cores a process may use for networks. However many, results on CPU are the same."""
    calls: int | None = None
    """Network calls at once, at most, where memory is short; None: as many as make sense."""
    batch_size: int | None = None
    """Patches given to the network at once; None: 1 on a CPU, and on a GPU as many as fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberTask:
    """A network a worker has to load."""

    package: Path
    """Folder or ONNX file, readable by the worker."""
    fingerprint: str
    """Of the card the job was planned with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictTask:
    """Everything a worker needs to label one tile."""

    scene: Scene
    """Its bands are those the packages need."""
    members: tuple[MemberTask, ...]
    """One network, or several that vote."""
    tile: Tile
    place: Window
    """The tile's core in the product, whose upper left corner need not be the scene's."""
    request: Request
    runtime: Runtime
    store: PartStore
    polygons: Tracing | None
    """How outlines are traced; None: not at all."""
    aoi: Aoi | None = None
    """Where an answer is wanted; None: everywhere in the core."""

    def __str__(self) -> str:
        return f"{self.scene.name}, tile {self.tile.row}/{self.tile.col} ({self.tile.core})"


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
    looked_at: int = 0
    """Valid pixels of the sample that the following speak of."""
    suspects: dict[int, int] = field(default_factory=dict)
    """Of these, those with the same extreme value in every band, by value: undeclared nodata, perhaps."""
    sums: list[float] = field(default_factory=list)
    """Their sum, normalised, by band of the first network."""
    squares: list[float] = field(default_factory=list)
    """The sum of their squares by band."""

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
    reach, core = task.tile.reach.intersect(task.scene.window), task.tile.core
    mask = None if task.aoi is None or task.aoi.wkb is None else task.aoi.mask(core, task.scene.geobox)
    legend, members = load_members(task)
    pixels = read_window(task.scene, reach)
    found = segment_tile(
        pixels.values,
        pixels.valid,
        task.tile,
        members,
        replace(task.request, batch_size=_batch_size(task, members)),
        origin=reach,
        mask=mask,
    )
    look = _look(pixels, core, reach, members[0], task.request, mask=mask)
    del pixels
    classes = legend.decode(found.index)
    areas = pixel_areas(task.scene.geobox, core)
    arrays: dict[str, NDArray[Any]] = {"classes": classes}
    if found.confidence is not None:
        arrays["confidence"] = found.confidence
    if found.probabilities is not None:
        arrays["probabilities"] = found.probabilities
    if task.polygons is not None:
        arrays |= trace_or_find_small(
            classes, confidence=found.confidence, pixel_area=areas, core=task.place, how=task.polygons
        )
    done = _summary(task.tile.row, task.tile.col, classes, areas, patches=found.patches, start=start)
    done = replace(done, **look)
    task.store.write(task.tile.row, task.tile.col, arrays | {DONE: done.to_array()})
    return done


def load_members(task: PredictTask) -> tuple[Legend, list[Member]]:
    """The legend of a task's networks, and each of them, loaded once per process.

    Raises:
        PackageError: a package is not the one the job was planned with.
    """
    from geoseg.models.runtime import load_predictor

    members, legends = [], []
    for wanted in task.members:
        card, predictor = load_predictor(
            wanted.package,
            runtime=task.runtime.name,
            device=task.runtime.device,
            cores=task.runtime.cores,
            max_calls=task.runtime.calls,
        )
        if card.fingerprint != wanted.fingerprint:
            raise PackageError(
                explain(
                    "the model package changed while the job was running",
                    at=wanted.package,
                    expected=f"fingerprint {wanted.fingerprint[:12]}",
                    found=card.fingerprint[:12],
                    change="Run again: tiles made with the other package are not mixed in.",
                )
            )
        where = tuple(task.scene.band_names.index(name) for name in card.band_names)
        members.append(Member(predictor=predictor, bands=card.bands, where=where))
        legends.append(card.legend)
    return legends[0], members


def _batch_size(task: PredictTask, members: list[Member]) -> int:
    """On a CPU more patches at once gain nothing; what decides on a device splits what does not fit."""
    if task.runtime.batch_size is not None:
        return task.runtime.batch_size
    if not isinstance(members[0].predictor, DecidingPredictor):
        return 1
    planes = max(len(m.bands) for m in members) + task.request.classes
    patch_bytes = 4 * planes * task.tile.patches[0].window.size
    return max(1, min(_DEVICE_BATCH, _DEVICE_BATCH_BYTES // patch_bytes))


def _summary(
    row: int,
    col: int,
    classes: NDArray[np.uint8],
    areas: NDArray[np.floating],
    *,
    patches: int,
    start: float,
) -> TileDone:
    """The record of a tile that holds `classes`, begun at `start` (`time.perf_counter`)."""
    pixels, area_m2 = tally(classes, areas)
    seconds = time.perf_counter() - start
    return TileDone(row=row, col=col, pixels=pixels, area_m2=area_m2, patches=patches, seconds=seconds)


def _look(
    pixels: Pixels,
    core: Window,
    reach: Window,
    member: Member,
    request: Request,
    *,
    mask: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """What the values of the core are like, from a sample that lies in the same places for any tiling."""
    step = _SAMPLE_STEP
    rows, cols = core.slices(origin=reach)
    places = (
        slice(rows.start + -core.row % step, rows.stop, step),
        slice(cols.start + -core.col % step, cols.stop, step),
    )
    values, valid = pixels.values[(slice(None), *places)], pixels.valid[places]
    if mask is not None:
        valid = valid & mask[-core.row % step :: step, -core.col % step :: step]
    mine = values[list(member.where)]
    normal = normalise(mine, valid, member.bands, scale=request.scale, offset=request.offset)
    sums, squares = moments(normal)
    return {
        "looked_at": int(valid.sum()),
        "suspects": suspects(values, valid),
        "sums": sums,
        "squares": squares,
    }


def moments(normal: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """Sums and sums of squares by band; pixels without data are 0 and add nothing."""
    flat = normal.reshape(len(normal), -1)
    squares = np.einsum("bp,bp->b", flat, flat, dtype=np.float64)
    return flat.sum(axis=1, dtype=np.float64).tolist(), squares.tolist()


def suspects(values: NDArray[Any], valid: NDArray[np.bool_]) -> dict[int, int]:
    """Valid pixels of integer scenes, by value, that are 0 or the type's maximum in all of several bands."""
    if values.dtype.kind not in "ui" or len(values) < _BANDS_TO_SUSPECT:
        return {}
    first = values[0]
    flat = valid & (values == first).all(axis=0)
    extremes = (0, int(np.iinfo(values.dtype).max))
    return {value: n for value in extremes if (n := int((flat & (first == value)).sum()))}


def tally(classes: NDArray[np.uint8], areas: NDArray[np.floating]) -> tuple[dict[int, int], dict[int, float]]:
    """Pixels and true area in m2 by class id, for the ids that occur; areas broadcast to the classes."""
    everywhere = np.broadcast_to(areas, classes.shape)
    pixels, area = np.zeros(256, np.int64), np.zeros(256)
    for start in range(0, len(classes), _ROWS_AT_ONCE):  # what bincount makes of them stays in the cache
        rows = slice(start, start + _ROWS_AT_ONCE)
        flat = classes[rows].ravel()
        pixels += np.bincount(flat, minlength=256)
        area += np.bincount(flat, weights=everywhere[rows].ravel(), minlength=256)
    present = np.flatnonzero(pixels).tolist()
    return {i: int(pixels[i]) for i in present}, {i: float(area[i]) for i in present}
