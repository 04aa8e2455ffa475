"""The main job: a scene and a model package become rasters, polygons and a manifest.

prepare (nothing is written) -> tiles on any executor -> assemble -> manifest, last.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.assemble import Assembly
from geoseg.errors import SceneError, UsageError, explain
from geoseg.execute import Execution, open_executor, run_tasks
from geoseg.facts import facts_of, peak_rss_mb, plan_facts, scene_facts, versions
from geoseg.manifest import ClassShare, Counts, Manifest, digest, job_id
from geoseg.matching import Mapping, require_match
from geoseg.models.catalogue import describe
from geoseg.package import Card, read_card
from geoseg.products import Product
from geoseg.tasks import DONE, PredictTask, Runtime, TileDone, predict_tile
from geoseg.tiling import TILE_PX, Lattice, Tile, TilePlan

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.legend import Legend
    from geoseg.raster.parts import PartStore
    from geoseg.raster.scene import Scene

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_SUSPICIOUS_SHARE = 0.01
# In standard deviations of the training scenes: beyond what season and place do, within a factor of 10.
_FAR_MEAN, _WIDE, _NARROW = 4.0, 5.0, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What may be chosen for a prediction; None takes the package's own value."""

    patch_px: int | None = None
    overlap_px: int | None = None
    tile_px: int = TILE_PX
    blend: bool | None = None
    """Weigh overlapping patches instead of splitting overlaps at their midpoint; None: only for networks
    with global context, whose scores depend on where in the patch a pixel lies, however wide the overlap."""
    confidence: bool = True
    """Write the confidence raster."""
    polygons: bool = True
    """Write the GeoPackage."""
    mapping: Mapping = field(default_factory=Mapping)

    def __post_init__(self) -> None:
        for name, size in (("patch", self.patch_px), ("tile", self.tile_px)):
            if size is not None and size < 1:
                raise UsageError(f"the {name} size must be at least 1 px, not {size}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A scene matched with a package and planned; nothing has been computed."""

    scene: Scene
    """Its bands are the package's, in the package's order."""
    package: Path
    card: Card
    plan: TilePlan
    options: PredictOptions

    @cached_property
    def job(self) -> str:
        """Id of this job: equal ids mean equal products."""
        return job_id(
            scene=self.scene.fingerprint,
            package=self.card.fingerprint,
            plan=plan_facts(self.plan),
            options=self.option_facts,
        )

    @property
    def option_facts(self) -> dict[str, Any]:
        """The options that shape the product, for the manifest."""
        mapping = self.options.mapping
        return {
            "blend": self.plan.blend,
            "confidence": self.options.confidence,
            "polygons": self.options.polygons,
            "scale": mapping.scale,
            "offset": mapping.offset,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job."""

    manifest: Manifest
    path: Path
    """Of the manifest; the product's files are beside it."""
    fresh: bool
    """False: it was complete already, and nothing was done."""
    reused_tiles: int = 0
    """Tiles finished by an earlier, interrupted run."""


def prepare(scene: Scene, package: Path, options: PredictOptions) -> Prediction:
    """The scene matched with the package and cut into tiles. Reads headers only.

    Raises:
        PackageError: the package cannot be trusted.
        MismatchError: the scene is not what the package was made for.
        UsageError: patch or overlap do not fit the network's stride.
    """
    card = read_card(package)
    require_match(card, facts_of(scene), options.mapping)
    lattice = Lattice.of(
        scene.window.shape,
        patch_px=card.patch_px if options.patch_px is None else options.patch_px,
        overlap_px=card.overlap_px if options.overlap_px is None else options.overlap_px,
        stride_px=card.stride_px,
    )
    blend = has_global_context(card) if options.blend is None else options.blend
    plan = TilePlan(lattice=lattice, tile_px=options.tile_px, blend=blend)
    matched = scene.select(card.band_names)
    return Prediction(scene=matched, package=package.resolve(), card=card, plan=plan, options=options)


def has_global_context(card: Card) -> bool:
    """True when the package's architecture pools or attends over the whole patch."""
    return describe(card.architecture.name).context == "global"


def predict(
    prediction: Prediction,
    out: Path,
    *,
    execution: Execution | None = None,
    runtime: Runtime | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Outcome:
    """Labels the whole scene and writes its product into `out`.

    The same bytes come out of one thread, many threads or many processes. Tiles that an interrupted run of
    the same job has finished are not computed again. A job that is complete already is left alone.

    Raises:
        OutputError: something else is in the way, or the folder cannot be written.
        SceneError: the scene cannot be read, or has no valid pixel.
        ExecutionError: a tile failed; finished tiles are kept for the next run.
    """
    execution = execution or Execution()
    report = on_progress or _silent
    runtime = runtime or Runtime()
    attempt = digest({"job": prediction.job, "geoseg": version("geoseg"), "runtime": asdict(runtime)})
    product = Product(folder=out.absolute(), stem=prediction.scene.name, job=prediction.job, attempt=attempt)
    complete = product.begin(overwrite=overwrite)
    if complete is not None:
        return Outcome(manifest=complete, path=product.manifest, fresh=False)
    clock = _Clock()
    done, reused = _run_tiles(prediction, product, execution, runtime, report)
    clock.lap("tiles")
    counts = _counts(done, prediction.card.legend)
    if counts.valid == 0:
        raise _nothing_valid(prediction.scene, product)
    product.reopen()
    polygons = _write_products(prediction, product, report)
    clock.lap("assemble")
    manifest = Manifest(
        job=prediction.job,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        scene=scene_facts(prediction.scene),
        package={
            "folder": str(prediction.package),
            "fingerprint": prediction.card.fingerprint,
            "weights_sha256": prediction.card.weights_sha256,
        },
        plan=plan_facts(prediction.plan),
        options=prediction.option_facts,
        execution=_execution_facts(execution, runtime, done, reused),
        versions=versions("torch", "segmentation-models-pytorch", "dask", "rasterio", "numpy"),
        counts=counts,
        polygons=polygons,
        seconds=clock.laps,
        warnings=(
            *_undeclared_nodata(done, counts.valid),
            *_unlike_training(done, prediction.card, counts.valid),
        ),
        outputs=product.outputs(),
    )
    product.complete(manifest)
    return Outcome(manifest=manifest, path=product.manifest, fresh=True, reused_tiles=reused)


def _run_tiles(
    prediction: Prediction,
    product: Product,
    execution: Execution,
    runtime: Runtime,
    report: Progress,
) -> tuple[list[TileDone], int]:
    """What each tile holds, and how many tiles were finished before this run."""
    store, total = product.parts, len(prediction.plan)
    done: list[TileDone] = []
    todo: list[tuple[int, int]] = []
    for tile in prediction.plan:
        earlier = _recall(store, tile)
        done.append(earlier) if earlier else todo.append((tile.row, tile.col))
    reused = len(done)
    report("tiles", reused, total)
    if not todo:
        return done, reused
    mapping = prediction.options.mapping
    tasks = (
        PredictTask(
            scene=prediction.scene,
            package=prediction.package,
            fingerprint=prediction.card.fingerprint,
            tile=prediction.plan.tile(row, col),
            blend=prediction.plan.blend,
            scale=1.0 if mapping.scale is None else mapping.scale,
            offset=mapping.offset,
            runtime=runtime,
            store=store,
            polygons=prediction.options.polygons,
        )
        for row, col in todo
    )
    with open_executor(execution) as (executor, slots):
        for result in run_tasks(executor, predict_tile, tasks, slots=slots):
            done.append(result)
            report("tiles", len(done), total)
    return done, reused


def _recall(store: PartStore, tile: Tile) -> TileDone | None:
    """The record of a tile whose part an interrupted run left whole, else None."""
    arrays = store.recall(tile.row, tile.col, tile.core, DONE)
    return None if arrays is None else TileDone.from_array(arrays[DONE])


def _counts(done: list[TileDone], legend: Legend) -> Counts:
    pixels: Counter[int] = Counter()
    area: Counter[int] = Counter()
    # In tile order, whatever order they finished in: the same sums to the last bit.
    for tile in sorted(done, key=lambda t: (t.row, t.col)):
        pixels.update(tile.pixels)
        area.update(tile.area_m2)  # counters add floats just as well
    shares = tuple(
        ClassShare(id=c.id, name=c.name, pixels=pixels[c.id], area_m2=float(area[c.id]))
        for c in legend.classes
    )
    nodata = pixels[legend.nodata]
    return Counts(valid=sum(pixels.values()) - nodata, nodata=nodata, classes=shares)


def _undeclared_nodata(done: list[TileDone], valid: int) -> tuple[str, ...]:
    """A warning where much of the scene is one extreme value that nothing declares as nodata."""
    found: Counter[int] = Counter()
    for tile in done:
        found.update(tile.suspects)
    return tuple(
        f"{100 * count / valid:.1f} % of the pixels hold {value} in every band and were given a class, for "
        f"nothing declares {value} as nodata; if it is, predict again with --nodata {value} --overwrite"
        for value, count in sorted(found.items())
        if count > _SUSPICIOUS_SHARE * valid
    )


def _unlike_training(done: list[TileDone], card: Card, valid: int) -> tuple[str, ...]:
    """A warning where the scene's values are far from those the normalisation was measured on."""
    mean = np.sum([t.sums for t in done], axis=0) / valid
    spread = np.sqrt(np.maximum(np.sum([t.squares for t in done], axis=0) / valid - mean**2, 0))
    strange = (np.abs(mean) > _FAR_MEAN) | (spread > _WIDE) | (spread < _NARROW)
    texts = [
        f"{band.name}: mean {band.mean + m * band.std:.4g}, spread {s * band.std:.3g}; the model learnt from "
        f"{band.mean:.4g} and {band.std:.3g}"
        for band, m, s, odd in zip(card.bands, mean, spread, strange, strict=True)
        if odd
    ]
    advice = "other units or another sensor? See --scale and --offset"
    return (
        (f"values are unlike those the model was made for ({'; '.join(texts)}): {advice}",) if texts else ()
    )


def _write_products(prediction: Prediction, product: Product, report: Progress) -> int | None:
    assembly = Assembly(
        store=product.parts,
        cores={tile.core: (tile.row, tile.col) for tile in prediction.plan},
        geobox=prediction.scene.geobox,
        legend=prediction.card.legend,
        tags=_tags(prediction),
    )
    steps = 1 + prediction.options.confidence + prediction.options.polygons
    report("writing", 0, steps)
    assembly.write_classes(product.path("classes"))
    report("writing", 1, steps)
    if prediction.options.confidence:
        assembly.write_confidence(product.path("confidence"))
        report("writing", 2, steps)
    else:
        product.discard("confidence")
    if not prediction.options.polygons:
        product.discard("polygons")
        return None
    description = f"Land use of {prediction.scene.name}, made by geoseg from {prediction.package.name}"
    count = assembly.write_polygons(product.path("polygons"), description=description)
    report("writing", steps, steps)
    return count


def _tags(prediction: Prediction) -> Map[str, str]:
    return {
        "TIFFTAG_SOFTWARE": f"geoseg {version('geoseg')}",
        "GEOSEG_JOB": prediction.job,
        "GEOSEG_SCENE": prediction.scene.name,
        "GEOSEG_MODEL": prediction.card.fingerprint,
    }


def _execution_facts(
    execution: Execution, runtime: Runtime, done: list[TileDone], reused: int
) -> dict[str, Any]:
    return {
        "kind": execution.kind,
        "workers": execution.workers or execution.threads,
        "device": runtime.device,
        "threads": runtime.threads,
        "batch_size": runtime.batch_size,
        "patches_computed": sum(t.patches for t in done),
        "tiles_reused": reused,
        "tile_seconds": round(sum(t.seconds for t in done), 3),
        "peak_rss_mb": peak_rss_mb(),
    }


def _nothing_valid(scene: Scene, product: Product) -> SceneError:
    product.forget_parts()
    return SceneError(
        explain(
            "the scene has no valid pixel",
            at=", ".join(scene.paths),
            expected="at least one pixel with data in every band the model needs",
            found=f"nothing but nodata in {scene.window.shape[0]} x {scene.window.shape[1]} px",
            change="Check the nodata value and the mask (geoseg info shows them).",
        )
    )


class _Clock:
    """Wall seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody listens to."""
