"""Model packages from ONNX graphs that were made elsewhere, after trying out what their card says of them."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ExecutionError, PackageError, explain
from geoseg.models.context import SAMPLE_PX, SAMPLES, measure_context, texture
from geoseg.models.footprint import call_bytes_per_px
from geoseg.models.ort import OrtPredictor, open_session
from geoseg.onnxfile import graph_sha256
from geoseg.package import CARD_NAME, GRAPH_NAME, Card, ClipStep, Graph, SigmoidStep
from geoseg.stitch import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.package import Band

_MEASURED = ("weights_sha256", "context", "call_bytes_per_px")
"""Fields of a card that are found out, not written."""
_TRIAL_PX = 64
"""About the side of patches the graph is tried on."""
_SHIFT_PX = 64
"""Common strides divide this: shifting by the stride is held against shifting by this."""
_FAR = 4
"""Times more change than at a shift that must be right: then the phase is not kept."""
_ROUNDING = 1e-5
"""A change of a probability that is but rounding."""
_SUM_TO_ONE = 1e-3
_STEEPNESS = 1.7
"""Of the logistic function that is nearest to the normal distribution's: values fill their range evenly."""
_MAX_CARD_BYTES = 4 * 1024 * 1024
_AXES = 4


def wrap(graph: Path, card_json: Path, out: Path, *, overwrite: bool = False) -> Card:
    """Write the package `out` from an ONNX file and a card for it; returns the card, completed.

    The card is written by hand, without the fields that are measured here: the hash of the graph, its context
    radius and the memory it takes. `graph`, the names of input and output, may be left out where there is one
    of each. The graph is run on random patches of several sizes, and must keep its phase on the stride.

    Raises:
        PackageError: the card is not valid, or the graph does not do what it says.
        OutputError: something is there already and `overwrite` is not set, or is not a package.
        UsageError: ONNX Runtime is not installed.
    """
    from geoseg.models.store import appearing, require_free

    out = out.absolute()
    require_free(out, overwrite=overwrite)
    card = _tried(graph, _read_fields(card_json), card_json)
    out.parent.mkdir(parents=True, exist_ok=True)
    with appearing(out) as partial:
        shutil.copyfile(graph, partial / GRAPH_NAME)
        (partial / CARD_NAME).write_text(card.to_json(), "utf-8")
    return card


def plausible(bands: Sequence[Band], side: int, *, count: int = SAMPLES) -> NDArray[np.float32]:
    """Images (count, bands, side, side) as the network might see them: noise, where its input may lie.

    A last step that bounds the values bounds them here, too; else they have mean 0 and variance 1.
    """
    images = texture(len(bands), side, 0, count=count)
    for i, band in enumerate(bands):
        last = band.steps[-1] if band.steps else None
        if isinstance(last, SigmoidStep | ClipStep):
            low, high = (last.min, last.max) if isinstance(last, ClipStep) else (0.0, 1.0)
            share = 1 / (1 + np.exp(-_STEEPNESS * images[:, i]))
            images[:, i] = (low + (high - low) * share - band.mean) / band.std
    return images


def _read_fields(path: Path) -> dict[str, Any]:
    """The card as it was written, without what will be measured."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MAX_CARD_BYTES))
        found = "no object" if not isinstance(fields, dict) else None
    except (OSError, ValueError) as error:
        found = str(error)
    if found is not None:
        raise PackageError(
            explain(
                "the card cannot be read",
                at=path,
                expected="a JSON object with bands, dtype, legend, patch_px, overlap_px and stride_px",
                found=found,
                change="Write one as the documentation on models shows.",
            )
        )
    surplus = [name for name in (*_MEASURED, "architecture") if fields.get(name) is not None]
    if surplus:
        raise PackageError(
            explain(
                "the card says what is found out by trying",
                at=path,
                expected=f"no {', '.join(_MEASURED)} or architecture",
                found=", ".join(surplus),
                change="Leave these fields out.",
            )
        )
    return {name: value for name, value in fields.items() if value is not None}


def _tried(graph: Path, fields: dict[str, Any], source: Path) -> Card:
    """The complete card of a graph that does what it says."""
    anything = {"graph": {"input": "?", "output": "?"}, "weights_sha256": "0" * 64}
    Card.from_json(json.dumps(anything | fields), source=source)  # before time is spent on the graph
    found = {"weights_sha256": graph_sha256(graph)}
    session = open_session(graph, threads=os.cpu_count() or 1)
    names = fields.get("graph") or _names(session, graph)
    card = Card.from_json(json.dumps(fields | found | {"graph": names}), source=source)
    trial = _Trial(session=session, card=card, path=graph)
    trial.check_declared()
    trial.check_answers()
    trial.check_stride()
    samples = list(plausible(card.bands, SAMPLE_PX))
    context = measure_context(trial.predictor(), samples, stride_px=card.stride_px)
    # A session keeps its memory: one that has not worked yet shows how much it takes.
    fresh = _Trial(session=open_session(graph, threads=1), card=card, path=graph).predictor()
    memory = call_bytes_per_px(fresh, bands=len(card.bands), stride_px=card.stride_px)
    return card.model_copy(update={"context": context, "call_bytes_per_px": memory})


def _names(session: Any, path: Path) -> dict[str, str]:
    """Names of the only input and the only output."""
    inputs, outputs = ([end.name for end in ends] for ends in (session.get_inputs(), session.get_outputs()))
    if len(inputs) == len(outputs) == 1:
        return {"input": inputs[0], "output": outputs[0]}
    raise _unfit(
        path,
        expected="one input and one output",
        found=f"inputs {', '.join(inputs)}; outputs {', '.join(outputs)}",
        change='Name them in the card, "graph": {"input": ..., "output": ...}; other inputs need defaults.',
    )


def _unfit(path: Path, *, expected: str, found: object, change: str) -> PackageError:
    """The error for a graph that is not what its card says."""
    return PackageError(
        explain("the graph does not fit its card", at=path, expected=expected, found=found, change=change)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A graph that is being tried out."""

    session: Any
    card: Card
    path: Path

    @property
    def graph(self) -> Graph:
        if self.card.graph is None:
            raise ValueError("the card names no graph")
        return self.card.graph

    def predictor(self) -> OrtPredictor:
        """It, as prediction will use it."""
        bands, stride = len(self.card.bands), self.card.stride_px
        return OrtPredictor(self.session, self.graph, bands=bands, stride_px=stride)

    def check_declared(self) -> None:
        """Types and sizes that the graph itself declares."""
        bands, classes = len(self.card.bands), len(self.card.legend)
        ends = (("input", self.session.get_inputs(), bands), ("output", self.session.get_outputs(), classes))
        for what, there, channels in ends:
            name = getattr(self.graph, what)
            end = next((e for e in there if e.name == name), None)
            if end is None:
                raise _unfit(
                    self.path,
                    expected=f"an {what} named {name!r}",
                    found=", ".join(e.name for e in there),
                    change="Correct the card's `graph`.",
                )
            self._check_end(what, end, channels)

    def _check_end(self, what: str, end: Any, channels: int) -> None:
        named = {"input": "bands", "output": "classes"}[what]
        expected = f"{what} {end.name!r}: tensor(float) of shape (n, {channels}, h, w), n, h and w dynamic"
        shape = list(end.shape)
        sound = end.type == "tensor(float)" and len(shape) == _AXES
        # Shapes of outputs are guesses of whoever exported the graph: they are tried out instead.
        fixed = what == "input" and sound and any(isinstance(shape[axis], int) for axis in (0, 2, 3))
        if sound and not fixed and (not isinstance(shape[1], int) or shape[1] == channels):
            return
        change = f"The card has {channels} {named}: correct it, or export the graph again."
        if fixed:
            change = "Export the graph again with dynamic axes 0, 2 and 3."
        raise _unfit(self.path, expected=expected, found=f"{end.type} of shape {shape}", change=change)

    def check_answers(self) -> None:
        """What it makes of patches of several shapes: finite logits, as many as there are pixels."""
        predict, classes = self.predictor(), len(self.card.legend)
        side = -(-_TRIAL_PX // self.card.stride_px) * self.card.stride_px
        image = plausible(self.card.bands, 3 * side, count=2)
        for n, height, width in ((1, side, side), (2, side, 2 * side), (1, 3 * side, self.card.stride_px)):
            batch = image[:n, :, :height, :width]
            try:
                logits = predict(batch)
            except ExecutionError as error:
                raise _unfit(
                    self.path,
                    expected=f"an answer to a batch of shape {batch.shape}",
                    found=error,
                    change="Export the graph with dynamic n, h and w, or raise the card's stride_px.",
                ) from error
            if logits.shape != (n, classes, height, width):
                raise _unfit(
                    self.path,
                    expected=f"logits of shape {(n, classes, height, width)} for a batch of {batch.shape}",
                    found=logits.shape,
                    change="The graph must score each pixel for each class of the card's legend.",
                )
            self._check_logits(logits)

    def _check_logits(self, logits: NDArray[np.float32]) -> None:
        if not np.isfinite(logits).all():
            raise _unfit(
                self.path,
                expected="finite logits for input such as the card describes",
                found="scores that are not finite",
                change="Check the weights, and the card's normalisation.",
            )
        if logits.shape[1] > 1 and logits.min() >= 0 and np.abs(logits.sum(axis=1) - 1).max() < _SUM_TO_ONE:
            raise _unfit(
                self.path,
                expected="logits",
                found="probabilities: scores of a pixel that are positive and add up to 1",
                change="Export the network without its last softmax: confidences would be wrong with it.",
            )

    def check_stride(self) -> None:
        """Shifting the image by the stride shifts the answer, as far as any shift does."""
        stride, predict = self.card.stride_px, self.predictor()
        sure = math.lcm(stride, _SHIFT_PX)
        side = 3 * sure + _SHIFT_PX
        image = plausible(self.card.bands, side + sure, count=1)
        inner = slice(sure, -sure)  # far from borders, which do not move along

        def answer(start: int) -> NDArray[np.float32]:
            window = slice(start, start + side)
            return softmax(predict(image[:, :, window, window])[0])

        def change(shift: int) -> float:
            moved = answer(shift)[:, : side - shift, : side - shift]
            return float(np.abs(moved - still[:, shift:, shift:])[:, inner, inner].mean())

        still = answer(0)

        at_stride, unavoidable = change(stride), change(sure)
        if at_stride <= max(_FAR * unavoidable, _ROUNDING):
            return
        steps = [s for s in range(2 * stride, sure + 1, stride) if sure % s == 0]
        fits = next((s for s in steps if change(s) <= max(_FAR * unavoidable, _ROUNDING)), sure)
        raise _unfit(
            self.path,
            expected=f"the same answer, shifted, when the image is shifted by stride_px {stride}",
            found=f"probabilities that differ by {at_stride:.2g} on average; by {fits} px they do not",
            change=f'Write "stride_px": {fits}, and patch_px and overlap_px that are multiples of it.',
        )
