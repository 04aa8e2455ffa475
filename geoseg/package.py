"""What a model package says about itself: its card, as a validated value.

A package is a folder with `model.json` and `weights.safetensors` or `model.onnx`, or one ONNX file with the
card in its metadata; nothing executable. This module knows the card only; reading and writing weights is the
business of `geoseg.models`.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from geoseg.errors import PackageError, explain
from geoseg.legend import Legend  # noqa: TC001 - pydantic needs it at run time
from geoseg.onnxfile import read_metadata
from geoseg.value import Value

if TYPE_CHECKING:
    from pathlib import Path

CARD_NAME = "model.json"
WEIGHTS_NAME = "weights.safetensors"
GRAPH_NAME = "model.onnx"
CARD_KEY = "geoseg"
"""Under this key an ONNX file carries its card."""
HISTORY_NAME = "history.csv"
CURVES_NAME = "curves.png"
PACKAGE_FILES = frozenset({CARD_NAME, WEIGHTS_NAME, GRAPH_NAME, HISTORY_NAME, CURVES_NAME})
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


class Graph(Value):
    """A network that comes as an ONNX graph: what its input and output are called."""

    input: str = Field(description="Float32 (n, bands, h, w), normalised; n, h and w are dynamic")
    output: str = Field(description="Float32 (n, classes, h, w): logits")


class AffineStep(Value):
    """x * gain + offset."""

    step: Literal["affine"] = "affine"
    gain: float = 1.0
    offset: float = 0.0


class LogStep(Value):
    """Natural logarithm of x."""

    step: Literal["log"] = "log"


class SigmoidStep(Value):
    """1 / (1 + exp(-x))."""

    step: Literal["sigmoid"] = "sigmoid"


class ClipStep(Value):
    """x held within [min, max]."""

    step: Literal["clip"] = "clip"
    min: float
    max: float


Step = Annotated[AffineStep | LogStep | SigmoidStep | ClipStep, Field(discriminator="step")]


class Band(Value):
    """One input channel: its name and how it is normalised: steps in order, then (x - mean) / std."""

    name: str = Field(min_length=1)
    steps: tuple[Step, ...] = Field(default=(), description="Applied to values after scale and offset")
    mean: float = Field(
        default=0.0, description="Subtracted; in the scene's units where no steps come before"
    )
    std: float = Field(default=1.0, gt=0, description="Divided by")

    @model_validator(mode="after")
    def _said(self) -> Self:
        if not self.steps and not {"mean", "std"} <= self.model_fields_set:
            raise ValueError(f"band {self.name!r} does not say how it is normalised: mean and std, or steps")
        return self


class Context(Value):
    """How far around a pixel the network looks, measured on the finished network."""

    radius_px: int | None = Field(
        ge=0,
        description="Patches cut off at this distance or farther change no probability by more than "
        "`tolerance`; None: no such distance was found, the network looks at the whole patch",
    )
    tolerance: float = Field(ge=0, description="In probability, 0 to 1")
    change: float = Field(ge=0, description="Largest change of a probability at the radius, or at the end")
    searched_px: int = Field(ge=0, description="Largest distance that was tried")


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
    architecture: Architecture | None = Field(default=None, description="None: the graph is all there is")
    graph: Graph | None = Field(default=None, description="None: the weights are safetensors")
    bands: tuple[Band, ...] = Field(min_length=1, description="Input channels in the network's order")
    dtype: str = Field(description="Data type of the scenes the normalisation was measured on, e.g. 'uint16'")
    legend: Legend
    gsd: GsdRange | None = Field(default=None, description="None: any ground sampling distance")
    patch_px: Px = Field(description="Side of the square the network is given by default")
    overlap_px: int = Field(ge=0, description="Pixels shared by neighbouring patches by default")
    stride_px: Px = Field(description="Patch origins and sizes are multiples of this")
    context: Context | None = Field(default=None, description="None: not measured")
    call_bytes_per_px: int | None = Field(
        default=None, ge=1, description="Memory of a network call over pixels of its patch, weights excluded"
    )
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="Logits are divided by it before they become probabilities; classes stay as they are. "
        "None: not measured, 1",
    )
    weights_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Of the safetensors file, or of the ONNX file's graph"
    )
    licence: str | None = None
    provenance: dict[str, Any] = Field(default_factory=dict, description="How and from what it was made")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.architecture is None and self.graph is None:
            raise ValueError("neither an architecture nor a graph is named")
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

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the temperature where there is none: a card from before there were any stays as it is."""
        document: dict[str, Any] = write(self)
        return (
            document
            if self.temperature is not None
            else {k: v for k, v in document.items() if k != "temperature"}
        )

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


def read_card(package: Path) -> Card:
    """The card of a package: a folder, or one ONNX file that `geoseg export` wrote.

    Raises:
        PackageError: when there is none, or it is not valid.
    """
    if package.suffix == ".onnx" and package.is_file():
        return _card_inside(package)
    return _card_beside(package)


def _card_inside(package: Path) -> Card:
    text = read_metadata(package).get(CARD_KEY)
    if text is None:
        raise PackageError(
            explain(
                "the ONNX file does not say what it needs",
                at=package,
                expected=f"metadata {CARD_KEY!r} with a model card",
                found="none",
                change="Write a card for it and make a package of both: geoseg wrap FILE CARD -o MODEL.",
            )
        )
    return Card.from_json(text, source=package)


def _card_beside(folder: Path) -> Card:
    path = folder / CARD_NAME
    if not path.is_file():
        raise PackageError(
            explain(
                "not a model package",
                at=folder,
                expected=f"a folder with {CARD_NAME} and its weights, or an exported .onnx file",
                found="no such folder or file" if not folder.exists() else f"no {CARD_NAME} in it",
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
