"""Other tools, called as their documentation shows, with the same network, patch size and overlap.

Each runs in the interpreter of an environment that has it; see README.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders import (
    BATCH,
    OVERLAP_PX,
    TILE_PX,
    Counted,
    Work,
    grid_cuts,
    overlap_cuts,
    read_whole,
    write_whole,
)
from benchmarks.scenes import BANDS

if TYPE_CHECKING:
    from benchmarks.jobs import Facts, Job

_STEP = TILE_PX - OVERLAP_PX


def monai(job: Job) -> Work:
    """`sliding_window_inference` with Gaussian weights, over the whole scene in memory."""
    import torch
    from monai.inferers import sliding_window_inference

    network = Counted(job)

    def work(scene: Path, out: Path) -> Facts:
        x = torch.from_numpy(read_whole(scene)[None])
        with torch.no_grad():
            share = OVERLAP_PX / TILE_PX
            scores = sliding_window_inference(
                x, TILE_PX, BATCH, network.module, overlap=share, mode="gaussian"
            )
            write_whole(scene, out, scores[0].argmax(0).numpy())
        return network.facts(overlap_cuts(x.shape[2:], TILE_PX, OVERLAP_PX))

    return Work(run=work)


def terratorch(job: Job) -> Work:
    """`tiled_inference` with its default border of 8 px, over the whole scene in memory."""
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    network = Counted(job)

    def work(scene: Path, out: Path) -> Facts:
        x = torch.from_numpy(read_whole(scene)[None])
        with torch.no_grad():
            scores = tiled_inference(network.module, x, crop=TILE_PX, stride=_STEP, delta=8, batch_size=BATCH)
            write_whole(scene, out, scores[0].argmax(0).numpy())
        return network.facts(overlap_cuts(x.shape[2:], TILE_PX, OVERLAP_PX))

    return Work(run=work)


def torchgeo(job: Job) -> Work:
    """`GridGeoSampler`, with the stitching that it leaves to its users: scores are added up."""
    import rasterio
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    network = Counted(job)

    def work(scene: Path, out: Path) -> Facts:
        dataset = RasterDataset(str(scene))
        sampler = GridGeoSampler(dataset, size=TILE_PX, stride=_STEP)
        loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples)
        with rasterio.open(scene) as source:
            inverse, shape = ~source.transform, source.shape
        total = np.zeros((network.classes, *shape), np.float32)
        for sample in loader:
            with torch.no_grad():
                scores = network.module(sample["image"]).numpy()
            for one, (x, y, *_) in zip(scores, sample["bounds"], strict=True):
                col, row = (round(v) for v in inverse * (float(x.start), float(y.stop)))
                _add(total, one, row, col)
        write_whole(scene, out, total.argmax(0))
        return network.facts(overlap_cuts(shape, TILE_PX, OVERLAP_PX))

    return Work(run=work)


def _add(total: Any, scores: Any, row: int, col: int) -> None:
    """`scores` onto `total`, their upper left corner at (row, col), which may lie outside."""
    top, left = max(row, 0), max(col, 0)
    bottom, right = (
        min(a + n, size) for a, n, size in zip((row, col), scores.shape[1:], total.shape[1:], strict=True)
    )
    total[:, top:bottom, left:right] += scores[:, top - row : bottom - row, left - col : right - col]


def rastervision(job: Job) -> Work:
    """A sliding-window dataset, `predict_dataset` and smooth labels, whose edges are cropped."""
    from rastervision.core.data import ClassConfig, SemanticSegmentationLabels
    from rastervision.pytorch_learner import (
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
        SemanticSegmentationSlidingWindowGeoDataset,
        SolverConfig,
    )

    network = Counted(job)
    classes = ClassConfig(names=[f"c{i}" for i in range(network.classes)], null_class="c0")
    data = SemanticSegmentationGeoDataConfig(class_config=classes, num_workers=0)
    settings = SemanticSegmentationLearnerConfig(data=data, solver=SolverConfig(batch_sz=BATCH))

    def work(scene: Path, out: Path) -> Facts:
        with TemporaryDirectory(dir=out.parent) as scratch:
            learner = SemanticSegmentationLearner(
                settings, output_dir=scratch, model=network.module, training=False
            )
            dataset = SemanticSegmentationSlidingWindowGeoDataset.from_uris(
                class_config=classes,
                image_uri=str(scene),
                size=TILE_PX,
                stride=_STEP,
                out_size=TILE_PX,
                normalize=False,
            )
            predictions = learner.predict_dataset(
                dataset,
                raw_out=True,
                numpy_out=True,
                progress_bar=False,
                predict_kw={"out_shape": (TILE_PX, TILE_PX)},
            )
            labels = SemanticSegmentationLabels.from_predictions(
                dataset.windows,
                predictions,
                smooth=True,
                extent=dataset.scene.extent,
                num_classes=network.classes,
                crop_sz=OVERLAP_PX // 2,
            )
            transformer = dataset.scene.raster_source.crs_transformer
            labels.save(uri=scratch, crs_transformer=transformer, class_config=classes)
            shutil.move(Path(scratch) / "labels.tif", out)
        shape = tuple(dataset.scene.raster_source.shape[:2])
        return network.facts(grid_cuts(shape, _STEP, shift=OVERLAP_PX // 2))

    return Work(run=work)


def geo_inference(job: Job) -> Work:
    """The tool itself, on the network as TorchScript; its own overlap of half a patch."""
    import torch
    from geo_inference.geo_inference import GeoInference

    network = Counted(job)
    folder = Path(job.out.parent)
    script = job.work / "networks" / f"{job.network}.pt"
    if not script.exists():
        example = torch.zeros(1, len(BANDS), TILE_PX, TILE_PX)
        torch.jit.trace(network.module, example).save(str(script))

    def work(scene: Path, out: Path) -> Facts:
        import rasterio

        with TemporaryDirectory(dir=folder) as scratch:
            tool = GeoInference(
                model=str(script), work_dir=scratch, device="cpu", num_classes=network.classes
            )
            name = tool(inference_input=str(scene), patch_size=TILE_PX, workers=0)
            shutil.move(Path(scratch) / (tool.mask_layer_name or name), out)
        with rasterio.open(scene) as source:
            shape = source.shape
        facts = network.facts(overlap_cuts(shape, TILE_PX, TILE_PX // 2))
        return type(facts)(forwarded_px=None, cuts=facts.cuts)

    return Work(run=work)
