"""The manifest: one JSON per product, written last. Where it stands, the product is complete."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from geoseg.errors import OutputError, explain
from geoseg.value import Value

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 64 << 20
"""Of a manifest: what is longer is cut off, and then it is not one."""


class Output(Value):
    """One file of the product."""

    kind: Literal["classes", "confidence", "probabilities", "polygons", "style", "names"]
    path: str = Field(description="Relative to the manifest")
    bytes: int
    sha256: str


class ClassShare(Value):
    """What one class covers."""

    id: int
    name: str
    pixels: int
    area_m2: float = Field(description="True area on the ellipsoid")


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
    polygons: int | None = Field(description="Features in the GeoPackage")
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


def job_id(*, scene: str, package: str, plan: dict[str, Any], options: dict[str, Any]) -> str:
    """SHA-256 over what determines a product: two jobs with one id have the same result."""
    return digest({"scene": scene, "package": package, "plan": plan, "options": options, "layout": 1})


def digest(document: dict[str, Any]) -> str:
    """SHA-256 over a document of plain JSON values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
