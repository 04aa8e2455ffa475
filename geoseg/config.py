"""Configuration files: YAML in, validated values out, errors with the line they are on.

`python -m geoseg.config > configs/train.schema.json` writes the JSON Schema that editors use.
"""

from __future__ import annotations

import difflib
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from geoseg.errors import UsageError, explain
from geoseg.legend import CodedLegend, Legend
from geoseg.package import Architecture, Px
from geoseg.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_MAX_BYTES = 1024 * 1024
_MAX_PX = 65536
T = TypeVar("T")
Location = tuple[int | str, ...]

Key = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) else v)]
"""A mapping key that is text for us, though YAML may read a number."""


class _RuleError(ValueError):
    """A rule about several keys that is broken at one of them."""

    def __init__(self, message: str, *where: int | str) -> None:
        super().__init__(message)
        self.where = where


def _auto_or(least: int) -> BeforeValidator:
    """Refuses at once what is neither; a union would tell of each alternative apart."""

    def check(value: Any) -> Any:
        is_size = isinstance(value, int) and not isinstance(value, bool)
        if value == "auto" or (is_size and least <= value <= _MAX_PX):
            return value
        raise ValueError(f"should be `auto` or a number of pixels, {least} to {_MAX_PX}")

    return BeforeValidator(check)


class LabelSource(Value):
    """Reference data of a scene: a raster of class values, or polygons when `column` is given."""

    path: str = Field(min_length=1, description="Raster or vector file, relative to the data folder")
    remap: dict[int, int | None] = Field(
        default_factory=dict,
        description="Rasters: source value to class id; null leaves them out; others stay as they are",
    )
    layer: str | None = Field(default=None, description="Polygons: layer, if the file has several")
    column: str | None = Field(default=None, description="Polygons: attribute that says the class")
    classes: dict[Key, str | int | None] = Field(
        default_factory=dict,
        description="Polygons: attribute value to class name or id; null leaves those polygons out",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.column is not None and self.remap:
            raise _RuleError("is for rasters; for polygons use `classes`", "remap")
        if self.column is None:
            for name in ("layer", "classes"):
                if getattr(self, name):
                    raise _RuleError("is for polygons, which also need `column`", name)
        return self


class SceneLabels(Value):
    """A scene with its labels, and which part of it is used."""

    name: str | None = Field(default=None, description="Name in reports; default: the stem of the first file")
    image: str | None = Field(default=None, description="One raster with all bands, in the data folder")
    files: dict[str, str] | None = Field(default=None, description="Band name to raster, one file per band")
    bands: tuple[str, ...] | None = Field(
        default=None, description="Names of the image's bands in file order, '_' for one to leave out"
    )
    nodata: float | None = Field(default=None, description="Marks pixels without data if the file does not")
    labels: LabelSource
    window: tuple[int, int, int, int] | None = Field(
        default=None, description="[row, column, height, width]: the only pixels used; default: all"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.image is None) == (self.files is None):
            raise _RuleError("a scene is given either by `image` or by `files`")
        if self.files is not None and not self.files:
            raise _RuleError("needs at least one band", "files")
        if self.files is not None and self.bands is not None:
            raise _RuleError("is for `image`; the keys of `files` are the band names", "bands")
        if self.window is not None and (min(self.window[:2]) < 0 or min(self.window[2:]) < 1):
            raise _RuleError("needs row and column of at least 0, height and width of at least 1", "window")
        return self


class ModelChoice(Value):
    """Which network is trained, and from what weights."""

    architecture: str = Field(default="unet", description="As listed by `geoseg models`")
    encoder: str = Field(default="resnet34", description="As listed by `geoseg models ARCHITECTURE`")
    options: dict[str, str | int | float | bool | list[int] | None] = Field(
        default_factory=dict, description="Further constructor arguments of the architecture"
    )
    encoder_weights: str | None = Field(
        default=None, description="'imagenet', or a safetensors file; null starts from random weights"
    )

    @property
    def card(self) -> Architecture:
        """As it stands in a model card."""
        return Architecture(name=self.architecture, encoder=self.encoder, options=dict(self.options))


class Loss(Value):
    """What the network is punished for: a weighted sum of terms. Pixels without a label never count."""

    cross_entropy: float = Field(default=1.0, ge=0, description="Weight of the term")
    focal: float = Field(
        default=0.0, ge=0, description="Weight: cross-entropy times (1 - p) ** gamma, p of the true class"
    )
    dice: float = Field(default=0.0, ge=0, description="Weight: 1 - Dice, mean over the classes in a batch")
    lovasz: float = Field(default=0.0, ge=0, description="Weight: Lovasz-Softmax, which stands in for IoU")
    tversky: float = Field(default=0.0, ge=0, description="Weight: Dice with both kinds of error told apart")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Of cross-entropy")
    gamma: float = Field(default=2.0, ge=0, description="Focal: how little easy pixels count")
    alpha: float = Field(default=0.5, ge=0, description="Tversky: weight of pixels wrongly given to a class")
    beta: float = Field(default=0.5, ge=0, description="Tversky: weight of pixels a class has missed")
    boundary_weight: float = Field(
        default=0.0, ge=0, description="Cross-entropy, focal: 1 + this is the weight of pixels near a border"
    )
    boundary_px: int = Field(default=3, ge=1, le=64, description="Near: another class is at most so far away")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.cross_entropy + self.focal + self.dice + self.lovasz + self.tversky > 0:
            raise _RuleError("at least one term needs a weight over 0")
        return self


class Training(Value):
    """How long, how fast, on what."""

    patch_px: Px = Field(default=256, description="Side of the training windows")
    batch_size: int = Field(default=8, ge=1, description="Windows of a batch, shared by all processes")
    accumulate: int = Field(default=1, ge=1, description="Batches per step, whose gradients are averaged")
    epochs: int = Field(default=20, ge=1, description="Validations: each epoch ends with one")
    steps_per_epoch: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak, after warm-up; then falls (cosine)")
    weight_decay: float = Field(default=1e-2, ge=0)
    warm_up: float = Field(default=0.05, ge=0, lt=1, description="Share of the run in which the rate rises")
    final_rate: float = Field(default=0.01, ge=0, le=1, description="Share of the peak left at the end")
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of sgd")
    clip_norm: float | None = Field(default=1.0, gt=0, description="Largest gradient norm; null: any")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Of the forward pass; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="Score and keep a moving average of weights, with this decay"
    )
    early_stop: int | None = Field(
        default=None, ge=1, description="Stop after so many epochs in a row that were not the best so far"
    )
    checkpoint_minutes: float | None = Field(
        default=5.0, ge=0, description="An unfinished run is kept this often, to go on from; null: never"
    )
    loss: Loss = Loss()
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, description="CPU threads; null: what torch chooses")
    workers: int = Field(default=1, ge=0, description="Threads that read ahead; results do not depend on it")
    class_weights: Literal["none", "inverse_sqrt", "inverse", "effective"] = Field(
        default="none",
        description="Cross-entropy, focal: rare classes weigh more, by 1 / sqrt(share of labels), 1 / share, "
        "or 1 / effective number (Cui et al. 2019; N labels, beta 1 - 1 / N)",
    )
    balanced: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of windows drawn around a class taken at random, however rare",
    )
    augment: bool = Field(default=True, description="Random flips, quarter turns and band jitter")
    jitter: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Size of random gain and offset, in standard deviations",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="Stop after this time; the learning rate then follows the share of time used, if that is "
        "larger than the share of steps, and a run is no longer repeatable to the bit",
    )
    validation_windows: int = Field(
        default=64, ge=1, description="At most this many windows, spread evenly, are scored after each epoch"
    )


class Inference(Value):
    """Defaults stored in the package for prediction."""

    patch_px: Annotated[int | Literal["auto"], _auto_or(1)] = Field(
        default="auto",
        description="Side of the patches the network is given; auto: as in training, or twice the overlap",
    )
    overlap_px: Annotated[int | Literal["auto"], _auto_or(0)] = Field(
        default="auto",
        description="Pixels neighbouring patches share; auto: twice the context radius, which is measured on "
        "the trained network, or half a patch where that network looks at the whole patch",
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.patch_px != "auto" and self.overlap_px != "auto" and self.overlap_px >= self.patch_px:
            raise _RuleError(f"must be smaller than patch_px {self.patch_px}", "overlap_px")
        return self


class TrainConfig(Value):
    """Everything `geoseg train` needs to know: CONFIG.yaml."""

    description: str | None = Field(default=None, description="What the model is for; kept in its card")
    licence: str | None = Field(default=None, description="Licence of the trained weights; kept in the card")
    legend: Legend
    bands: tuple[str, ...] = Field(min_length=1, description="Input channels, in the network's order")
    scenes: tuple[SceneLabels, ...] = Field(min_length=1, description="What is learnt from")
    validation: tuple[SceneLabels, ...] = Field(
        default=(),
        description="What is only scored: other scenes, or windows apart from the training ones",
    )
    model: ModelChoice = ModelChoice()
    training: Training = Training()
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = sorted({n for n in self.bands if self.bands.count(n) > 1})
        if twice:
            raise _RuleError(f"band {twice[0]!r} appears twice", "bands")
        for group in ("scenes", "validation"):
            for i, entry in enumerate(getattr(self, group)):
                _check_classes(entry.labels, self.legend, (group, i, "labels"))
        return self


def _check_classes(labels: LabelSource, legend: Legend, where: Location) -> None:
    """Every class that `labels` speaks of is in the legend."""
    ids, names = set(legend.ids.tolist()), set(legend.names)
    known = ", ".join(f"{c.id} {c.name}" for c in legend.classes)
    targets: list[tuple[int | str, int | str | None]] = [*labels.remap.items(), *labels.classes.items()]
    for key, target in targets:
        if target is not None and target not in ids | names:
            kind = "remap" if labels.remap else "classes"
            raise _RuleError(f"{target!r} is not in the legend: {known}", *where, kind, key)


def load(path: Path, model: type[T]) -> T:
    """The YAML (or JSON) file at `path` as a `model`: a pydantic model or a dataclass such as `Legend`.

    YAML 1.2 without surprises: `no` is text, a key given twice and non-standard tags are errors.

    Raises:
        UsageError: one line `file:line:column: key: message` for everything that is wrong.
    """
    text = _read(path)
    content, node = _parse(text, path)
    adapter = TypeAdapter(model)
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        schema = adapter.json_schema()
        found = error.errors()
        lines = (_line(path, node, schema, details) for details in found if not _follows(details, found))
        raise UsageError("\n".join(dict.fromkeys(lines))) from None


def load_legend(path: Path) -> Legend:
    """The legend in a YAML or JSON file: `classes`, a list of id, name and color, and `nodata`.

    Raises:
        UsageError: as `load`.
    """
    return load(path, Legend)


def load_coded_legend(path: Path) -> CodedLegend:
    """As `load_legend`, of a raster whose values may be any integers.

    Raises:
        UsageError: as `load`.
    """
    return load(path, CodedLegend)


def train_schema() -> str:
    """The JSON Schema of `TrainConfig`, as shipped in configs/train.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TrainConfig.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) <= _MAX_BYTES:
            return raw.decode("utf-8")
        found = f"more than {_MAX_BYTES} bytes"
    except OSError as error:
        found = error.strerror or str(error)
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at offset {error.start}"
    raise UsageError(
        explain(
            "the configuration cannot be read",
            at=path,
            expected=f"a YAML file in UTF-8 of at most {_MAX_BYTES} bytes",
            found=found,
            change="Check the path and the file.",
        )
    )


def _parse(text: str, path: Path) -> tuple[Any, Any]:
    """Plain values, and the nodes that know where each of them stands."""
    try:
        return YAML(typ="safe", pure=True).load(text), YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        message = " ".join(part for part in (error.problem, error.context) if part)
        raise UsageError(f"{path}:{place}: {message}") from None
    except (YAMLError, ValueError, TypeError) as error:  # a scalar its own tag cannot read; an unhashable key
        raise UsageError(f"{path}:1:1: not YAML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}:1:1: nested too deeply") from None


def _follows(details: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """True for "too few items" that only says that the items given are wrong themselves."""
    return details["type"] == "too_short" and any(
        len(other["loc"]) > len(details["loc"]) and other["loc"][: len(details["loc"])] == details["loc"]
        for other in others
    )


def _line(path: Path, node: Any, schema: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """`file:line:column: key: message` for one thing that is wrong."""
    location: Location = details["loc"]
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, _RuleError):
        location = (*location, *cause.where)
    is_unknown = details["type"] in {"extra_forbidden", "unexpected_keyword_argument"}
    message = _unknown_key(schema, location) if is_unknown else details["msg"].removeprefix("Value error, ")
    row, column = _place(node, location, on_key=is_unknown)
    key = ".".join(str(part) for part in location) or "document"
    return f"{path}:{row}:{column}: {key}: {message}"


def _place(node: Any, location: Location, *, on_key: bool) -> tuple[int, int]:
    """Line and column, from 1, of the deepest part of `location` that is in the file."""
    mark = getattr(node, "start_mark", None)
    for part in location:
        pairs = _children(node)
        if str(part) not in pairs:
            break
        key, node = pairs[str(part)]
        mark = key.start_mark if on_key else node.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _children(node: Any) -> dict[str, tuple[Any, Any]]:
    """Key node and value node of each entry of a mapping or sequence, by key or index."""
    value = getattr(node, "value", None)
    if not isinstance(value, list):
        return {}
    if value and not isinstance(value[0], tuple):
        return {str(i): (item, item) for i, item in enumerate(value)}
    return {str(key.value): (key, item) for key, item in value}


def _unknown_key(schema: Mapping[str, Any], location: Location) -> str:
    valid = sorted(_keys(schema, location[:-1]))
    close = difflib.get_close_matches(str(location[-1]), valid, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"valid keys are {', '.join(valid)}"
    return f"unknown key; {hint}"


def _keys(schema: Mapping[str, Any], location: Location) -> set[str]:
    """Keys that the schema allows in the mapping at `location`."""
    places = list(_alternatives(schema, schema))
    for part in location:
        found = [
            child
            for place in places
            if (child := place.get("properties", {}).get(part) or place.get("items")) is not None
        ]
        places = [alternative for child in found for alternative in _alternatives(child, schema)]
    return {name for place in places for name in place.get("properties", {})}


def _alternatives(place: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The place itself with references followed and unions taken apart."""
    if "$ref" in place:
        place = schema["$defs"][place["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in place:
        for branch in place["anyOf"]:
            yield from _alternatives(branch, schema)
    else:
        yield place


if __name__ == "__main__":
    sys.stdout.write(train_schema())
