"""From a name in a model card to a network: one way in for every architecture."""

from __future__ import annotations

import inspect
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from geoseg.errors import UsageError, explain
from geoseg.models.catalogue import ArchitectureInfo, architectures, describe, unknown
from geoseg.models.pretrained import HubWeights, downloads, load_encoder_file, local_file
from geoseg.models.segmenter import Segmenter
from geoseg.models.segnet import VGG_CONFIGURATIONS, SegNet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from geoseg.package import Architecture

__all__ = ["architectures", "build", "encoders", "options", "stride_of"]

_TIMM = "tu-"
_OURS = frozenset({"encoder_name", "encoder_weights", "in_channels", "classes"})
"""Arguments geoseg fills in itself."""
_NOT_OFFERED = frozenset({"activation", "aux_params"})
"""Arguments that would make the output something other than logits."""
_DILATING = frozenset({"deeplabv3", "deeplabv3plus", "pan"})
"""These replace the last strides of their encoder by dilation."""
_UNDILATED = ("vgg", "densenet", "inception", "xception", "mit_b")
"""Families that cannot be dilated. Mix transformers only seem to: their attention would no longer be reduced,
and its memory would grow with the square of the patch."""
_STRIDE_PX = 32
"""Coarsest stride of a whole encoder. Shallow and dilated ones are held to it, too: the attention of mix
transformers repeats on it from the first stage, and EfficientNet's fixed padding needs as many pixels."""
_VIT_PATCHES = ("patch8_", "patch16_", "patch32_")
"""Token sizes that DPT's decoder can reassemble to whole multiples (14 it cannot)."""


def encoders(architecture_name: str) -> tuple[str, ...]:
    """Encoders that work with an architecture, as they are written in a card.

    Those of timm come on top: `tu-` and the name of any timm model with a feature pyramid is accepted by
    every architecture but segnet and dpt, and tried out when the network is built. For dpt the vision
    transformers of timm are listed in full.
    """
    info = describe(architecture_name)
    if info.name == "segnet":
        return tuple(VGG_CONFIGURATIONS)
    if info.name == "dpt":
        return _vision_transformers()
    return tuple(name for name in _smp_encoders() if _fits(info.name, name))


def _smp_encoders() -> Mapping[str, Mapping[str, Any]]:
    """SMP's own encoders; those called `timm-` are deprecated there in favour of `tu-`."""
    return {k: v for k, v in smp.encoders.encoders.items() if not k.startswith("timm-")}


def _vision_transformers() -> tuple[str, ...]:
    names: list[str] = timm.list_models(module="vision_transformer") + timm.list_models("deit*_patch*")
    return tuple(f"{_TIMM}{n}" for n in names if any(patch in n for patch in _VIT_PATCHES))


def _fits(architecture_name: str, encoder: str) -> bool:
    """False for the pairs SMP cannot make: no dilation, or no features of stride 2."""
    if architecture_name in _DILATING:
        return not encoder.startswith(_UNDILATED)
    return architecture_name not in {"unetplusplus", "linknet"} or not encoder.startswith("mit_b")


def build(
    architecture: Architecture, *, bands: int, classes: int, encoder_weights: str | None = None
) -> Segmenter:
    """A network with random weights, or with an encoder trained elsewhere.

    `encoder_weights` is None, a set of weights the encoder's library knows ("imagenet"), or the path of a
    safetensors file.

    Raises:
        UsageError: for an unknown architecture, encoder, option or set of weights, a combination that
            cannot be built, or weights that cannot be downloaded. Names what would be valid.
    """
    info = describe(architecture.name)
    _check_options(info, architecture)
    _check_encoder(info, architecture.encoder)
    file = local_file(encoder_weights)
    hub_weights = None if file else _hub_weights(info, architecture.encoder, encoder_weights)
    with downloads(architecture.encoder, None if file else encoder_weights):
        network = _construct(info, architecture, bands=bands, classes=classes, weights=hub_weights)
    if file:
        _load_file(network, file, bands=bands)
    segmenter = Segmenter(network, stride_px=stride_of(info.name, network))
    if architecture.encoder.startswith(_TIMM):
        _try_out(segmenter, architecture, bands)
    return segmenter


def _constructor(info: ArchitectureInfo) -> Callable[..., nn.Module]:
    module, _, name = info.constructor.partition(":")
    constructor: Callable[..., nn.Module] = getattr(import_module(module), name)
    return constructor


def options(architecture_name: str) -> Mapping[str, object]:
    """Options an architecture takes, with their defaults."""
    signature = inspect.signature(_constructor(describe(architecture_name)))
    return {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in _OURS | _NOT_OFFERED
    }


def _check_options(info: ArchitectureInfo, architecture: Architecture) -> None:
    valid = options(info.name)
    for name in architecture.options:
        if name not in valid:
            raise UsageError(unknown(f"option of {info.name}", name, valid))


def _check_encoder(info: ArchitectureInfo, encoder: str) -> None:
    valid = encoders(info.name)
    if encoder in valid:
        return
    takes_timm = info.name != "segnet"
    if takes_timm and encoder.startswith(_TIMM) and timm.is_model(encoder.removeprefix(_TIMM)):
        return
    more = f", or {_TIMM} and the name of a timm model" if takes_timm else ""
    raise UsageError(unknown(f"encoder of {info.name}", encoder, valid) + more)


def _hub_weights(info: ArchitectureInfo, encoder: str, weights: str | None) -> HubWeights:
    """`weights` as the constructor wants to hear of them."""
    if weights is None or info.name == "segnet":
        return weights
    if encoder.startswith(_TIMM):
        if not timm.models.is_model_pretrained(encoder.removeprefix(_TIMM)):
            raise UsageError(f"timm has no weights for encoder {encoder!r}; set `encoder_weights: null`")
        return True
    known = _smp_encoders()[encoder]["pretrained_settings"]
    if weights not in known:
        raise UsageError(unknown(f"set of weights for {encoder}", weights, known))
    return weights


def _encoder_options(info: ArchitectureInfo, encoder: str) -> dict[str, bool]:
    """What makes timm's transformers take patches of any size."""
    if info.name == "dpt":
        return {"dynamic_img_size": True}
    return {"strict_img_size": False} if encoder.startswith(f"{_TIMM}swin") else {}


def _construct(
    info: ArchitectureInfo, architecture: Architecture, *, bands: int, classes: int, weights: HubWeights
) -> nn.Module:
    try:
        return _constructor(info)(
            encoder_name=architecture.encoder,
            encoder_weights=weights,
            in_channels=bands,
            classes=classes,
            **_encoder_options(info, architecture.encoder),
            **architecture.options,
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
        RuntimeError,
        AttributeError,
        IndexError,
    ) as error:
        if isinstance(error, OSError | UsageError):  # a download that failed is told elsewhere
            raise
        raise _cannot_be_built(architecture, error) from error


def _try_out(segmenter: Segmenter, architecture: Architecture, bands: int) -> None:
    """Run once on a patch that is not square: many timm models accept one fixed size only."""
    side = segmenter.stride_px
    was_training = segmenter.training
    try:
        with torch.inference_mode():
            segmenter.eval()(torch.zeros(1, bands, side, 2 * side))
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise _cannot_be_built(architecture, error) from error
    segmenter.train(was_training)


def _cannot_be_built(architecture: Architecture, error: Exception) -> UsageError:
    return UsageError(
        explain(
            "this network cannot be built",
            at=f"{architecture.name} on {architecture.encoder} with options {architecture.options}",
            expected="an encoder and options that fit the architecture and patches of any size",
            found=f"{type(error).__name__}: {error}",
            change=f"Try encoder {describe(architecture.name).default_encoder!r} without options first.",
        )
    )


def _load_file(network: nn.Module, file: Path, *, bands: int) -> None:
    if isinstance(network, SegNet):
        network.load_vgg_file(file)
    else:
        load_encoder_file(network.get_submodule("encoder"), file, bands=bands)


def stride_of(architecture_name: str, network: nn.Module) -> int:
    """The shift in pixels on which a network's phase repeats; sizes must be multiples of it.

    It is the coarsest stride anywhere in the network: of the encoder, times further halvings in the decoder
    (pan), times the side of attention windows (Swin), or the coarsest level dpt makes of its tokens. Always a
    multiple of 32.
    """
    if isinstance(network, SegNet):
        return network.stride_px
    encoder: Any = network.get_submodule("encoder")
    if architecture_name == "dpt":
        levels = len(encoder.output_strides)
        return math.lcm(_STRIDE_PX, encoder.output_stride, 2 ** (levels + 1))
    windows = {w for module in encoder.modules() for w in _window(module)}
    coarsest = int(encoder.output_stride) * describe(architecture_name).phase_factor
    return math.lcm(_STRIDE_PX, coarsest * math.lcm(*windows))


def _window(module: nn.Module) -> tuple[int, ...]:
    """Sides of an attention window in tokens; empty for every other module."""
    size = getattr(module, "window_size", ())
    return (size,) if isinstance(size, int) else tuple(size)
