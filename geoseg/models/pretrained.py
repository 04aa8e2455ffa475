"""Encoder weights that come from elsewhere: a hub, by name, or a safetensors file on this machine."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from geoseg.errors import UsageError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

HubWeights = str | bool | None
"""What libraries want to hear: a name, for timm True (its encoder names include the weights), or None."""

_RGB = 3
_NEWLINE = "\n"
_SUFFIX = ".safetensors"


def local_file(encoder_weights: str | None) -> Path | None:
    """The file `encoder_weights` points to, or None when it names weights of a hub.

    Raises:
        UsageError: for a file of another kind; only safetensors cannot carry code.
    """
    if encoder_weights is None:
        return None
    path = Path(encoder_weights)
    if path.suffix == _SUFFIX:
        return path
    if path.exists() or path.suffix in {".pth", ".pt", ".ckpt", ".bin"}:
        raise UsageError(
            explain(
                "encoder weights cannot be read from this file",
                at=path,
                expected=f"a {_SUFFIX} file",
                found=f"a name that ends in {path.suffix!r}",
                change="Convert it with safetensors.torch.save_file: other formats can run code when loaded.",
            )
        )
    return None


@contextmanager
def downloads(encoder_name: str, encoder_weights: str | None) -> Iterator[None]:
    """Turn the many errors of a failed download into one that says what to do."""
    try:
        yield
    except OSError as error:
        if encoder_weights is None:
            raise
        raise UsageError(
            explain(
                "encoder weights could not be downloaded",
                at=f"weights {encoder_weights!r} of encoder {encoder_name!r}",
                expected="an answer from the model hub",
                found=f"{type(error).__name__}: {str(error).partition(_NEWLINE)[0].rstrip('.')}",
                change="Check the connection, or set `encoder_weights: null` to start from random weights, "
                f"or give the path of a local {_SUFFIX} file.",
            )
        ) from error


def spread_bands(weight: Tensor, bands: int) -> Tensor:
    """A first convolution for any number of bands from one for three.

    Shape (out, 3, kh, kw) -> (out, bands, kh, kw). Channels are repeated in turn, each copy with its share of
    the weight; fewer bands than channels share the sum evenly. Either way an image whose bands are all equal
    gives what it gave before.
    """
    given = weight.shape[1]
    if bands < given:
        return weight.sum(1, keepdim=True).expand(-1, bands, -1, -1) / bands
    source = torch.arange(bands) % given
    copies = torch.bincount(source, minlength=given)
    return weight[:, source] / copies[source].view(1, -1, 1, 1)


def load_encoder_file(encoder: nn.Module, path: Path, *, bands: int) -> None:
    """Fill `encoder` from the tensors in `path`; further tensors in the file are left alone.

    Names are the encoder's own, or those of a whole network with `encoder.` in front. A first convolution
    for another number of bands is spread over these.

    Raises:
        UsageError: when the file cannot be read or lacks a tensor, or one has another shape.
    """
    given = read_tensors(path)
    whole = {k.removeprefix("encoder."): v for k, v in given.items() if k.startswith("encoder.")}
    given = whole or given
    ours = encoder.state_dict()
    filled: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        theirs = given.get(name)
        if theirs is None and name.endswith("num_batches_tracked"):  # absent from older files, of no effect
            theirs = tensor
        if theirs is not None and _is_first_convolution(theirs, tensor, bands):
            theirs = spread_bands(theirs, bands)
        if theirs is None or theirs.shape != tensor.shape:
            found = "no such tensor" if theirs is None else f"shape {tuple(theirs.shape)}"
            raise unusable(path, f"tensor {name!r} of shape {tuple(tensor.shape)}", found)
        filled[name] = theirs
    encoder.load_state_dict(filled)


def _is_first_convolution(theirs: Tensor, ours: Tensor, bands: int) -> bool:
    """True for a convolution of colour images where ours takes `bands`."""
    return (
        theirs.ndim == 4  # noqa: PLR2004 - (out, in, kh, kw)
        and theirs.shape[1] == _RGB
        and ours.shape == (theirs.shape[0], bands, *theirs.shape[2:])
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors in a safetensors file.

    Raises:
        UsageError: when it is missing or something else.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise unusable(path, "a readable safetensors file", f"{type(error).__name__}: {error}") from error
    return tensors


def unusable(path: Path, expected: str, found: str) -> UsageError:
    """The error for weights that do not fit an encoder."""
    return UsageError(
        explain(
            "encoder weights cannot be used",
            at=path,
            expected=expected,
            found=found,
            change="Give the weights of this very encoder, or `encoder_weights: null` for random ones.",
        )
    )
