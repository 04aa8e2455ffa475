"""Model packages on disk: a folder with `model.json` and its weights, nothing executable.

A package appears whole or not at all: its files are written to a folder beside it, flushed to disk, and the
folder is renamed. Loading checks the hash in the card before a byte of the weights is used, never unpickles,
and reaches for no network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model

from geoseg.errors import OutputError, PackageError, UsageError, explain
from geoseg.files import sha256
from geoseg.models.registry import build
from geoseg.models.weights import verified_weights
from geoseg.package import (
    CARD_NAME,
    PACKAGE_FILES,
    WEIGHTS_NAME,
    Architecture,
    Band,
    Card,
    GsdRange,
    read_card,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from geoseg.legend import Legend
    from geoseg.models.segmenter import Segmenter
    from geoseg.package import Context

_SHOWN = 3


def save_package(
    folder: Path,
    *,
    model: Segmenter,
    architecture: Architecture,
    bands: Sequence[Band],
    dtype: str,
    legend: Legend,
    patch_px: int,
    overlap_px: int,
    gsd: GsdRange | None = None,
    context: Context | None = None,
    call_bytes_per_px: int | None = None,
    licence: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    attach: Callable[[Path], None] | None = None,
    overwrite: bool = False,
) -> Card:
    """Write `model` and what prediction must know about it as the package `folder`; returns its card.

    Parameters and buffers alike are written, the statistics of batch normalisation included. `attach` may
    write further files, for people, into the folder it is given; they appear together with the package.

    Raises:
        OutputError: when something is there already and `overwrite` is not set, or is not a package.
    """
    folder = folder.absolute()
    require_free(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with appearing(folder) as partial:
        weights = partial / WEIGHTS_NAME
        save_model(model, str(weights))
        card = Card(
            architecture=architecture,
            bands=tuple(bands),
            dtype=dtype,
            legend=legend,
            gsd=gsd,
            patch_px=patch_px,
            overlap_px=overlap_px,
            stride_px=model.stride_px,
            context=context,
            call_bytes_per_px=call_bytes_per_px,
            weights_sha256=sha256(weights),
            licence=licence,
            provenance=dict(provenance or {}),
        )
        (partial / CARD_NAME).write_text(card.to_json(), "utf-8")
        if attach is not None:
            attach(partial)
    return card


def load_package(folder: Path, *, device: str = "cpu") -> tuple[Card, Segmenter]:
    """The card and the network of a package, in evaluation mode on `device`.

    Raises:
        PackageError: when the weights are an ONNX graph, a file is missing, the weights are not those the
            card was written for, or they do not fit the architecture the card names.
    """
    card = read_card(folder)
    if card.architecture is None or card.graph is not None:
        raise PackageError(
            explain(
                "this package cannot be loaded into torch",
                at=folder,
                expected=f"{WEIGHTS_NAME} and the architecture they belong to",
                found="an ONNX graph",
                change="Run it with --runtime onnxruntime or --runtime openvino.",
            )
        )
    weights = verified_weights(folder, card)
    state = _read_weights(weights)
    model = _empty_model(folder, card, card.architecture)
    _fill(model, state, weights)
    return card, model.eval().to(device)


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Returns when a package may be written as `folder`; call it before hours are spent, not after.

    Raises:
        OutputError: something is there already and `overwrite` is not set, or it is not a package.
    """
    if not folder.exists():
        return
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    is_package = CARD_NAME in inside and inside <= PACKAGE_FILES
    if not inside or (is_package and overwrite):
        return
    change = "Give --overwrite to replace it." if is_package else "Choose another folder."
    raise OutputError(
        explain(
            "the model package cannot be written",
            at=folder,
            expected="no such folder, or an empty one",
            found="a model package" if is_package else _foreign(inside),
            change=change,
        )
    )


def _foreign(inside: set[str]) -> str:
    names = sorted(inside - PACKAGE_FILES)
    return f"what is not a model package: {', '.join(names[:_SHOWN])}"


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name when the block ends well, and vanishes otherwise."""
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        for path in partial.iterdir():
            path.chmod(0o666 & ~_umask())
            _flush(path)
        _flush(partial)
        _replace(folder, partial)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Force a file or folder to disk, where the system can."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(folder: Path, partial: Path) -> None:
    """Rename `partial` to `folder`; what was there is put back when that fails."""
    if not folder.exists() or not any(folder.iterdir()):
        partial.replace(folder)  # an empty folder is replaced in one step
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    folder.replace(old)
    try:
        partial.replace(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old)


def _read_weights(weights: Path) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise PackageError(
            explain(
                "the weights cannot be read",
                at=weights,
                expected="a safetensors file",
                found=str(error),
                change="Other formats can run code when loaded and are refused; convert the weights.",
            )
        ) from error
    return state


def _empty_model(folder: Path, card: Card, architecture: Architecture) -> Segmenter:
    """The network the card names, its weights still to be filled in."""
    try:
        # Loading must not shift the random numbers of a training run it happens in.
        with torch.random.fork_rng(devices=[]):
            model = build(architecture, bands=len(card.bands), classes=len(card.legend))
    except UsageError as error:
        message = f"the model card names a network that cannot be built: {folder / CARD_NAME}. {error}"
        raise PackageError(message) from error
    if card.stride_px % model.stride_px:
        raise PackageError(
            explain(
                "the model card has the wrong stride",
                at=folder / CARD_NAME,
                expected=f"stride_px, a multiple of {model.stride_px}",
                found=card.stride_px,
                change="Make the package again with `geoseg train`.",
            )
        )
    return model


def _fill(model: Segmenter, state: dict[str, torch.Tensor], weights: Path) -> None:
    """Copy every tensor into its place; nothing may be missing, left over or of another shape."""
    ours = model.state_dict()
    shared = _shared_names(ours)
    missing = [n for n in ours if n not in state and not any(other in state for other in shared[n])]
    surplus = [n for n in state if n not in ours]
    shapes = [
        f"{n} {tuple(state[n].shape)} for {tuple(ours[n].shape)}"
        for n in ours
        if n in state and state[n].shape != ours[n].shape
    ]
    problems = (("missing", missing), ("not in the network", surplus), ("of another shape", shapes))
    found = "; ".join(f"{len(n)} {what} ({_some(n)})" for what, n in problems if n)
    if found:
        raise PackageError(
            explain(
                "the weights do not fit the network the card names",
                at=weights,
                expected=f"{len(ours)} tensors",
                found=found,
                change="Card and weights are from different models; copy the package again.",
            )
        )
    model.load_state_dict(state, strict=False)


def _shared_names(state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """For each name, all names of the same memory: a file holds shared tensors once."""
    by_place: dict[tuple[int, torch.Size, tuple[int, ...]], list[str]] = {}
    places = {n: (t.data_ptr(), t.shape, t.stride()) for n, t in state.items()}
    for name, place in places.items():
        by_place.setdefault(place, []).append(name)
    # Tensors without elements have no place of their own.
    return {n: by_place[p] if state[n].numel() else [n] for n, p in places.items()}


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
