"""The main job: a scene and a model package become rasters, polygons and a manifest.

prepare (nothing is written) -> tiles on any executor -> assemble -> manifest, last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from geoseg import findings, seams
from geoseg.assemble import Assembly
from geoseg.choice import Choice, choose_for, reference_of
from geoseg.errors import SceneError, explain
from geoseg.execute import Execution, default_threads, open_executor, run_tasks
from geoseg.facts import memory_bytes, peak_rss_mb, plan_facts, scene_facts, versions
from geoseg.manifest import Manifest, digest
from geoseg.outlining import CleanTask, clean, recall
from geoseg.products import Product, kind_of
from geoseg.raster.artefacts import score_grid
from geoseg.tasks import MemberTask, PredictTask, Runtime, TileDone, predict_tile
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geoseg.assemble import ProductKind, RasterKind
    from geoseg.prediction import Prediction
    from geoseg.raster.parts import PartStore
    from geoseg.raster.scene import Scene
    from geoseg.tiling import Tile
    from geoseg.vector.summary import Totals

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_log = logging.getLogger(__name__)

_IN_WORDS = {"probability": "probability", "margin": "lead over the next class", "entropy": "1 - entropy"}
"""What a confidence raster holds, for its band's description."""

_SHARE_OF_MEMORY = 0.5
"""Of what this machine has, that network calls may take together where the user says nothing."""


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


def settle(prediction: Prediction, runtime: Runtime, execution: Execution) -> tuple[Runtime, Choice | None]:
    """The runtime as workers get it: its name, the device, and how many cores and calls each process has.

    Raises:
        GeosegError: not even the reference runtime can run the network, or there is no such device.
    """
    choice = _choose(prediction, runtime, execution) if runtime.name == "auto" else None
    name = runtime.name if choice is None else choice.name
    if execution.kind == "cluster":  # other machines, other devices and other memory
        return replace(runtime, name=name, cores=1, calls=1), choice
    device = _device(name, runtime.device)
    settled = replace(runtime, name=name, device=device)
    one = prediction.job_bytes(1)
    if one is None and prediction.options.memory:
        _log.warning("--memory has no effect: the package does not say what a call takes; see --patch-size")
    if execution.kind == "processes":
        here = _SHARE_OF_MEMORY * memory_bytes()
        if one is not None and execution.workers * one > here:
            _log.warning(
                _short_of_memory(f"{execution.workers} worker processes", execution.workers * one, here)
            )
        return replace(settled, cores=1, calls=1), choice
    calls = _calls(prediction, execution.threads, runtime.batch_size or 1)
    return replace(settled, cores=execution.threads, calls=calls), choice


def _calls(prediction: Prediction, cores: int, batch: int) -> int | None:
    """Network calls at once: one for each core, as far as memory allows; None: it was not measured."""
    memory = prediction.options.memory or int(_SHARE_OF_MEMORY * memory_bytes())
    for calls in range(cores, 0, -1):
        need = prediction.job_bytes(calls * batch)
        if need is None or need <= memory:
            return None if need is None else calls
        if calls == cores:
            _log.warning(_short_of_memory(f"{cores} network calls at once", need, memory))
    return 1


def _device(runtime: str, wanted: str) -> str:
    """The device, so that what was made on one is never continued on another; several GPUs stay "auto".

    PyTorch takes seconds and 400 MB to import: what runs without it does not ask it.
    """
    if wanted in {"auto", "cpu"} and not runtime.startswith("torch"):
        return "cpu"
    from geoseg.models.devices import resolve_devices

    found = resolve_devices(wanted)
    return found[0] if len(found) == 1 else wanted


def _short_of_memory(what: str, need: float, memory: float) -> str:
    return (
        f"{what} would take {need / 1e9:.1f} GB, more than {memory / 1e9:.1f} GB: cores stay idle, or memory "
        "runs short; allow more with --memory, or say --patch-size"
    )


def _choose(prediction: Prediction, runtime: Runtime, execution: Execution) -> Choice:
    graphs = [card for card in prediction.cards if card.architecture is None]
    reference = reference_of(graphs[0] if graphs else prediction.card)
    if len(prediction.cards) > 1:
        return Choice(name=reference, reason="several networks vote: name a runtime to use another")
    if execution.kind == "cluster":
        return Choice(name=reference, reason="workers of a cluster may lack others: name one to use it")
    return choose_for(
        prediction.scene,
        prediction.packages[0],
        prediction.card,
        prediction.plan,
        device=runtime.device,
        cores=execution.workers or execution.threads,
        mapping=prediction.options.mapping,
    )


def tile_tasks(
    prediction: Prediction,
    store: PartStore,
    runtime: Runtime,
    *,
    only: Sequence[tuple[int, int]] | None = None,
) -> Iterator[PredictTask]:
    """One task per tile, or for the tiles `only` (row, column), for `geoseg.tasks.predict_tile`."""
    places = only if only is not None else [(tile.row, tile.col) for tile in prediction.plan]
    members = tuple(
        MemberTask(package=path, fingerprint=card.fingerprint)
        for path, card in zip(prediction.packages, prediction.cards, strict=True)
    )
    for row, col in places:
        tile = prediction.plan.tile(row, col)
        yield PredictTask(
            scene=prediction.scene.near(tile.reach.intersect(prediction.scene.window)),
            members=members,
            tile=tile,
            place=_place(prediction, tile),
            request=prediction.request,
            runtime=runtime,
            store=store,
            polygons=prediction.tracing,
            aoi=prediction.aoi,
        )


def _place(prediction: Prediction, tile: Tile) -> Window:
    """The tile's core in the product."""
    whole, core = prediction.plan.window, tile.core
    return Window(core.row - whole.row, core.col - whole.col, core.height, core.width)


def assembly(
    prediction: Prediction,
    store: PartStore,
    *,
    outlined: PartStore | None = None,
    job: str | None = None,
) -> Assembly:
    """The parts in `store` and what is needed to make products of them; `job` is the id they carry.

    `outlined` holds the parts after the minimum mapping unit, where there is one.
    """
    polygons = prediction.options.polygons
    return Assembly(
        store=store,
        outlined=outlined or store,
        cores={_place(prediction, tile): (tile.row, tile.col) for tile in prediction.plan},
        geobox=prediction.geobox,
        legend=prediction.card.legend,
        tags=_tags(prediction, job or prediction.job),
        tracing=prediction.tracing,
        crs=None if polygons is None else polygons.crs,
        confidence=_IN_WORDS.get(prediction.options.confidence or "", "confidence"),
        threads=default_threads(),
    )


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

    With one runtime the same bytes come out of one thread, many threads or many processes (on a CPU). Tiles
    that an interrupted run of the same job has finished are not computed again. A job that is complete is
    left alone.

    Raises:
        OutputError: something else is in the way, or the folder cannot be written.
        SceneError: the scene cannot be read, or has no valid pixel.
        ExecutionError: a tile failed; finished tiles are kept for the next run.
    """
    execution = execution or Execution()
    report = on_progress or _silent
    asked = runtime or Runtime()
    job = prediction.job_with(asked.name)
    product = Product(
        folder=out.absolute(),
        stem=prediction.scene.name,
        job=job,
        facts=_facts(prediction, asked),
        kinds=(*_rasters(prediction), *map(kind_of, prediction.formats)),
    )
    complete = None if overwrite else product.finished()
    if complete is not None:
        return Outcome(manifest=complete, path=product.manifest, fresh=False)
    clock = _Clock()
    runtime, choice = settle(prediction, asked, execution)
    clock.lap("choose")
    product = replace(product, attempt=_attempt(job, runtime))
    product.begin(overwrite=overwrite)
    with product.claimed():
        done, reused = _run_tiles(prediction, product, execution, runtime, report)
        clock.lap("tiles")
        counts = findings.count(done, prediction.card.legend)
        if counts.valid == 0:
            raise _nothing_valid(prediction.scene, product)
        product.reopen()
        totals = write_products(prediction, product, report)
        score = score_grid(
            product.path("classes"), seams.Grid.of(prediction.plan), nodata=prediction.card.legend.nodata
        )
        clock.lap("assemble")
        manifest = Manifest(
            job=job,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            scene=product.facts["scene"],
            package=product.facts["package"],
            plan=product.facts["plan"],
            options=product.facts["options"],
            execution=_execution_facts(execution, runtime, choice, done, reused=reused),
            versions=versions(*_involved(runtime), "dask", "rasterio", "numpy"),
            counts=counts,
            polygons=None if totals is None else totals.count,
            outlined=() if totals is None else findings.outlined(totals, prediction.card.legend),
            seams=None if score is None else asdict(score),
            seconds=clock.laps,
            warnings=(
                *findings.warnings_of(done, prediction.card),
                *filter(None, [seams.warning(score)]),
            ),
            outputs=product.outputs(),
        )
        product.complete(manifest)
    return Outcome(manifest=manifest, path=product.manifest, fresh=True, reused_tiles=reused)


def _facts(prediction: Prediction, asked: Runtime) -> dict[str, dict[str, Any]]:
    """What the job's id is made of, as the manifest says it."""
    return {
        "scene": scene_facts(prediction.scene),
        "package": _package_facts(prediction),
        "plan": plan_facts(prediction.plan),
        "options": prediction.option_facts | {"runtime": asked.name},
    }


def _attempt(job: str, runtime: Runtime) -> str:
    """Attempts that run the network in the same way share parts; on how many cores does not matter."""
    same = {k: v for k, v in asdict(runtime).items() if k not in ("cores", "calls")}
    return digest({"job": job, "runtime": same, "versions": versions(*_involved(runtime))})


def _involved(runtime: Runtime) -> tuple[str, ...]:
    """The packages whose versions decide what a network answers."""
    if runtime.name in ("onnxruntime", "openvino"):
        return "torch", runtime.name
    return "torch", "segmentation-models-pytorch"


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
        earlier = recall(store, tile.row, tile.col, tile.core)
        done.append(earlier) if earlier else todo.append((tile.row, tile.col))
    reused = len(done)
    report("tiles", reused, total)
    small = clean_tasks(prediction, product)
    if not todo and not small:
        return done, reused
    tasks = tile_tasks(prediction, store, runtime, only=todo)
    with open_executor(execution, calls=runtime.calls) as (executor, slots):
        for result in run_tasks(executor, predict_tile, tasks, slots=slots):
            done.append(result)
            report("tiles", len(done), total)
        if small:
            clean(small, executor, slots, on_done=lambda finished: report("cleaning", finished, total))
    return done, reused


def clean_tasks(prediction: Prediction, product: Product) -> list[CleanTask]:
    """What the minimum mapping unit needs once all tiles are labelled: a task per tile, or none at all."""
    how = prediction.tracing
    if how is None or how.minimum is None:
        return []
    return [
        CleanTask(
            name=prediction.scene.name,
            geobox=prediction.scene.geobox,
            core=tile.core,
            place=_place(prediction, tile),
            row=tile.row,
            col=tile.col,
            how=how,
            stores=product.clean_stores,
            has_confidence=prediction.options.confidence is not None,
        )
        for tile in prediction.plan
    ]


def outlined_parts(prediction: Prediction, product: Product) -> PartStore:
    """The parts polygons are made of: after the minimum mapping unit, where there is one."""
    how = prediction.tracing
    return product.parts if how is None or how.minimum is None else product.clean_stores.cleaned


def write_products(prediction: Prediction, product: Product, report: Progress) -> Totals | None:
    """Writes all that is wanted from the product's parts; returns what the polygons come to, if any are.

    Raises:
        OutputError: a file cannot be written. ExecutionError: a part is missing or damaged.
    """
    rasters = {kind: product.path(kind) for kind in _rasters(prediction)}
    polygons = {f: product.path(kind_of(f)) for f in prediction.formats}
    total, written = len(rasters) + bool(polygons), 0

    def tell(_kind: ProductKind) -> None:
        nonlocal written
        written += 1
        report("writing", written, total)

    report("writing", 0, total)
    models = ", ".join(path.name for path in prediction.packages)
    description = f"Land use of {prediction.scene.name}, made by geoseg from {models}"
    parts = assembly(prediction, product.parts, outlined=outlined_parts(prediction, product), job=product.job)
    return parts.write_all(rasters, polygons, description=description, on_written=tell)


def _rasters(prediction: Prediction) -> tuple[RasterKind, ...]:
    """The rasters a job makes."""
    options, how = prediction.options, prediction.tracing
    wanted: dict[RasterKind, bool] = {
        "classes": True,
        "cleaned": how is not None and how.minimum is not None,
        "confidence": options.confidence is not None,
        "probabilities": options.probabilities,
    }
    return tuple(kind for kind, there in wanted.items() if there)


def _tags(prediction: Prediction, job: str) -> Map[str, str]:
    return {
        "TIFFTAG_SOFTWARE": f"geoseg {version('geoseg')}",
        "GEOSEG_JOB": job,
        "GEOSEG_SCENE": prediction.scene.name,
        "GEOSEG_MODEL": " ".join(card.fingerprint for card in prediction.cards),
    }


def _package_facts(prediction: Prediction) -> dict[str, Any]:
    facts = [
        {"folder": str(path), "fingerprint": card.fingerprint, "weights_sha256": card.weights_sha256}
        for path, card in zip(prediction.packages, prediction.cards, strict=True)
    ]
    return {**facts[0], **({"others": facts[1:]} if len(facts) > 1 else {})}


def _execution_facts(
    execution: Execution, runtime: Runtime, choice: Choice | None, done: list[TileDone], *, reused: int
) -> dict[str, Any]:
    return {
        "kind": execution.kind,
        "workers": execution.workers or execution.threads,
        "runtime": runtime.name,
        "choice": None if choice is None else choice.model_dump(mode="json"),
        "device": runtime.device,
        "cores": runtime.cores,
        "calls": runtime.calls,
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
            change="Check the nodata value and the mask (geoseg info shows them), and the area of interest.",
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
