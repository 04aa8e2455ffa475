"""All that the benchmarks know about geoseg's inside. When its functions change, this file follows."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import patch

import numpy as np

from benchmarks.contenders import Work
from benchmarks.jobs import Cuts, Facts, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from geoseg.prediction import Prediction
T = TypeVar("T")

CONTEXT_PX = 768
"""Side of the crops on which it is measured how far a network looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What geoseg would give the network."""

    patches: Counter[tuple[int, int]]
    """How many patches of each (height, width)."""
    cuts: Cuts
    scene_px: int
    patch_px: int
    overlap_px: int
    tile_px: int
    tiles: int

    @property
    def forwarded_px(self) -> int:
        """Pixels given to the network in all."""
        return sum(height * width * count for (height, width), count in self.patches.items())

    @property
    def duplication(self) -> float:
        """Pixels forwarded over pixels of the scene."""
        return self.forwarded_px / self.scene_px


def make_network(name: str, scene: Path, work: Path) -> Path:
    """The weights, calibrated on `scene`; left alone when they are there."""
    from benchmarks import networks

    return networks.make_network(name, scene, work / "networks")


def make_package(name: str, scene: Path, work: Path) -> Path:
    """The network `name` as a model package, measured on `scene`; left alone when it is there."""
    folder = package_of(name, work)
    if folder.exists():
        return folder
    from benchmarks.networks import crops, load_network
    from benchmarks.scenes import BANDS
    from benchmarks.specs import NETWORKS
    from geoseg.models.context import measure_context
    from geoseg.models.footprint import call_bytes_per_px
    from geoseg.models.pytorch import TorchPredictor
    from geoseg.models.registry import build
    from geoseg.models.store import save_package
    from geoseg.package import Architecture, Band

    spec = NETWORKS[name]
    network, calibration = load_network(name, work / "networks")
    architecture = Architecture(name="unet", encoder=spec.encoder, options=spec.options)
    model = build(architecture, bands=len(BANDS), classes=spec.classes)
    model.network.load_state_dict(network.state_dict())
    values = zip(BANDS, calibration.mean, calibration.std, strict=True)
    samples = [calibration.apply(crop) for crop in crops(scene, side=CONTEXT_PX, count=2)]
    predict = TorchPredictor(model, bands=len(BANDS))
    save_package(
        folder,
        model=model,
        architecture=architecture,
        bands=[Band(name=band, mean=mean, std=std) for band, mean, std in values],
        dtype="uint16",
        legend=_legend(spec.classes),
        patch_px=512,
        overlap_px=64,
        call_bytes_per_px=call_bytes_per_px(predict, bands=len(BANDS), stride_px=model.stride_px),
        context=measure_context(predict, samples, stride_px=model.stride_px),
    )
    return folder


def package_of(name: str, work: Path) -> Path:
    """Where the package of a network is."""
    return work / "packages" / name


@contextmanager
def graph(job: Job) -> Iterator[Path]:
    """The network as the ONNX graph that geoseg's runtimes for ONNX are given, there while the block runs."""
    from geoseg.models.graphs import graph_of
    from geoseg.package import read_card

    package = package_of(job.network, job.work)
    with graph_of(package, read_card(package)) as (path, _):
        yield path


def concurrency(job: Job) -> tuple[int, int]:
    """Network calls at once, and threads of each."""
    if job.runtime.startswith("torch"):
        return (job.cores, 1) if job.device == "cpu" else (1, job.cores)
    return 1, job.cores


def plan(job: Job, scene: Path | None = None) -> Chosen:
    """The plan for the job's scene, or for another one."""
    return _chosen(_prepare(job, scene or job.scene, everything=False))


def plan_of_size(job: Job, size: int) -> Chosen:
    """The plan for a square scene of `size` px that need not exist."""
    from geoseg.package import read_card
    from geoseg.planning import Demands, plan_tiles
    from geoseg.prediction import has_global_context

    card = read_card(package_of(job.network, job.work))
    tiles = plan_tiles(
        (size, size),
        Demands.of([card], blend=has_global_context(card)),
        patch_px=job.patch_px,
        overlap_px=job.overlap_px,
    )
    return _chosen_of(tiles)


def predictor(job: Job, *, everything: bool) -> Work:
    """`geoseg predict` on the job's settings."""

    def prepare(scene: Path) -> None:
        _load(job, _prepare(job, scene, everything=everything))

    return Work(run=lambda scene, out: _predict(job, scene, out, everything=everything), prepare=prepare)


def without_network(job: Job) -> Work:
    """The same, class raster only, with answers that are there already."""
    from benchmarks.forward import Bare
    from benchmarks.scenes import BANDS

    bare = Bare(job)
    answers: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def prepare(scene: Path) -> None:
        rng = np.random.default_rng(0)
        for height, width in plan(job, scene).patches:
            smooth = rng.standard_normal((1, len(BANDS), height // 32, width // 32), np.float32)
            answers[height, width] = bare.logits(smooth.repeat(32, 2).repeat(32, 3))

    work = answered(job, lambda batch: answers[batch.shape[2:]], everything=False)
    return Work(run=work.run, prepare=prepare)


def answered(
    job: Job, answer: Callable[[NDArray[np.float32]], NDArray[np.float32]], *, everything: bool
) -> Work:
    """The same, where `answer` stands in for every network."""
    from geoseg.models import runtime
    from geoseg.package import read_card

    card = read_card(package_of(job.network, job.work))

    def work(scene: Path, out: Path) -> Facts:
        with patch.object(runtime, "load_predictor", lambda *_args, **_kwargs: (card, answer)):
            return _predict(job, scene, out, everything=everything)

    return Work(run=work)


def polygons_in_geopackage(job: Job) -> Work:
    """`geoseg vectorize`."""
    from benchmarks.vectors import read_back

    def work(scene: Path, out: Path) -> Facts:
        from geoseg.execute import Execution
        from geoseg.polygonize import vectorize

        execution = Execution(threads=job.cores)
        made = vectorize(scene, out, options=_polygon_options(job), execution=execution, overwrite=True)
        return Facts(more={"polygons": made.polygons})

    return Work(run=work, check=read_back)


def polygons_in_memory(job: Job) -> Work:
    """The same polygons with the same attributes, as arrays."""
    kept: list[tuple[Any, Any]] = []  # until the clock has stopped: forgetting them takes time, too

    def work(scene: Path, _out: Path) -> Facts:
        kept.extend((batch, batch.outlines.to_shapely(of)) for batch, of in _features(job, scene))
        return Facts(more={"polygons": sum(len(polygons) for _, polygons in kept)})

    return Work(run=work, prepare=lambda _: kept.clear())


def simplified_in_memory(job: Job) -> Work:
    """Simplified polygons in pixel coordinates, proved to be a valid coverage."""
    from benchmarks.vectors import judge

    verdict: dict[str, Any] = {}

    def work(scene: Path, _out: Path) -> Facts:
        polygons = np.concatenate([batch.outlines.to_shapely() for batch, _ in _features(job, scene)])
        start = time.process_time()
        verdict.update(judge(polygons, scene))
        return Facts(more={"polygons": len(polygons), "proof_s": time.process_time() - start})

    return Work(run=work, check=lambda *_: verdict)


def _features(job: Job, path: Path) -> Iterator[tuple[Any, Any]]:
    """Batches of finished polygons with attributes, each with the transform of its pixels."""
    from geoseg.raster.read import read_window
    from geoseg.raster.scene import open_scene
    from geoseg.tiling import TILE_PX, Lattice, TilePlan
    from geoseg.vector.area import pixel_areas
    from geoseg.vector.attributes import features_of
    from geoseg.vector.merge import merge_tiles
    from geoseg.vector.trace import TileRegions, trace_tile

    scene = open_scene(path)
    options = _polygon_options(job)
    how = options.on(scene.geobox, nodata=255)
    tile_px = job.tile_px or TILE_PX
    lattice = Lattice.of(scene.window.shape, patch_px=tile_px, overlap_px=0, stride_px=1)
    tiles: dict[Any, TileRegions] = {}
    for tile in TilePlan(lattice=lattice, tile_px=tile_px):
        pixels = read_window(scene, tile.core)
        tiles[tile.core] = trace_tile(
            np.where(pixels.valid, pixels.values[0], how.nodata).astype(np.uint8),
            confidence=None,
            pixel_area=pixel_areas(scene.geobox, tile.core),
            core=tile.core,
            scene=how.scene,
            nodata=how.nodata,
            connectivity=how.connectivity,
            generalise=how.generalise,
        )
    batches = merge_tiles(
        list(tiles),
        load_edges=lambda core: tiles[core].edges,
        load_regions=tiles.pop,
        scene_width=how.scene.width,
        connectivity=how.connectivity,
        generalise=how.generalise,
    )
    for batch in features_of(batches, scene.geobox, generalised=options.moves_lines):
        yield batch, scene.geobox.affine


def _polygon_options(job: Job) -> Any:
    from geoseg.vector.options import Distance, PolygonOptions

    tolerance = None if job.tolerance_px is None else Distance(value=job.tolerance_px, unit="px")
    return PolygonOptions(connectivity=job.connectivity, simplify=tolerance)


def run_tasks(function: Callable[[T], T], tasks: Iterable[T], *, scheduler: str) -> Iterator[T]:
    """Our own way of running many tasks on a Dask cluster."""
    from geoseg.execute import Execution, open_executor
    from geoseg.execute import run_tasks as run

    with open_executor(Execution(scheduler=scheduler)) as (executor, slots):
        yield from run(executor, function, tasks, slots=slots)


def predict_on(job: Job, scheduler: str) -> Facts:
    """Class raster only, on a running cluster."""
    return _predict(job, job.scene, job.out, everything=False, scheduler=scheduler)


def warm_worker(job: Job, scene: Path) -> None:
    """Loads in this process what the job's tiles will need on a cluster's worker, by predicting `scene`."""
    with TemporaryDirectory() as scratch:
        _predict(replace(job, cores=1), scene, Path(scratch) / "warm.tif", everything=False)
    _load(replace(job, cores=1), _prepare(job, job.scene, everything=False), calls=1)


def _prepare(job: Job, scene: Path, *, everything: bool) -> Prediction:
    from geoseg.prediction import PredictOptions, prepare
    from geoseg.raster.scene import open_scene

    names = ("patch_px", "overlap_px", "tile_px", "memory")
    given: dict[str, Any] = {name: getattr(job, name) for name in names}
    options = PredictOptions(
        **{key: value for key, value in given.items() if value is not None},
        **({} if everything else {"confidence": None, "polygons": None}),
    )
    return prepare(open_scene(scene), package_of(job.network, job.work), options)


def _predict(job: Job, scene: Path, out: Path, *, everything: bool, scheduler: str | None = None) -> Facts:
    from geoseg import jobs
    from geoseg.execute import Execution

    prediction = _prepare(job, scene, everything=everything)
    folder = out.parent / f"{out.stem}.maps"
    outcome = jobs.predict(
        prediction,
        folder,
        execution=Execution(threads=job.cores, scheduler=scheduler),
        runtime=_runtime(job),
        overwrite=True,
    )
    made = {output.kind: folder / output.path for output in outcome.manifest.outputs}
    made["classes"].replace(out)
    chosen = _chosen(prediction)
    more = {
        "patch_px": chosen.patch_px,
        "overlap_px": chosen.overlap_px,
        "tiles": chosen.tiles,
        "polygons": outcome.manifest.polygons,
        "seconds": outcome.manifest.seconds,
    }
    return Facts(forwarded_px=chosen.forwarded_px, cuts=chosen.cuts, more=more)


def _runtime(job: Job) -> Any:
    from geoseg.tasks import Runtime

    return Runtime(name=job.runtime, device=job.device)


def _load(job: Job, prediction: Prediction, *, calls: int | None = None) -> None:
    """Loads the network as the job's tiles will ask for it, and calls it once."""
    from geoseg import jobs
    from geoseg.execute import Execution
    from geoseg.models import runtime

    settled, _ = jobs.settle(prediction, _runtime(job), Execution(threads=job.cores))
    card, loaded = runtime.load_predictor(
        prediction.packages[0],
        runtime=settled.name,
        device=settled.device,
        cores=settled.cores,
        max_calls=calls or settled.calls,
    )
    loaded(np.zeros((1, len(card.bands), 64, 64), np.float32))


def _chosen(prediction: Prediction) -> Chosen:
    return _chosen_of(prediction.plan)


def _chosen_of(tiles: Any) -> Chosen:
    lattice = tiles.lattice
    rows, cols = tiles.cuts
    return Chosen(
        patches=Counter(patch.window.shape for tile in tiles for patch in tile.patches),
        cuts=(list(rows), list(cols)),
        scene_px=tiles.window.size,
        patch_px=lattice.rows.length,
        overlap_px=lattice.rows.overlap_px,
        tile_px=tiles.tile_px,
        tiles=len(tiles),
    )


def _legend(classes: int) -> Any:
    from geoseg.legend import Legend, LegendClass

    return Legend(
        classes=tuple(
            LegendClass(id=i, name=f"class {i}", color=f"#{(i * 2_654_435_761) % 0xFFFFFF:06x}")
            for i in range(classes)
        )
    )
