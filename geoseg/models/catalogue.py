"""The architectures and runtimes geoseg knows, as plain values: neither torch nor its friends are imported.

`geoseg.models.registry` turns an architecture into a network, `geoseg.models.runtime` loads a package into a
runtime; these tables are what the command line prints.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from geoseg.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from geoseg.models.cuda import Precision

Context = Literal["local", "global"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureInfo:
    """One architecture: what it is, where it comes from and how it is made."""

    name: str
    """Key in the registry and in model cards."""
    summary: str
    """One line on what distinguishes it."""
    paper: str
    """Authors, year and where to read it."""
    default_encoder: str
    """Encoder used when none is named."""
    constructor: str
    """`module:class`, imported only when a network is built."""
    context: Context
    """local: an output pixel sees a bounded neighbourhood and does not depend on the size of the patch,
    so tiles can equal the whole image. global: pooling, attention or corner-aligned resizing make every
    pixel depend on the whole patch, so overlapping patches should be blended. Said of the decoder and its
    default encoder: squeeze-and-excitation or attention in another encoder makes any network global."""
    phase_factor: int = 1
    """Further halvings below the encoder's output stride, as one factor."""


def _smp(
    name: str, constructor: str, context: Context, summary: str, paper: str, *, encoder: str = "resnet34"
) -> ArchitectureInfo:
    """An entry that segmentation-models-pytorch builds."""
    return ArchitectureInfo(
        name=name,
        summary=summary,
        paper=paper,
        default_encoder=encoder,
        constructor=f"segmentation_models_pytorch:{constructor}",
        context=context,
        # PAN's pyramid attention pools three more times below the encoder's stride.
        phase_factor=8 if name == "pan" else 1,
    )


def _fcn(finest: int, summary: str) -> ArchitectureInfo:
    """The FCN whose finest score map has stride `finest`."""
    return ArchitectureInfo(
        name=f"fcn{finest}s",
        summary=summary,
        paper="Long, Shelhamer, Darrell 2015, arXiv:1411.4038",
        default_encoder="vgg16",
        constructor=f"geoseg.models.fcn:FCN{finest}s",
        context="local",
    )


_ENTRIES = (
    _fcn(32, "Fully convolutional network, one score map of stride 32"),
    _fcn(16, "Fully convolutional network, scores of strides 32 and 16 fused"),
    _fcn(8, "Fully convolutional network, scores of strides 32, 16 and 8 fused"),
    ArchitectureInfo(
        name="segnet",
        summary="VGG encoder, mirrored decoder that unpools with the encoder's own max locations",
        paper="Badrinarayanan, Kendall, Cipolla 2017, arXiv:1511.00561",
        default_encoder="vgg16_bn",
        constructor="geoseg.models.segnet:SegNet",
        context="local",
    ),
    _smp(
        "unet",
        "Unet",
        "local",
        "Encoder and decoder joined by skip connections at every scale",
        "Ronneberger, Fischer, Brox 2015, arXiv:1505.04597",
    ),
    _smp(
        "unetplusplus",
        "UnetPlusPlus",
        "local",
        "U-Net with nested, densely connected skips",
        "Zhou, Siddiquee, Tajbakhsh, Liang 2018, arXiv:1807.10165",
    ),
    _smp(
        "manet",
        "MAnet",
        "global",
        "U-Net with position-wise and multi-scale attention in the decoder",
        "Fan, Wang, Li, Wang 2020, doi:10.1109/ACCESS.2020.3025372",
    ),
    _smp(
        "linknet",
        "Linknet",
        "local",
        "Light U-Net whose skips are added, not concatenated",
        "Chaurasia, Culurciello 2017, arXiv:1707.03718",
    ),
    _smp(
        "fpn",
        "FPN",
        "global",
        "Feature pyramid whose levels are all brought to one scale and summed",
        "Kirillov, Girshick, He, Dollar 2019, arXiv:1901.02446",
    ),
    _smp(
        "pspnet",
        "PSPNet",
        "global",
        "Pyramid pooling over four grids of the whole patch",
        "Zhao, Shi, Qi, Wang, Jia 2017, arXiv:1612.01105",
    ),
    _smp(
        "deeplabv3",
        "DeepLabV3",
        "global",
        "Dilated encoder and atrous spatial pyramid pooling",
        "Chen, Papandreou, Schroff, Adam 2017, arXiv:1706.05587",
    ),
    _smp(
        "deeplabv3plus",
        "DeepLabV3Plus",
        "global",
        "DeepLabV3 with a skip connection that sharpens borders",
        "Chen, Zhu, Papandreou, Schroff, Adam 2018, arXiv:1802.02611",
    ),
    _smp(
        "pan",
        "PAN",
        "global",
        "Pyramid attention network",
        "Li, Xiong, An, Wang 2018, arXiv:1805.10180",
    ),
    _smp(
        "upernet",
        "UPerNet",
        "global",
        "Pyramid pooling on top of a feature pyramid",
        "Xiao, Liu, Zhou, Jiang, Sun 2018, arXiv:1807.10221",
    ),
    _smp(
        "segformer",
        "Segformer",
        "global",
        "Hierarchical transformer encoder with a plain per-pixel decoder",
        "Xie, Wang, Yu, Anandkumar, Alvarez, Luo 2021, arXiv:2105.15203",
        encoder="mit_b0",
    ),
    _smp(
        "dpt",
        "DPT",
        "global",
        "Vision transformer whose tokens are reassembled into a feature pyramid",
        "Ranftl, Bochkovskiy, Koltun 2021, arXiv:2103.13413",
        encoder="tu-vit_base_patch16_224",
    ),
)

_BY_NAME: Mapping[str, ArchitectureInfo] = MappingProxyType({e.name: e for e in _ENTRIES})


def architectures() -> Mapping[str, ArchitectureInfo]:
    """Every architecture by name, in the order they are shown."""
    return _BY_NAME


def describe(name: str) -> ArchitectureInfo:
    """The entry called `name`.

    Raises:
        UsageError: when there is none; lists the names and the closest one.
    """
    if name not in _BY_NAME:
        raise UsageError(unknown("architecture", name, _BY_NAME))
    return _BY_NAME[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeInfo:
    """One runtime: what it is, where it runs and what it needs."""

    summary: str
    """One line for users."""
    cpu: bool = False
    """It runs on the CPU."""
    cuda: bool = False
    """It runs on NVIDIA GPUs."""
    module: str = "torch"
    """What must be installed."""
    extra: str | None = None
    """The extra of geoseg that brings it; None: geoseg does."""
    folded: bool = False
    """Batch normalisation is folded into convolutions."""
    precision: Precision = "float32"
    """Of convolutions and matrix products."""
    compiled: bool = False
    """By torch.compile."""

    @property
    def installed(self) -> bool:
        """The module it needs is here."""
        return find_spec(self.module) is not None


RUNTIMES: Mapping[str, RuntimeInfo] = MappingProxyType(
    {
        "torch": RuntimeInfo(summary="PyTorch in float32: the reference", cpu=True, cuda=True),
        "torch-folded": RuntimeInfo(
            summary="as torch, batch normalisation folded into convolutions", cpu=True, cuda=True, folded=True
        ),
        "torch-bf16": RuntimeInfo(summary="PyTorch in bfloat16", cuda=True, precision="bfloat16"),
        "torch-fp16": RuntimeInfo(summary="PyTorch in float16", cuda=True, precision="float16"),
        "torch-compile": RuntimeInfo(
            summary="PyTorch in bfloat16, compiled: slow to start",
            cuda=True,
            precision="bfloat16",
            compiled=True,
        ),
        "onnxruntime": RuntimeInfo(
            summary="ONNX Runtime in float32", cpu=True, module="onnxruntime", extra="onnx"
        ),
        "openvino": RuntimeInfo(summary="OpenVINO in float32", cpu=True, module="openvino", extra="openvino"),
    }
)
"""Every runtime by name, the reference first."""


def unknown(what: str, given: str, valid: Iterable[str]) -> str:
    """A message that says `given` is no `what`, names the closest valid one and lists them all."""
    names = list(valid)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no {what} {given!r}.{hint} Choose one of: {', '.join(names)}"
