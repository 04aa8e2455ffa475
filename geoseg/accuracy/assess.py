"""The two jobs around a sample of points: draw it from a map, and judge a map by it once it is labelled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field
from pyproj import CRS, Transformer

from geoseg.accuracy.layers import CHUNK_PX, open_map
from geoseg.accuracy.olofsson import Estimate, Estimates, estimate
from geoseg.accuracy.points import Points, read_points, write_points
from geoseg.accuracy.sampling import MINIMUM, Allocation, allocate, draw_points, sample_size, survey_map
from geoseg.errors import LabelError, OutputError, UsageError, explain
from geoseg.files import write_text
from geoseg.legend import IGNORE_INDEX, Legend
from geoseg.raster.scene import open_scene
from geoseg.value import Value
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.accuracy.layers import Layer
    from geoseg.raster.aoi import Aoi
    from geoseg.raster.scene import Scene

_LEAST_POINTS = 2
_SHOWN = 10


class Stratum(Value):
    """A class of the map, as a population to be sampled."""

    name: str
    pixels: int
    area_m2: float
    points: int = Field(description="Drawn from it")


class SampleDesign(Value):
    """What was drawn; the points are in the file."""

    path: str
    map: str
    points: int
    allocation: Allocation
    minimum: int
    seed: int
    strata: tuple[Stratum, ...] = Field(description="Classes that occur in the map")


class ClassAccuracy(Value):
    """One class, as the sample has it."""

    name: str
    users_accuracy: Estimate | None
    producers_accuracy: Estimate | None
    area_m2: Estimate = Field(description="What is truly of the class, with its uncertainty")
    mapped_m2: float | None = Field(
        description="What the map counts; None where the sample was drawn from another map"
    )
    mapped_points: int
    true_points: int


class Accuracy(Value):
    """Accuracy of a map and areas on the ground, from a sample: what `geoseg accuracy` writes."""

    format: Literal["geoseg-accuracy"] = "geoseg-accuracy"
    version: Literal[1] = 1
    points_file: str
    map: str
    legend: Legend
    points: int = Field(description="Points that were judged")
    unlabelled_points: int = Field(description="Points drawn that nobody has labelled: left out")
    area_m2: float = Field(description="Of the population, true area")
    overall_accuracy: Estimate
    classes: tuple[ClassAccuracy, ...] = Field(description="In the legend's order")
    shares: tuple[tuple[float, ...], ...] = Field(
        description="Error matrix of area shares: rows are map classes, the last one for what is not mapped; "
        "columns are reference classes"
    )
    counts: tuple[tuple[int, ...], ...] = Field(description="Points, in the same places")

    def to_json(self) -> str:
        """Indented JSON; `Accuracy.model_validate_json` restores an equal value."""
        return self.model_dump_json(indent=2) + "\n"


def design_sample(
    path: Path,
    out: Path,
    *,
    legend: Legend,
    size: int | None = None,
    standard_error: float | None = None,
    allocation: Allocation = "proportional",
    minimum: int = MINIMUM,
    expected: Mapping[str, float] | None = None,
    aoi: Aoi | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> SampleDesign:
    """Draws pixels of the class raster `path` at random within its classes, and writes them to be labelled.

    Args:
        path: class ids of `legend` in its first band.
        out: GeoPackage with a blank column `label`.
        legend: the classes of the map.
        size: points in all; or
        standard_error: of overall accuracy, from which the size follows: needs `expected`.
        allocation: how points are shared among classes.
        minimum: points a class gets at least.
        expected: user's accuracy hoped for, 0 to 1, by class name; "*" is for all that are not named.
        aoi: what of the map is sampled; None: all of it.
        seed: of the draw.
        overwrite: replace `out`, and whatever has been filled in there.
        on_progress: called with pixels looked at, and pixels there are.

    Raises:
        GeosegError: the map cannot be read, or the numbers do not go together.
    """
    _require_free(out, overwrite=overwrite)
    scene = open_scene(path)
    read = open_map(path, scene=scene, legend=legend)
    found = survey_map(read, scene, classes=len(legend), aoi=aoi, on_progress=on_progress)
    hoped = None if expected is None else _expected(expected, legend, found.pixels > 0)
    share = found.area_m2 / found.area_m2.sum()
    size = _size(size, standard_error, share, hoped)
    counts = allocate(size, found, how=allocation, minimum=minimum, expected=hoped)
    drawn = draw_points(read, scene, found, counts, seed=seed, aoi=aoi)
    origin: dict[str, str | int] = {
        "map": path.name,
        "seed": seed,
        "allocation": allocation,
        "minimum": minimum,
    }
    write_points(out, drawn, found, scene=scene, legend=legend, origin=origin)
    return SampleDesign(
        path=str(out),
        map=str(path),
        points=int(counts.sum()),
        allocation=allocation,
        minimum=minimum,
        seed=seed,
        strata=tuple(
            Stratum(
                name=legend.names[i],
                pixels=int(found.pixels[i]),
                area_m2=float(found.area_m2[i]),
                points=int(counts[i]),
            )
            for i in np.flatnonzero(found.pixels).tolist()
        ),
    )


def assess(
    points: Path,
    path: Path,
    *,
    legend: Legend,
    classes: Mapping[str, str | int] | None = None,
    labelled_only: bool = False,
    out: Path | None = None,
) -> Accuracy:
    """Accuracy of the class raster `path`, and areas on the ground, from a labelled sample.

    The map need not be the one the sample was drawn from: strata stay what they were (Stehman 2014).

    Args:
        points: from `design_sample`, its column `label` filled in with names or ids of classes.
        path: class ids of `legend` in its first band, in any grid or CRS.
        legend: the classes of the map.
        classes: label to class name or id, where they are written differently.
        labelled_only: points without a label are as if they had not been drawn. Right only if those that are
            left out are so by chance.
        out: JSON file to write.

    Raises:
        GeosegError: a file cannot be read, labels are missing or are no classes, or a stratum has too few.
    """
    sample = read_points(points)
    named = np.array([label is not None for label in sample.labels], bool)
    _require_labels(points, sample, named, labelled_only=labelled_only)
    true = _true_classes(sample, named, legend, classes or {}, points)
    scene = open_scene(path)
    mapped = _mapped(sample, named, open_map(path, scene=scene, legend=legend), scene)
    mapped[mapped == IGNORE_INDEX] = len(legend)
    stratum = sample.stratum[named]
    _require_enough(points, sample, stratum)
    found = estimate(stratum, mapped, true, strata=sample.strata, classes=len(legend))
    own = [legend.names[m] if m < len(legend) else None for m in mapped.tolist()]
    same = all(name == sample.names[s] for name, s in zip(own, stratum.tolist(), strict=True))
    result = _accuracy(found, sample, legend, same=same, points=points, path=path)
    if out:
        write_text(out, result.to_json())
    return result


def _accuracy(
    found: Estimates, sample: Points, legend: Legend, *, same: bool, points: Path, path: Path
) -> Accuracy:
    total = float(sample.strata.area.sum())
    counted = dict(zip(sample.names, sample.strata.area.tolist(), strict=True))
    return Accuracy(
        points_file=str(points),
        map=str(path),
        legend=legend,
        points=found.points,
        unlabelled_points=sample.drawn - found.points,
        area_m2=total,
        overall_accuracy=found.overall_accuracy,
        classes=tuple(
            ClassAccuracy(
                name=name,
                users_accuracy=c.users_accuracy,
                producers_accuracy=c.producers_accuracy,
                area_m2=_times(c.area_share, total),
                mapped_m2=counted.get(name, 0.0) if same else None,
                mapped_points=c.mapped_points,
                true_points=c.true_points,
            )
            for name, c in zip(legend.names, found.classes, strict=True)
        ),
        shares=found.shares,
        counts=found.counts,
    )


def _times(share: Estimate, total: float) -> Estimate:
    return Estimate(**{key: value * total for key, value in share.model_dump().items()})


def _size(
    size: int | None,
    standard_error: float | None,
    share: NDArray[np.float64],
    expected: NDArray[np.float64] | None,
) -> int:
    if (size is None) == (standard_error is None):
        raise UsageError("say either how many points there shall be, or the standard error they shall give")
    if size is not None:
        return size
    if expected is None or standard_error is None:
        raise UsageError("a standard error gives a number of points only with the user's accuracies expected")
    return sample_size(share, expected, standard_error=standard_error)


def _expected(given: Mapping[str, float], legend: Legend, present: NDArray[np.bool_]) -> NDArray[np.float64]:
    unknown = set(given) - {*legend.names, "*"}
    missing = [n for n, there in zip(legend.names, present, strict=True) if there and n not in given]
    if unknown or (missing and "*" not in given):
        raise UsageError(
            explain(
                "expected accuracies do not fit the legend",
                at=", ".join(sorted(unknown)) or ", ".join(missing),
                expected=f"one for each of {', '.join(legend.names)}, or '*' for all others",
                found="an unknown class" if unknown else "none",
                change="Write them as CLASS=0.8.",
            )
        )
    rest = given.get("*", 1.0)
    return np.array([given.get(name, rest) for name in legend.names])


def _require_free(out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() != ".gpkg":
        raise UsageError(f"points are written to a GeoPackage, which ends in .gpkg; {out.name!r} does not")
    if out.exists() and not overwrite:
        raise OutputError(
            explain(
                "the points cannot be written",
                at=out,
                expected="no such file",
                found="one, which may have been labelled",
                change="Choose another name, or give --overwrite to replace it.",
            )
        )


def _require_labels(path: Path, sample: Points, named: NDArray[np.bool_], *, labelled_only: bool) -> None:
    blank = sample.drawn - int(named.sum())
    if named.any() and (labelled_only or not blank):
        return
    raise LabelError(
        explain(
            "points are not labelled",
            at=path,
            expected=f"a label for each of {sample.drawn} points",
            found=f"{int(named.sum())}",
            change="Label the rest, or judge by those that are with --labelled-only.",
        )
    )


def _require_enough(path: Path, sample: Points, stratum: NDArray[np.int64]) -> None:
    counts = np.bincount(stratum, minlength=len(sample.names))
    few = [n for n, count in zip(sample.names, counts.tolist(), strict=True) if count < _LEAST_POINTS]
    if few:
        raise LabelError(
            explain(
                "a stratum has too few points for an error to be known",
                at=path,
                expected=f"at least {_LEAST_POINTS} labelled points in each",
                found=f"fewer in {', '.join(few)}",
                change="Label more points.",
            )
        )


def _true_classes(
    sample: Points, named: NDArray[np.bool_], legend: Legend, classes: Mapping[str, str | int], path: Path
) -> NDArray[np.int64]:
    """Class index of each labelled point."""
    table: dict[str, int] = {str(id_): i for i, id_ in enumerate(legend.ids.tolist())}
    table |= {name: i for i, name in enumerate(legend.names)}
    for label, target in classes.items():
        if str(target) not in table:
            raise UsageError(f"label {label!r} is mapped to {target!r}, which is not in the legend")
    table |= {label: table[str(target)] for label, target in classes.items()}
    labels = [label for label, there in zip(sample.labels, named, strict=True) if there and label]
    unknown = sorted(set(labels) - set(table))
    if unknown:
        raise LabelError(
            explain(
                "labels of points are not in the legend",
                at=path,
                expected=f"names or ids of classes: {', '.join(f'{c.id} {c.name}' for c in legend.classes)}",
                found=", ".join(unknown[:_SHOWN]),
                change="Correct them, or say what they are with --class LABEL=CLASS.",
            )
        )
    return np.array([table[label] for label in labels], np.int64)


def _mapped(sample: Points, named: NDArray[np.bool_], read: Layer, scene: Scene) -> NDArray[np.int64]:
    """Class index that the map has at each labelled point, IGNORE_INDEX where there is none."""
    own = CRS.from_wkt(scene.geobox.crs.to_wkt())
    x, y = sample.x[named], sample.y[named]
    if sample.crs != own:
        x, y = Transformer.from_crs(sample.crs, own, always_xy=True).transform(x, y)
    t = ~scene.geobox.affine
    height, width = scene.window.shape
    mapped = np.full(len(x), IGNORE_INDEX, np.int64)
    places = [
        (math.floor(t.d * a + t.e * b + t.f), math.floor(t.a * a + t.b * b + t.c), i)
        for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
        if math.isfinite(a) and math.isfinite(b)
    ]
    for row, col, i in sorted(places, key=lambda p: (p[0] // CHUNK_PX, p[1] // CHUNK_PX)):
        if 0 <= row < height and 0 <= col < width:
            mapped[i] = read(Window(row, col, 1, 1))[0, 0]
    return mapped
