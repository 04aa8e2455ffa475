"""PyTorch networks as ONNX files that carry their card: one file from which any runtime predicts."""

from __future__ import annotations

import logging
import tempfile
import warnings
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geoseg.errors import OutputError, PackageError, explain
from geoseg.files import replacing, require_writable
from geoseg.models.catalogue import describe
from geoseg.models.context import SAMPLE_PX, measure_context
from geoseg.models.graphs import EXPORTED
from geoseg.models.ort import OrtPredictor, import_onnxruntime, not_installed, one_line, open_session
from geoseg.models.pytorch import TorchPredictor
from geoseg.models.store import load_package
from geoseg.models.weights import verified_weights
from geoseg.models.wrap import plausible
from geoseg.onnxfile import graph_sha256, write_metadata
from geoseg.package import CARD_KEY, GRAPH_NAME, read_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geoseg.models.segmenter import Segmenter
    from geoseg.package import Card, Context

OPSET = 20
"""Of ONNX operators: known to ONNX Runtime since 1.17 (2024)."""
AGREEMENT = 1e-3
"""Largest difference of a logit from torch's, over the largest logit if that is above 1."""
_CHECK_PX = 64
"""Patches of about this size are compared."""
_TALKATIVE = ("onnx_ir", "onnxscript", "torch.onnx", "torch.export", "torch.fx")


def export_onnx(package: Path, out: Path, *, overwrite: bool = False) -> Card:
    """Write the package as the ONNX file `out`, which is a package itself; returns its card.

    The number of patches and their sides, multiples of the stride, stay open. What ONNX Runtime makes of
    random patches is compared with torch before the file gets its name; the largest difference is in the
    card's provenance under "export". A package that holds a graph is joined with its card into one file.

    Raises:
        PackageError: the package cannot be trusted, its network cannot be exported, or answers differently.
        OutputError: something is there already and `overwrite` is not set, or it cannot be written.
        UsageError: `geoseg[onnx]` is not installed.
    """
    _require_free(out, overwrite=overwrite)
    card = read_card(package)
    require_writable(out.absolute().parent)  # before the network is traced for nothing
    with _bare_graph(package, card) as (path, found), replacing(out) as temporary:
        write_metadata(path, temporary, CARD_KEY, found.model_dump_json())
    return found


@contextmanager
def _bare_graph(package: Path, card: Card) -> Iterator[tuple[Path, Card]]:
    """An ONNX file with the network, there while the block runs, and the card that belongs in it."""
    if card.graph is not None:
        yield verified_weights(package, card), card
        return
    versions = _made_with()
    model = load_package(package)[1]
    with tempfile.TemporaryDirectory(prefix="geoseg-") as folder:
        path = Path(folder) / GRAPH_NAME
        _trace(model, card, path, package)
        provenance = card.provenance | {
            "architecture": card.model_dump(mode="json")["architecture"],
            "export": {"opset": OPSET, "max_difference": _compare(model, card, path), **versions},
        }
        changes = {
            "context": _context(card, model),
            "architecture": None,
            "graph": EXPORTED,
            "weights_sha256": graph_sha256(path),
            "provenance": provenance,
        }
        yield path, card.model_copy(update=changes)


def _context(card: Card, model: Segmenter) -> Context | None:
    """The context as measured; of a network known to look at everything it is measured now if need be.

    Without its architecture's name, nobody could tell any more that its patches must be blended.
    """
    known = card.architecture is not None and describe(card.architecture.name).context == "local"
    if card.context is not None or known:
        return card.context
    samples = list(plausible(card.bands, SAMPLE_PX))
    predictor = TorchPredictor(model, bands=len(card.bands))
    return measure_context(predictor, samples, stride_px=card.stride_px)


def _made_with() -> dict[str, str]:
    """Versions of what makes exports.

    Raises:
        UsageError: some of it is not installed.
    """
    runtime = import_onnxruntime()
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise not_installed("what exports networks", "onnx", error) from error
    return {m.__name__: m.__version__ for m in (torch, onnx, onnxscript, runtime)}


def _require_free(out: Path, *, overwrite: bool) -> None:
    if out.suffix == ".onnx" and not out.is_dir() and (overwrite or not out.exists()):
        return
    name = out.suffix != ".onnx" or out.is_dir()
    raise OutputError(
        explain(
            "the ONNX file cannot be written",
            at=out,
            expected="the name of a file that ends in .onnx" if name else "no such file",
            found="another name" if name else "a file",
            change="Choose another name." if name else "Give --overwrite to replace it.",
        )
    )


def _trace(model: Segmenter, card: Card, out: Path, package: Path) -> None:
    """The network, without the padding around it, as an ONNX file without metadata of ours."""
    stride, dim = card.stride_px, torch.export.Dim
    # Sizes of 1 would be taken for constants, and so would equal ones for one and the same.
    example = torch.zeros(2, len(card.bands), 2 * stride, 3 * stride)
    sizes = {0: dim("n"), 2: stride * dim("h"), 3: stride * dim("w")}
    try:
        with _quiet(), _grids_by_products(), _fixed_padding():
            program = torch.onnx.export(
                model.network,
                (example,),
                dynamo=True,
                dynamic_shapes=(sizes,),
                input_names=[EXPORTED.input],
                output_names=[EXPORTED.output],
                opset_version=OPSET,
                verbose=False,
            )
            # With `dynamo` it is always a program, whatever the signature says.
            cast("torch.onnx.ONNXProgram", program).save(str(out), external_data=False)
    except Exception as error:
        raise PackageError(
            explain(
                "the network cannot be exported to ONNX",
                at=package,
                expected="operations that ONNX has, for patches of any size",
                found=one_line(error)[:500],
                change="Use --runtime torch.",
            )
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of exporters, about themselves, are nobody's business."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _grids_by_products() -> Iterator[None]:
    """Pooling to a grid becomes products of matrices while the block runs: ONNX has no operator for it."""
    pool = functional.adaptive_avg_pool2d

    def by_products(x: Tensor, output_size: Any) -> Tensor:
        rows, cols = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
        if None in (rows, cols) or rows == cols == 1:
            return pool(x, output_size)
        return grid_means(x, rows, cols)

    # Modules and `interpolate` alike look it up here.
    functional.adaptive_avg_pool2d = cast("Any", by_products)
    try:
        yield
    finally:
        functional.adaptive_avg_pool2d = pool


@contextmanager
def _fixed_padding() -> Iterator[None]:
    """What TensorFlow calls "same" padding depends on the size; on multiples of the stride it is always one.

    Said as a formula of sizes that are not known, it keeps the tracer busy for minutes.
    """
    layers: Any = import_module("timm.layers.conv2d_same")  # the package has a function of that name
    original = layers.pad_same

    def padded(x: Tensor, kernel: Any, stride: Any, dilation: Any = (1, 1), value: float = 0) -> Tensor:
        missing = [max((k - 1) * d + 1 - s, 0) for k, s, d in zip(kernel, stride, dilation, strict=True)]
        below, right = (total - total // 2 for total in missing)
        return functional.pad(x, (missing[1] // 2, right, missing[0] // 2, below), value=value)

    layers.pad_same = padded
    try:
        yield
    finally:
        layers.pad_same = original


def grid_means(x: Tensor, rows: int, cols: int) -> Tensor:
    """Means (n, channels, rows, cols) over the cells of a grid, as adaptive pooling forms them.

    Cell i of k covers pixels floor(i * size / k) to ceil((i + 1) * size / k).
    """
    return _cell_weights(x.shape[2], rows) @ x @ _cell_weights(x.shape[3], cols).T


def _cell_weights(size: int, cells: int) -> Tensor:
    """(cells, size): rows that add up to 1 over the pixels of each cell."""
    place, cell = torch.arange(size)[None], torch.arange(cells)[:, None]
    inside = (place >= cell * size // cells) & (place < -(-(cell + 1) * size // cells))
    weights = inside.float()
    return weights / weights.sum(dim=1, keepdim=True)


def _compare(model: Segmenter, card: Card, path: Path) -> float:
    """The largest difference of ONNX Runtime's logits from torch's on random patches of two sizes.

    Raises:
        PackageError: it is too large.
    """
    session = open_session(path, threads=1)
    bands, stride = len(card.bands), card.stride_px
    predictor = OrtPredictor(session, EXPORTED, bands=bands, stride_px=stride)
    rng, worst = np.random.default_rng(0), 0.0
    side = -(-_CHECK_PX // stride) * stride
    for shape in ((1, bands, side, 2 * side), (2, bands, 3 * side - 1, side)):
        batch = rng.standard_normal(shape, np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch)).numpy()
        largest = float(np.abs(predictor(batch) - expected).max())
        if not largest <= AGREEMENT * max(1.0, float(np.abs(expected).max())):
            raise PackageError(
                explain(
                    "the exported network answers differently",
                    at=f"random patches of shape {shape}",
                    expected=f"logits as torch computes them, to {AGREEMENT:g}",
                    found=f"a difference of {largest:.3g}",
                    change="Use --runtime torch, and report this with the model card.",
                )
            )
        worst = max(worst, largest)
    return worst
