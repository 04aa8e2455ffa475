"""What a model package says about itself: `model.json`, as a validated value.

A package is a folder with `model.json` and `weights.safetensors`, nothing executable. This module knows
the JSON only; reading and writing weights is the business of `geoseg.models.store`.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from geoseg.errors import PackageError, explain
from geoseg.legend import Legend  # noqa: TC001 - pydantic needs it at run time
from geoseg.value import Value

if TYPE_CHECKING:
    from pathlib import Path

CARD_NAME = "model.json"
WEIGHTS_NAME = "weights.safetensors"
HISTORY_NAME = "history.csv"
CURVES_NAME = "curves.png"
PACKAGE_FILES = frozenset({CARD_NAME, WEIGHTS_NAME, HISTORY_NAME, CURVES_NAME})
"""What a package may hold; the last two are for people."""
_MAX_CARD_BYTES = 4 * 1024 * 1024

Scalar = str | int | float | bool | None
Px = Annotated[int, Field(ge=1, le=65536)]


class Architecture(Value):
    """Which network the weights belong to."""

    name: str = Field(description="Key in the architecture registry, e.g. 'unet' or 'fcn8s'")
    encoder: str = Field(description="Encoder name as segmentation-models-pytorch knows it")
    options: dict[str, Scalar | list[int]] = Field(
        default_factory=dict, description="Further constructor arguments of the architecture"
    )


class Band(Value):
    """One input channel: its name and how its values are normalised: (value - mean) / std."""

    name: str = Field(min_length=1)
    mean: float = Field(description="Subtracted, in the units of `dtype` values after scale and offset")
    std: float = Field(gt=0, description="Divided by")


class GsdRange(Value):
    """Ground sampling distances, in metres, that the model has been made for."""

    min_m: float = Field(gt=0)
    max_m: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_m > self.max_m:
            raise ValueError(f"gsd min_m {self.min_m} is larger than max_m {self.max_m}")
        return self


class Card(Value):
    """Everything prediction needs to know about a model, as stored in `model.json`."""

    format: Literal["geoseg-model"] = "geoseg-model"
    version: Literal[1] = 1
    architecture: Architecture
    bands: tuple[Band, ...] = Field(min_length=1, description="Input channels in the network's order")
    dtype: str = Field(description="Data type of the scenes the normalisation was measured on, e.g. 'uint16'")
    legend: Legend
    gsd: GsdRange | None = Field(default=None, description="None: any ground sampling distance")
    patch_px: Px = Field(description="Side of the square the network is given by default")
    overlap_px: int = Field(ge=0, description="Pixels shared by neighbouring patches by default")
    stride_px: Px = Field(description="Patch origins and sizes are multiples of this")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str | None = None
    provenance: dict[str, Any] = Field(default_factory=dict, description="How and from what it was made")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.band_names
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"band {twice[0]!r} appears twice")
        for what, size in (("patch_px", self.patch_px), ("overlap_px", self.overlap_px)):
            if size % self.stride_px:
                raise ValueError(f"{what} {size} is not a multiple of stride_px {self.stride_px}")
        if self.overlap_px >= self.patch_px:
            raise ValueError(f"overlap_px {self.overlap_px} must be smaller than patch_px {self.patch_px}")
        return self

    @property
    def band_names(self) -> tuple[str, ...]:
        """Input channel names in the network's order."""
        return tuple(b.name for b in self.bands)

    def to_json(self) -> str:
        """Indented JSON; `Card.from_json` restores an equal value."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: object) -> Card:
        """The card in `text`.

        Raises:
            PackageError: naming `source` and each field that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(str(p) for p in e['loc']) or 'document'}: {e['msg']}" for e in error.errors()
            )
            message = explain(
                "the model card is not valid",
                at=source,
                expected="a geoseg-model version 1 document",
                found=found,
                change="Make the package again with `geoseg train`, or correct the named fields.",
            )
            raise PackageError(message) from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole card, weights hash included: changing any field changes it."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """The card of the package in `folder`.

    Raises:
        PackageError: when there is none, or it is not valid.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise PackageError(
            explain(
                "not a model package",
                at=folder,
                expected=f"a folder with {CARD_NAME} and {WEIGHTS_NAME}",
                found="no such folder" if not folder.exists() else f"no {CARD_NAME} in it",
                change="Give the folder that `geoseg train -o MODEL` wrote.",
            )
        )
    size = path.stat().st_size
    if size > _MAX_CARD_BYTES:
        raise PackageError(
            explain(
                "the model card is too large",
                at=path,
                expected=f"at most {_MAX_CARD_BYTES} bytes",
                found=f"{size} bytes",
                change="This is not a card written by geoseg.",
            )
        )
    return Card.from_json(path.read_text("utf-8", errors="replace"), source=path)
