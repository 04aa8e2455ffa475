"""Tiles of polygons: class rasters that exist are traced; with a minimum mapping unit, tiles are cleaned.

A minimum mapping unit takes two passes. Between them lies the solution, a byte per region that no tile could
decide alone, in a store of its own. Cleaned parts hold classes and regions as those of a job without a
minimum mapping unit do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.execute import run_tasks
from geoseg.raster.classes import values_in
from geoseg.raster.parts import PartStore
from geoseg.raster.read import read_window
from geoseg.sieve import TileGraph, solve
from geoseg.stitch import CONFIDENCE_NODATA
from geoseg.tasks import DONE, TileDone
from geoseg.vector.area import pixel_areas
from geoseg.vector.tracing import clean_and_trace, trace_or_find_small

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.execute import Slots
    from geoseg.raster.classes import ClassRaster
    from geoseg.raster.scene import Scene
    from geoseg.vector.options import Tracing
    from geoseg.windows import Window

_SMALL = tuple(f"mmu_{f.name}" for f in fields(TileGraph))
"""Names of a graph's arrays in a part."""
_SOLUTION = "solution"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """Everything a worker needs to say which values a tile holds."""

    scene: Scene
    core: Window

    def __str__(self) -> str:
        return f"{self.scene.name} ({self.core})"


def scan_tile(task: ScanTask) -> tuple[int, ...]:
    """The values that occur in one tile of a class raster.

    Raises:
        SceneError: reading failed, or these are no classes.
    """
    return values_in(task.scene, task.core)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTask:
    """Everything a worker needs to trace one tile of a class raster that exists already."""

    classes: ClassRaster
    confidence: Scene | None
    """Percent, one band; None: there is none."""
    core: Window
    row: int
    col: int
    how: Tracing
    store: PartStore

    def __str__(self) -> str:
        return f"{self.classes.scene.name}, tile {self.row}/{self.col} ({self.core})"


def trace_part(task: TraceTask) -> TileDone:
    """Traces one tile of a class raster and stores its part.

    Raises:
        SceneError: reading failed. LabelError: there is a value that is no class.
    """
    start = time.perf_counter()
    arrays: dict[str, NDArray[Any]] = {"classes": task.classes.read(task.core)}
    if task.confidence is not None:
        scored = read_window(task.confidence, task.core)
        arrays["confidence"] = np.where(scored.valid, scored.values[0], CONFIDENCE_NODATA).astype(np.uint8)
    areas = pixel_areas(task.classes.scene.geobox, task.core)
    found = trace_or_find_small(
        arrays["classes"],
        confidence=arrays.get("confidence"),
        pixel_area=areas,
        core=task.core,
        how=task.how,
    )
    done = _record(task.row, task.col, arrays["classes"], found, task.how, start=start)
    task.store.write(task.row, task.col, {**arrays, **found, DONE: done.to_array()})
    return done


def _record(
    row: int,
    col: int,
    classes: NDArray[np.uint8],
    found: Mapping[str, NDArray[Any]],
    how: Tracing,
    *,
    start: float,
) -> TileDone:
    """The record of a tile without areas, which nobody asks for here; its regions know the pixels."""
    if "pixels" in found:
        pixels = np.bincount(found["class_id"], weights=found["pixels"], minlength=256).astype(np.int64)
        pixels[how.nodata] = classes.size - pixels.sum()
    else:
        pixels = np.bincount(classes.ravel(), minlength=256)
    return TileDone(
        row=row,
        col=col,
        pixels={i: int(pixels[i]) for i in np.flatnonzero(pixels).tolist()},
        area_m2={},
        patches=0,
        seconds=time.perf_counter() - start,
    )


def recall(store: PartStore, row: int, col: int, core: Window) -> TileDone | None:
    """The record of a tile whose part an interrupted run left whole, else None."""
    arrays = store.recall(row, col, core, DONE)
    return None if arrays is None else TileDone.from_array(arrays[DONE])


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanStores:
    """Where a job's parts are before, between and after the two passes."""

    raw: PartStore
    """Classes, and what is too small in them."""
    solution: PartStore
    cleaned: PartStore
    """Classes and regions after the minimum mapping unit."""

    @classmethod
    def within(cls, work: Path, *, raw: PartStore) -> CleanStores:
        """The stores of the job whose folder is `work`."""
        return cls(
            raw=raw, solution=PartStore(folder=work / "solved"), cleaned=PartStore(folder=work / "cleaned")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanTask:
    """Everything a worker needs to clean and trace one tile."""

    name: str
    """Of the scene, for messages."""
    geobox: GeoBox
    """The scene's grid."""
    core: Window
    """The tile in the scene."""
    place: Window
    """The tile in the product."""
    row: int
    col: int
    how: Tracing
    stores: CleanStores
    has_confidence: bool

    def __str__(self) -> str:
        return f"{self.name}, tile {self.row}/{self.col} ({self.core})"


def clean_tile(task: CleanTask) -> TileDone:
    """Cleans and traces one tile and stores its part.

    Raises:
        ExecutionError: a part is missing or damaged.
    """
    start = time.perf_counter()
    names = ("classes", "confidence") if task.has_confidence else ("classes",)
    raw = task.stores.raw.read(task.row, task.col, *names, *_SMALL)
    solution = task.stores.solution.read(task.row, task.col, _SOLUTION)[_SOLUTION]
    areas = pixel_areas(task.geobox, task.core)
    classes, arrays = clean_and_trace(
        raw["classes"],
        raw,
        solution,
        confidence=raw.get("confidence"),
        pixel_area=areas,
        core=task.place,
        how=task.how,
    )
    done = _record(task.row, task.col, classes, arrays, task.how, start=start)
    found: dict[str, NDArray[Any]] = {"classes": classes, **arrays, DONE: done.to_array()}
    task.stores.cleaned.write(task.row, task.col, found)
    return done


def clean(
    tasks: Sequence[CleanTask], executor: Executor, slots: Slots, *, on_done: Callable[[int], None]
) -> None:
    """The second pass over all tiles of a product; those an interrupted run has cleaned are left alone.

    Args:
        tasks: one per tile.
        executor: what runs them.
        slots: how many it can run at once.
        on_done: called with the number of tiles that are clean, whenever there is another.

    Raises:
        ExecutionError: a part is missing or damaged, or a tile failed.
    """
    todo = [task for task in tasks if recall(task.stores.cleaned, task.row, task.col, task.core) is None]
    on_done(len(tasks) - len(todo))
    if todo:
        _solve(tasks)
    for finished, _ in enumerate(run_tasks(executor, clean_tile, todo, slots=slots), start=1):
        on_done(len(tasks) - len(todo) + finished)


def _solve(tasks: Sequence[CleanTask]) -> None:
    """Decides, for all tiles of a product together, what becomes of small regions; stores it per tile.

    Raises:
        ExecutionError: a part is missing or damaged.
    """
    by_place = {task.place: task for task in tasks}

    def load(place: Window) -> TileGraph:
        task = by_place[place]
        return TileGraph.from_arrays(task.stores.raw.read(task.row, task.col, *_SMALL))

    for place, found in solve(list(by_place), load).items():
        task = by_place[place]
        task.stores.solution.write(task.row, task.col, {_SOLUTION: found})
