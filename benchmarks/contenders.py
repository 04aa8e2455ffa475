"""Everything that can be measured on a scene. Each entry sets up, and returns the work that is timed.

The work goes from opening the scene to closing the class raster. Before it is timed it runs once on a small
scene, so that imports, loading and first calls are nobody's cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.jobs import Cuts, Facts, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray


def _nothing(_scene: Path) -> None:
    """No further preparation."""


def _unquestioned(_scene: Path, _out: Path) -> dict[str, Any]:
    """Nothing to be said about the result."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A contender that has been set up."""

    run: Callable[[Path, Path], Facts]
    """Called with the scene and the class raster to write; this is timed."""
    prepare: Callable[[Path], None] = _nothing
    """Called with the scene before; this is not."""
    check: Callable[[Path, Path], dict[str, Any]] = _unquestioned
    """Called with both afterwards, not timed either; what it finds is added to the facts."""


TILE_PX, OVERLAP_PX, BATCH = 512, 64, 2
"""What everybody else is given: the sizes their own examples use."""
PROFILE = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "uint8",
    "tiled": True,
    "blockxsize": 512,
    "blockysize": 512,
    "compress": "deflate",
}


class Counted:
    """An eager network that takes raw pixels and counts those it has been given."""

    def __init__(self, job: Job) -> None:
        import torch

        from benchmarks.networks import Normalised, load_network
        from benchmarks.specs import NETWORKS

        torch.set_num_threads(job.cores)
        network, calibration = load_network(job.network, job.work / "networks")
        self.classes = NETWORKS[job.network].classes
        self.module = Normalised(network, calibration).eval()
        self.module.register_forward_pre_hook(self._count)
        self.px = 0

    def _count(self, _module: Any, arguments: tuple[Any, ...]) -> None:
        n, _, height, width = arguments[0].shape
        self.px += n * height * width

    def facts(self, cuts: Cuts, **more: Any) -> Facts:
        """What has been forwarded since the last time."""
        px, self.px = self.px, 0
        return Facts(forwarded_px=px, cuts=cuts, more=more)


def whole(job: Job) -> Work:
    """One forward of the entire scene: what every other map is held against."""
    import torch

    network = Counted(job)
    network.module.to(memory_format=torch.channels_last)

    def work(scene: Path, out: Path) -> Facts:
        with torch.inference_mode():
            x = torch.from_numpy(read_whole(scene)[None]).to(memory_format=torch.channels_last)
            write_whole(scene, out, network.module(x)[0].numpy().argmax(0))
        return network.facts(([], []))

    return Work(run=work)


def naive(job: Job) -> Work:
    """The loop most people write: read a window, run the network, write the window. No overlap."""
    import rasterio
    import torch
    from rasterio.windows import Window

    network = Counted(job)

    def work(scene: Path, out: Path) -> Facts:
        with rasterio.open(scene) as source, torch.no_grad():
            height, width = source.shape
            with rasterio.open(out, "w", **profile_of(source)) as target:
                for row in range(0, height, TILE_PX):
                    for col in range(0, width, TILE_PX):
                        window = Window(col, row, min(TILE_PX, width - col), min(TILE_PX, height - row))
                        x = torch.from_numpy(source.read(window=window).astype(np.float32))[None]
                        target.write(network.module(x).argmax(1).numpy().astype(np.uint8), window=window)
        return network.facts(grid_cuts((height, width), TILE_PX))

    return Work(run=work)


def dask_overlap(job: Job) -> Work:
    """rioxarray, map_overlap and to_raster, as tutorials have it."""
    import dask
    import dask.array as da
    import rioxarray
    import torch
    import xarray as xr

    network = Counted(job)
    depth = {0: 0, 1: OVERLAP_PX // 2, 2: OVERLAP_PX // 2}

    def label(block: NDArray[Any]) -> NDArray[np.uint8]:
        with torch.no_grad():
            x = torch.from_numpy(block.astype(np.float32))[None]
            return network.module(x).argmax(1).numpy().astype(np.uint8)

    def work(scene: Path, out: Path) -> Facts:
        image = rioxarray.open_rasterio(scene, chunks={"band": -1, "y": TILE_PX, "x": TILE_PX})
        padded = da.overlap.overlap(image.data, depth, "reflect")
        labelled = padded.map_blocks(label, dtype=np.uint8, chunks=((1,), *padded.chunks[1:]))
        labels = da.overlap.trim_overlap(labelled, depth, "reflect")
        product = xr.DataArray(labels, dims=("band", "y", "x"), coords={"y": image.y, "x": image.x})
        with dask.config.set(scheduler="threads", num_workers=job.cores):
            product.rio.write_crs(image.rio.crs).rio.to_raster(
                out, tiled=True, blockxsize=512, blockysize=512, compress="deflate", lock=True
            )
        return network.facts(grid_cuts(image.shape[1:], TILE_PX))

    return Work(run=work)


def read(job: Job) -> Work:
    """Decoding alone: the limit of anything that reads the scene."""
    from concurrent.futures import ThreadPoolExecutor

    import rasterio
    from rasterio.windows import Window

    def rows(scene: Path, row: int) -> int:
        with rasterio.open(scene) as source:
            height, width = source.shape
            return int(source.read(window=Window(0, row, width, min(512, height - row))).size)

    def work(scene: Path, _out: Path) -> Facts:
        with rasterio.open(scene) as source:
            height = source.height
        with ThreadPoolExecutor(job.cores) as pool:
            values = sum(pool.map(lambda row: rows(scene, row), range(0, height, 512)))
        return Facts(more={"values": values})

    return Work(run=work)


def forward(job: Job) -> Work:
    """The bare network on exactly the patches geoseg would give it, with nothing around it."""
    from benchmarks import tool
    from benchmarks.forward import Bare

    bare = Bare(job)

    def prepare(scene: Path) -> None:
        bare.prepare(tool.plan(job, scene), scene)

    def work(_scene: Path, _out: Path) -> Facts:
        return bare.run()

    return Work(run=work, prepare=prepare)


def geoseg(job: Job) -> Work:
    """geoseg, class raster only."""
    from benchmarks import tool

    return tool.predictor(job, everything=False)


def geoseg_all(job: Job) -> Work:
    """Our own with everything it makes by default: classes, confidence, polygons."""
    from benchmarks import tool

    return tool.predictor(job, everything=True)


def geoseg_without_network(job: Job) -> Work:
    """geoseg, class raster only, with answers that cost nothing: what all but the network takes."""
    from benchmarks import tool

    return tool.without_network(job)


def read_whole(scene: Path) -> NDArray[np.float32]:
    """All pixels of all bands."""
    import rasterio

    with rasterio.open(scene) as source:
        return np.asarray(source.read(), np.float32)


def profile_of(source: Any) -> dict[str, Any]:
    """A class raster on the grid of an open dataset."""
    grid = {"crs": source.crs, "transform": source.transform, "height": source.height, "width": source.width}
    return {**PROFILE, **grid}


def write_whole(scene: Path, out: Path, classes: NDArray[Any]) -> None:
    """A class raster in one go."""
    import rasterio

    with rasterio.open(scene) as source:
        profile = profile_of(source)
    with rasterio.open(out, "w", **profile) as target:
        target.write(classes.astype(np.uint8), 1)


def grid_cuts(shape: Iterable[int], step: int, *, shift: int = 0) -> Cuts:
    """The cuts of windows that begin every `step` pixels and decide from `shift` pixels on."""
    height, width = shape
    return list(range(step + shift, height, step)), list(range(step + shift, width, step))


def overlap_cuts(shape: Iterable[int], tile: int, overlap: int) -> Cuts:
    """Where windows that are averaged begin and end."""
    return tuple(  # type: ignore[return-value]
        sorted(
            {
                edge
                for start in range(0, size, tile - overlap)
                for edge in (start, start + tile)
                if 0 < edge < size
            }
        )
        for size in shape
    )
