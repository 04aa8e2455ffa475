"""What `geoseg predict` has written beside a class raster that can be evaluated with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

_CLASSES = "_classes.tif"
_MANIFEST = "_manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Files of the same product; None: there is none, or nothing that can be scored."""

    polygons: Path | None = None
    confidence: Path | None = None
    """Only one that holds the probability of the class: other kinds are no probabilities."""


def beside(classes: Path) -> Beside:
    """The other files of the product a class raster belongs to, as its manifest has them."""
    path = classes.with_name(classes.name.removesuffix(_CLASSES) + _MANIFEST)
    if not classes.name.endswith(_CLASSES) or not path.is_file():
        return Beside()
    manifest = read_manifest(path)
    files = {str(output.kind): classes.with_name(output.path) for output in manifest.outputs}
    if files.get("classes") != classes:
        return Beside()
    polygons, confidence = files.get("polygons"), files.get("confidence")
    sure = confidence if manifest.options.get("confidence") == "probability" else None
    return Beside(
        polygons=polygons if polygons is not None and polygons.is_file() else None,
        confidence=sure if sure is not None and sure.is_file() else None,
    )
