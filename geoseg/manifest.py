"""The manifest: one JSON per product, written last. Where it stands, the product is complete."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from geoseg.errors import OutputError, explain
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MAX_BYTES = 64 << 20
"""Of a manifest: what is longer is cut off, and then it is not one."""

_ASKED_BY = {
    "patch_px": "--patch-size or --memory",
    "overlap_px": "--overlap",
    "tile_px": "--tile-size",
    "blend": "--stitch",
    "window": "--aoi or --bbox",
    "views": "--tta",
    "confidence": "--confidence",
    "probabilities": "--probabilities",
    "polygons": "--no-polygons",
    "polygons connectivity": "--connectivity",
    "polygons min_area": "--min-area",
    "polygons simplify": "--simplify",
    "polygons smooth": "--smooth",
    "polygons keep_outline": "--keep-outline",
    "polygons class_fractions": "--class-fractions",
    "polygons crs": "--crs",
    "polygons formats": "--format",
    "scale": "--scale",
    "offset": "--offset",
    "aoi": "--aoi or --bbox",
    "runtime": "--runtime",
}
"""The options behind what a manifest records."""
_FOLLOWS = {"stride_px", "tiles", "patches", "duplication"}
"""What differs because something else does."""
_SCENE = ("files", "bands", "shape", "transform", "crs", "dtype")
_LONGEST = 100
"""Characters of a value that are shown."""


Kind = Literal[
    "classes",
    "names",
    "style",
    "cleaned",
    "cleaned_names",
    "cleaned_style",
    "confidence",
    "probabilities",
    "polygons",
    "parquet",
    "fgb",
    "geojson",
    "pmtiles",
]
"""What a file of a product is: "polygons" is the GeoPackage, "cleaned" the classes its polygons match."""
SIDECARS: dict[Kind, Kind] = {
    "names": "classes",
    "style": "classes",
    "cleaned_names": "cleaned",
    "cleaned_style": "cleaned",
}
"""What belongs to which file, and goes with it."""


class Output(Value):
    """One file of the product."""

    kind: Kind
    path: str = Field(description="Relative to the manifest")
    bytes: int
    sha256: str


class ClassShare(Value):
    """What one class covers."""

    id: int
    name: str
    pixels: int
    area_m2: float = Field(description="True area on the ellipsoid")


class Outlined(Value):
    """What the polygons of one class come to."""

    id: int
    name: str
    polygons: int
    pixels: int = Field(description="After the minimum mapping unit")
    area_m2: float | None = Field(description="Of the polygons; null where nobody can know")
    area_change_m2: float | None = Field(
        description="By how much generalised outlines hold more than their pixels; null: not generalised"
    )


class Counts(Value):
    """Pixels of the scene by fate; valid + nodata is the whole scene."""

    valid: int
    nodata: int
    classes: tuple[ClassShare, ...]


class Manifest(Value):
    """Everything needed to know what a product is, made from what, and whether it is whole."""

    format: Literal["geoseg-manifest"] = "geoseg-manifest"
    version: Literal[1] = 1
    job: str = Field(description="SHA-256 over scene, package, plan and options")
    created: str = Field(description="UTC, ISO 8601")
    scene: dict[str, Any]
    package: dict[str, Any] = Field(description="Folder, fingerprint and weights hash")
    plan: dict[str, Any]
    options: dict[str, Any]
    execution: dict[str, Any]
    versions: dict[str, str]
    counts: Counts
    polygons: int | None = Field(description="Features in each file of polygons")
    outlined: tuple[Outlined, ...] = ()
    seams: dict[str, float | int] | None = Field(
        default=None, description="How much the lattice of patches shows: class changes on it and beside it"
    )
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    outputs: tuple[Output, ...]

    def to_json(self) -> str:
        """Indented JSON; `read_manifest` restores an equal value."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`.

    Raises:
        OutputError: it is not one that this version wrote.
    """
    try:
        with path.open("rb") as file:
            return Manifest.model_validate_json(file.read(_MAX_BYTES))
    except ValidationError as error:
        found = f"{error.error_count()} problems, first: {error.errors()[0]['msg']}"
        cause: Exception = error
    except OSError as error:
        found, cause = error.strerror or str(error), error
    raise OutputError(
        explain(
            "the manifest cannot be read",
            at=path,
            expected="a geoseg-manifest version 1 document",
            found=found,
            change="Move it away, or run again with --overwrite.",
        )
    ) from cause


def differences(manifest: Manifest, job: Mapping[str, dict[str, Any]]) -> list[str]:
    """What a job does otherwise than the one that made a product: "--tile-size: 4096 there, 64 now".

    Args:
        manifest: of the product.
        job: `scene`, `package`, `plan` and `options` as the manifest of the job would have them.
    """
    there, now = (
        json.loads(json.dumps({key: facts[key] for key in ("scene", "package", "plan", "options")}))
        for facts in (manifest.model_dump(mode="json"), job)
    )
    return [
        *_other_scene(there["scene"], now["scene"]),
        *_other_package(there["package"], now["package"]),
        *_other_options(there, now),
    ] or [f"nothing that is recorded; it was made by geoseg {manifest.versions.get('geoseg', '?')}"]


def _other_scene(there: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if there.get("fingerprint") == now["fingerprint"]:
        return
    other = [key for key in _SCENE if there.get(key) != now[key]]
    yield from (_compared(f"the scene's {key}", there.get(key), now[key]) for key in other)
    if not other:
        yield "the scene: its files have changed since, or --nodata or --resampling is another"


def _other_package(there: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    (old, old_prints), (new, new_prints) = map(_members, (there, now))
    if old_prints == new_prints:
        return
    if old == new:
        yield f"the model: it has changed since in {' and '.join(new)}"
    else:
        yield _compared("the model", old, new)


def _members(package: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Folders and fingerprints of the packages that voted."""
    members = [package, *package.get("others", ())]
    return [str(m.get("folder")) for m in members], [str(m.get("fingerprint")) for m in members]


def _other_options(there: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    resized = there["scene"].get("shape") != now["scene"]["shape"]
    told: set[str] = set()
    for key, old, new in _pairs(there["plan"] | there["options"], now["plan"] | now["options"]):
        name = _ASKED_BY.get(key, key.replace("_", " "))
        if old == new or key in _FOLLOWS or name in told or (key == "window" and resized):
            continue
        told.add(name)
        # What an area was is known by its fingerprint, and by the rows and columns that it needed.
        yield f"{name}: another area" if key in ("window", "aoi") else _compared(name, old, new)


def _pairs(there: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every key of either document with both values, those of documents inside it one by one."""
    for key in {**now, **there}:
        old, new = there.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from ((f"{key} {inner}", a, b) for inner, a, b in _pairs(old, new))
        else:
            yield key, old, new


def _compared(name: str, there: Any, now: Any) -> str:
    return f"{name}: {_shown(there)} there, {_shown(now)} now"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def job_id(*, scene: str, package: str, plan: dict[str, Any], options: dict[str, Any]) -> str:
    """SHA-256 over what determines a product: two jobs with one id have the same result."""
    return digest({"scene": scene, "package": package, "plan": plan, "options": options, "layout": 1})


def digest(document: dict[str, Any]) -> str:
    """SHA-256 over a document of plain JSON values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
