"""The public functions: what `import geoseg` offers. Everything here is one call into a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg import jobs
from geoseg.package import Card, read_card
from geoseg.prediction import PredictOptions, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.execute import Execution
    from geoseg.inference import Predictor
    from geoseg.raster.aoi import Aoi
    from geoseg.raster.scene import Scene
    from geoseg.tasks import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model package: where it is and what it says about itself. Weights are loaded where they are used."""

    path: Path
    """A folder, or one ONNX file."""
    card: Card

    def predictor(self, *, runtime: str = "torch", device: str = "auto", cores: int = 1) -> Predictor:
        """The network, ready to run in this process: (n, bands, h, w) float32 to logits (n, classes, h, w).

        Raises:
            PackageError: the weights are not those the card was written for.
        """
        from geoseg.models.runtime import load_predictor

        return load_predictor(self.path, runtime=runtime, device=device, cores=cores)[1]


def load_model(package: str | Path) -> Model:
    """The model package: a folder, or an ONNX file that `geoseg export` wrote.

    Raises:
        PackageError: there is none, or its card is not valid.
    """
    path = Path(package)
    return Model(path=path, card=read_card(path))


def predict(
    scene: Scene,
    model: Model | Sequence[Model],
    out: str | Path,
    *,
    options: PredictOptions | None = None,
    aoi: Aoi | None = None,
    execution: Execution | None = None,
    runtime: Runtime | None = None,
    overwrite: bool = False,
    on_progress: jobs.Progress | None = None,
) -> jobs.Outcome:
    """Labels every pixel of `scene` and writes raster, polygons and manifest into the folder `out`.

    Args:
        scene: from `open_scene` or `open_stack`.
        model: from `load_model`; several of them vote.
        out: folder, made if need be.
        options: patch, overlap and tile size, stitching, which products, declared units.
        aoi: from `geoseg.raster.aoi.read_aoi`; the map is cut to it.
        execution: one thread (default), threads, worker processes or a Dask cluster.
        runtime: what runs the network, and where.
        overwrite: replace what another job has written under the same names.
        on_progress: called with (what, done, total).

    Raises:
        GeosegError: see `geoseg.errors`; nothing half-written is left under a final name.
    """
    models = [model] if isinstance(model, Model) else model
    packages = [m.path for m in models]
    prediction = prepare(scene, packages, options or PredictOptions(), aoi=aoi)
    return jobs.predict(
        prediction,
        Path(out),
        execution=execution,
        runtime=runtime,
        overwrite=overwrite,
        on_progress=on_progress,
    )
