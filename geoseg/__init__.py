"""Whole satellite scenes to land-use maps: tiled segmentation, seamless rasters, styled GeoPackages.

import geoseg

scene = geoseg.open_scene("scene.tif")
model = geoseg.load_model("model")
outcome = geoseg.predict(scene, model, "out")
print(outcome.manifest.counts)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoseg.accuracy.assess import assess, design_sample
    from geoseg.api import Model, load_model, predict
    from geoseg.errors import GeosegError
    from geoseg.evaluation import evaluate
    from geoseg.execute import Execution
    from geoseg.jobs import Outcome
    from geoseg.legend import CodedClass, CodedLegend, Legend, LegendClass
    from geoseg.matching import Mapping
    from geoseg.polygonize import vectorize
    from geoseg.prediction import PredictOptions
    from geoseg.raster.aoi import read_aoi
    from geoseg.raster.mosaic import open_mosaic
    from geoseg.raster.scene import Scene, open_scene, open_stack
    from geoseg.sieve import parse_area
    from geoseg.tasks import Runtime
    from geoseg.vector.options import PolygonOptions, parse_distance

_HOME = {
    "CodedClass": "geoseg.legend",
    "CodedLegend": "geoseg.legend",
    "Execution": "geoseg.execute",
    "GeosegError": "geoseg.errors",
    "Legend": "geoseg.legend",
    "LegendClass": "geoseg.legend",
    "Mapping": "geoseg.matching",
    "Model": "geoseg.api",
    "Outcome": "geoseg.jobs",
    "PolygonOptions": "geoseg.vector.options",
    "PredictOptions": "geoseg.prediction",
    "Runtime": "geoseg.tasks",
    "Scene": "geoseg.raster.scene",
    "assess": "geoseg.accuracy.assess",
    "design_sample": "geoseg.accuracy.assess",
    "evaluate": "geoseg.evaluation",
    "load_model": "geoseg.api",
    "open_mosaic": "geoseg.raster.mosaic",
    "open_scene": "geoseg.raster.scene",
    "open_stack": "geoseg.raster.scene",
    "parse_area": "geoseg.sieve",
    "parse_distance": "geoseg.vector.options",
    "predict": "geoseg.api",
    "read_aoi": "geoseg.raster.aoi",
    "vectorize": "geoseg.polygonize",
}

__all__ = [
    "CodedClass",
    "CodedLegend",
    "Execution",
    "GeosegError",
    "Legend",
    "LegendClass",
    "Mapping",
    "Model",
    "Outcome",
    "PolygonOptions",
    "PredictOptions",
    "Runtime",
    "Scene",
    "assess",
    "design_sample",
    "evaluate",
    "load_model",
    "open_mosaic",
    "open_scene",
    "open_stack",
    "parse_area",
    "parse_distance",
    "predict",
    "read_aoi",
    "vectorize",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: `import geoseg` alone costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'geoseg' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
