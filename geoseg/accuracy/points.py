"""Points to be labelled, as a GeoPackage, and what comes back.

    points   id, label (blank), note; where they are            what people look at and fill in
    design   id, stratum, x, y                                  what each point stands for, kept out of sight
    strata   stratum, name, pixels, area_m2, points             the population they were drawn from
    origin   map, seed, allocation                              how to draw them again

Who labels a point should not know what the map says there: it is not in the layer of points, and ids are in
random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.olofsson import Strata
from geoseg.errors import LabelError, explain
from geoseg.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from pyproj import CRS

    from geoseg.accuracy.sampling import Drawn, MapSurvey
    from geoseg.legend import Legend
    from geoseg.raster.scene import Scene

_MOVED_SHARE = 1e-9
"""Of a coordinate: what a file format may round it by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A sample that has been read back."""

    x: NDArray[np.float64]
    """In `crs`."""
    y: NDArray[np.float64]
    crs: CRS
    labels: tuple[str | None, ...]
    """What was filled in; None: nothing yet."""
    stratum: NDArray[np.int64]
    """Index into `names` and `strata`."""
    names: tuple[str, ...]
    """Of strata: classes of the map they were drawn from."""
    strata: Strata
    """Areas in m2."""
    drawn: int
    """Points that were drawn."""


def write_points(
    path: Path,
    drawn: Drawn,
    survey: MapSurvey,
    *,
    scene: Scene,
    legend: Legend,
    origin: Mapping[str, str | int],
) -> None:
    """Writes the points of a sample to a new GeoPackage, at the centres of their pixels.

    Args:
        path: the file; it appears whole or not at all.
        drawn: the pixels.
        survey: what they were drawn from.
        scene: the map's grid.
        legend: names of the classes.
        origin: how they were drawn, for those who want to do it again.

    Raises:
        OutputError: it cannot be written.
    """
    import geopandas
    import pandas as pd
    import shapely

    t = scene.geobox.affine
    col, row = drawn.col + 0.5, drawn.row + 0.5
    x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
    ids = np.arange(1, len(x) + 1)
    blank = pd.Series([None] * len(x), dtype=object)
    points = geopandas.GeoDataFrame(
        {"id": ids, "label": blank, "note": blank},
        geometry=shapely.points(x, y),
        crs=scene.geobox.crs.to_wkt(),
    )
    design = pd.DataFrame({"id": ids, "stratum": drawn.index.astype(np.int64), "x": x, "y": y})
    there = np.flatnonzero(survey.pixels)
    strata = pd.DataFrame(
        {
            "stratum": there,
            "name": [legend.names[i] for i in there.tolist()],
            "pixels": survey.pixels[there],
            "area_m2": survey.area_m2[there],
            "points": np.bincount(drawn.index, minlength=len(legend))[there],
        }
    )
    about = pd.DataFrame({"key": list(origin), "value": [str(v) for v in origin.values()]})
    with replacing(path) as temporary:
        for name, frame in (("points", points), ("design", design), ("strata", strata), ("origin", about)):
            _write(temporary, name, frame)


def read_points(path: Path) -> Points:
    """The sample in a file that `write_points` has written, as it stands by now.

    Points that somebody has removed are left out; `drawn` tells that there were more.

    Raises:
        LabelError: it is no such file, or a point was moved, added or doubled.
    """
    points, design, strata = _read(path)
    joined = points.merge(design, on="id", how="left", validate="many_to_one", suffixes=("", "_of_design"))
    for trouble, found in (
        ("ids that occur once", joined["id"][joined["id"].duplicated()]),
        ("points that were drawn", joined["id"][joined["stratum"].isna()]),
        ("points where they were drawn", joined["id"][_moved(joined)]),
    ):
        if len(found):
            raise _unusable(path, trouble, f"others: id {', '.join(map(str, found.tolist()[:10]))}")
    position = {int(s): i for i, s in enumerate(strata["stratum"].tolist())}
    return Points(
        x=joined["x"].to_numpy(np.float64),
        y=joined["y"].to_numpy(np.float64),
        crs=points.crs,
        labels=tuple(_text(value) for value in joined["label"].tolist()),
        stratum=np.array([position[int(s)] for s in joined["stratum"]], np.int64),
        names=tuple(map(str, strata["name"])),
        strata=Strata(
            pixels=strata["pixels"].to_numpy(np.float64), area=strata["area_m2"].to_numpy(np.float64)
        ),
        drawn=len(design),
    )


def _write(path: Path, layer: str, frame: Any) -> None:
    import pyogrio

    try:
        pyogrio.write_dataframe(frame, path, layer=layer, driver="GPKG", append=path.exists())
    except pyogrio.errors.DataSourceError as error:
        raise OSError(str(error)) from error  # which `replacing` explains


def _read(path: Path) -> tuple[Any, Any, Any]:
    import pyogrio

    try:
        layers = {str(name) for name in pyogrio.list_layers(path)[:, 0]}
        missing = {"points", "design", "strata"} - layers
        if missing:
            raise _unusable(path, "layers points, design and strata", ", ".join(sorted(layers)))
        points, design, strata = (
            pyogrio.read_dataframe(path, layer=name) for name in ("points", "design", "strata")
        )
    except pyogrio.errors.DataSourceError as error:
        raise _unusable(path, "a GeoPackage", str(error)) from error
    if "label" not in points.columns or "id" not in points.columns:
        raise _unusable(path, "attributes id and label", ", ".join(map(str, points.columns)))
    return points, design, strata


def _moved(joined: Any) -> Any:
    slack = _MOVED_SHARE * np.maximum(joined["x"].abs(), joined["y"].abs())
    away = np.hypot(joined.geometry.x - joined["x"], joined.geometry.y - joined["y"])
    return away > slack


def _text(value: Any) -> str | None:
    """What was filled in; blanks are nothing. 3.0, which is how an integer with gaps arrives, is "3"."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def _unusable(path: Path, expected: str, found: str) -> LabelError:
    return LabelError(
        explain(
            "the points cannot be used",
            at=path,
            expected=expected,
            found=found,
            change="Fill in the column label of a file that `geoseg sample` wrote, and change nothing else.",
        )
    )
