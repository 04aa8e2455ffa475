"""Which file holds a package's weights, and whether they are those the card was written for.

Imports no runtime: whoever loads weights comes here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoseg.errors import PackageError, explain
from geoseg.files import sha256
from geoseg.onnxfile import graph_sha256, require_self_contained
from geoseg.package import CARD_NAME, GRAPH_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.package import Card


def verified_weights(package: Path, card: Card) -> Path:
    """The file with the package's weights: safetensors, or ONNX where the card names a graph.

    Raises:
        PackageError: it is missing, altered, or an ONNX file that keeps weights elsewhere.
    """
    if card.graph is None:
        weights = package / WEIGHTS_NAME
    else:
        weights = package / GRAPH_NAME if package.is_dir() else package
    if not weights.is_file():
        raise PackageError(
            explain(
                "the model package has no weights",
                at=weights.parent,
                expected=f"{weights.name} beside {CARD_NAME}",
                found="no such file",
                change="Copy the whole folder again.",
            )
        )
    _require_hash(weights, sha256(weights) if card.graph is None else graph_sha256(weights), card)
    if card.graph is not None:
        require_self_contained(weights)
    return weights


def _require_hash(weights: Path, found: str, card: Card) -> None:
    if found != card.weights_sha256:
        raise PackageError(
            explain(
                "the weights are not those the card was written for: altered, truncated or mixed up",
                at=weights,
                expected=f"sha256 {card.weights_sha256}",
                found=f"sha256 {found} ({weights.stat().st_size} bytes)",
                change="Copy the package again from where it was made; do not use this one.",
            )
        )
