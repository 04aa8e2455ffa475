"""SegNet: a VGG encoder and its mirror image, joined by the places of the maxima.

V. Badrinarayanan, A. Kendall and R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", PAMI 2017, arXiv:1511.00561.

    image -> [convs, pool] x 5 -> [unpool, convs] x 5 -> logits
                     |                 ^
                     +---- indices ----+      (no features are passed, only where each maximum was)

Every convolution is followed by batch normalisation and ReLU but the last, whose outputs are the classes.
The decoder of a stage has the stage's convolutions in reverse. Un-pooling is told the size before pooling, so
that odd sizes come back. The paper uses VGG-16; 11, 13 and 19 layers are the same construction.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from torch import Tensor, nn

from geoseg.errors import UsageError
from geoseg.models.catalogue import unknown
from geoseg.models.pretrained import read_tensors, spread_bands, unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

VGG_CONFIGURATIONS = {"vgg11_bn": "A", "vgg13_bn": "B", "vgg16_bn": "D", "vgg19_bn": "E"}
"""Encoders SegNet can be built on, with their configuration's letter in torchvision and the VGG paper."""


def vgg_stages(encoder_name: str) -> tuple[tuple[int, ...], ...]:
    """Channels of each convolution, stage by stage; a pooling follows each stage.

    Raises:
        UsageError: when the encoder is not one of VGG_CONFIGURATIONS.
    """
    if encoder_name not in VGG_CONFIGURATIONS:
        raise UsageError(unknown("encoder of segnet", encoder_name, VGG_CONFIGURATIONS))
    layers: Sequence[Any] = torchvision.models.vgg.cfgs[VGG_CONFIGURATIONS[encoder_name]]
    stages: list[tuple[int, ...]] = []
    stage: list[int] = []
    for layer in layers:
        if layer == "M":
            stages.append(tuple(stage))
            stage = []
        else:
            stage.append(int(layer))
    return tuple(stages)


def _convolutions(channels: Iterable[int]) -> nn.Sequential:
    """3x3 convolution, batch normalisation and ReLU from each width to the next."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        convolution = nn.Conv2d(before, after, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _torchvision_weights(encoder_name: str, weights_name: str) -> Mapping[str, Tensor]:
    """Downloaded (or cached) weights of a whole VGG."""
    if weights_name != "imagenet":
        raise UsageError(unknown(f"set of weights for {encoder_name}", weights_name, ["imagenet"]))
    weights = torchvision.models.get_model_weights(encoder_name).IMAGENET1K_V1
    # The file is a pickle; weights_only keeps it from running anything.
    state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    return state


class SegNet(nn.Module):
    """Input (n, in_channels, h, w) of at least 32 x 32; output logits (n, classes, h, w).

    Any such size works; results keep their phase on multiples of 32.
    """

    def __init__(
        self,
        *,
        encoder_name: str = "vgg16_bn",
        encoder_weights: str | None = None,
        in_channels: int = 3,
        classes: int = 1,
    ) -> None:
        super().__init__()
        stages = vgg_stages(encoder_name)
        inputs = [in_channels, *(stage[-1] for stage in stages[:-1])]
        self.encoders = nn.ModuleList(
            _convolutions([before, *stage]) for before, stage in zip(inputs, stages, strict=True)
        )
        widths = [[*reversed(stage), before] for before, stage in zip(inputs, stages, strict=True)]
        self.decoders = nn.ModuleList(_convolutions(w) for w in reversed(widths[1:]))
        # The stage next to the image ends in the classes, bare, instead of in the image's bands.
        last = _convolutions(widths[0][:-1])
        self.decoders.append(last.append(nn.Conv2d(widths[0][-2], classes, kernel_size=3, padding=1)))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        if encoder_weights is not None:
            self.load_vgg(_torchvision_weights(encoder_name, encoder_weights))

    @property
    def stride_px(self) -> int:
        """Image pixels per pixel after the last pooling."""
        return int(2 ** len(self.encoders))

    def load_vgg(self, state: Mapping[str, Tensor]) -> None:
        """Copy the convolutional part of torchvision's VGG with batch normalisation into the encoder.

        Layers correspond in order; files list them in any. The first convolution is spread over the bands.
        """
        ours = self.encoders.state_dict()
        layers = dict.fromkeys(name.rpartition(".")[0] for name in ours)
        numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
        given = dict(zip(layers, numbers, strict=True))
        for name in ours:
            layer, _, tensor = name.rpartition(".")
            if tensor != "num_batches_tracked":  # absent from older files, of no effect
                ours[name] = state[f"features.{given[layer]}.{tensor}"]
        first = next(iter(ours))
        ours[first] = spread_bands(ours[first], self.encoders[0][0].in_channels)  # type: ignore[index]
        self.encoders.load_state_dict(ours)

    def load_vgg_file(self, path: Path) -> None:
        """As `load_vgg`, from a safetensors file of torchvision's VGG."""
        state = read_tensors(path)
        try:
            self.load_vgg(state)
        except (ValueError, RuntimeError, KeyError) as error:
            wanted = f"the tensors features.* of a VGG with {len(self.encoders)} stages"
            raise unusable(path, wanted, f"{type(error).__name__}: {error}") from error

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes, h, w)."""
        places: list[tuple[Tensor, torch.Size]] = []
        for encoder in self.encoders:
            x = encoder(x)
            size = x.shape[-2:]
            x, indices = self.pool(x)
            places.append((indices, size))
        for decoder in self.decoders:
            indices, size = places.pop()
            x = decoder(self.unpool(x, indices, output_size=size))
        return x
