"""Fully convolutional networks FCN-32s, FCN-16s and FCN-8s.

J. Long, E. Shelhamer and T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
arXiv:1411.4038.

    image -> encoder -> fc6 7x7 -> fc7 1x1 -> score 1x1 --x2--(+)--x2--(+)-- x8, x16 or x32 -> logits
                |                                              |        |
                +-- stride 16 -> score 1x1 (zero at first) ----+        |
                +-- stride 8  -> score 1x1 (zero at first) -------------+

As in the paper: two "fully connected" layers as convolutions with ReLU and dropout 0.5, coarse scores fused
with finer ones by sums, skip scores that start at zero, factor-2 up-sampling by transposed convolutions that
start as bilinear and are learned, and a last up-sampling that is bilinear and is not.

What differs:

- The paper pads the image by 100 pixels and crops what does not line up. Here fc6 is padded by 3 and every
  up-sampling keeps the phase (kernel 2f, stride f, padding f/2), so score maps fit without offsets.
- The last up-sampling repeats the edge where a transposed convolution would fade to zero; inside they
  are equal.
- Any encoder of segmentation-models-pytorch with strides 8, 16 and 32 serves. VGG encoders hand out features
  from before each pooling: they are pooled here, so that skips come from pool3 and pool4 as in the paper.
- The coarsest score starts random, not at zero, so that a network says something before it is trained.
- All three are trained in one stage; fc6 and fc7 start random unless weights are loaded.
"""

from __future__ import annotations

from typing import ClassVar

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

_DEPTH = 5
_COARSEST = 32


def bilinear_kernel(factor: int) -> Tensor:
    """Weights of bilinear up-sampling by an even `factor`, shape (2 factor, 2 factor).

    For factor 2 the outer product of (1, 3, 3, 1) / 4 with itself.
    """
    if factor < 2 or factor % 2:  # noqa: PLR2004 - an odd factor has no kernel of size 2f that keeps the phase
        raise ValueError(f"factor {factor} is not an even number of at least 2")
    place = torch.arange(2 * factor, dtype=torch.float32)
    ramp = 1 - (place - (factor - 0.5)).abs() / factor
    return torch.outer(ramp, ramp)


def bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A learnable up-sampling, bilinear at first: (n, c, h, w) -> (n, c, factor h, factor w)."""
    layer = nn.ConvTranspose2d(
        channels, channels, kernel_size=2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = bilinear_kernel(factor)
    return layer


def _zero_score(channels: int, classes: int) -> nn.Conv2d:
    """A 1x1 convolution that answers zero until it has been trained."""
    layer = nn.Conv2d(channels, classes, kernel_size=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _dense(channels: int, width: int, kernel: int, dropout: float) -> nn.Sequential:
    """What VGG calls a fully connected layer, as a convolution that keeps the size."""
    convolution = nn.Conv2d(channels, width, kernel_size=kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.ReLU(inplace=True), nn.Dropout2d(dropout))


class FCN32s(nn.Module):
    """One score map of stride 32; the finer variants add skips below it.

    Input (n, in_channels, h, w) with h and w multiples of 32; output logits (n, classes, h, w).
    """

    finest: ClassVar[int] = _COARSEST
    """Stride of the finest score map, and factor of the last up-sampling."""

    def __init__(
        self,
        *,
        encoder_name: str = "vgg16",
        encoder_weights: str | None = None,
        in_channels: int = 3,
        classes: int = 1,
        head_channels: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder = smp.encoders.get_encoder(
            encoder_name, in_channels=in_channels, depth=_DEPTH, weights=encoder_weights
        )
        # The channels before a pooling are the channels after it, one level further down.
        self._shift = 1 if encoder_name.startswith("vgg") else 0
        channels: list[int] = self.encoder.out_channels
        self.fc6 = _dense(channels[_DEPTH], head_channels, 7, dropout)
        self.fc7 = _dense(head_channels, head_channels, 1, dropout)
        self.score = nn.Conv2d(head_channels, classes, kernel_size=1)
        skips = self._skip_levels()
        self.skip_scores = nn.ModuleList(_zero_score(channels[lv - self._shift], classes) for lv in skips)
        self.upsamplings = nn.ModuleList(bilinear_upsampling(classes, 2) for _ in skips)

    def _skip_levels(self) -> tuple[int, ...]:
        """Levels (stride 2**level) whose scores are added, coarsest first."""
        return tuple(range(_DEPTH - 1, self.finest.bit_length() - 2, -1))

    def _skip_feature(self, features: list[Tensor], level: int) -> Tensor:
        """The encoder's features of stride 2**level."""
        feature = features[level - self._shift]
        return functional.max_pool2d(feature, 2) if self._shift else feature

    def score_maps(self, x: Tensor) -> list[Tensor]:
        """Fused scores at strides 32, 16, ... down to `finest`, coarsest first."""
        features: list[Tensor] = self.encoder(x)
        maps: list[Tensor] = [self.score(self.fc7(self.fc6(features[_DEPTH])))]
        for level, score, upsample in zip(
            self._skip_levels(), self.skip_scores, self.upsamplings, strict=True
        ):
            maps.append(upsample(maps[-1]) + score(self._skip_feature(features, level)))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes, h, w)."""
        return functional.interpolate(
            self.score_maps(x)[-1], scale_factor=self.finest, mode="bilinear", align_corners=False
        )


class FCN16s(FCN32s):
    """FCN-32s with one skip, from stride 16."""

    finest: ClassVar[int] = 16


class FCN8s(FCN32s):
    """FCN-32s with two skips, from strides 16 and 8."""

    finest: ClassVar[int] = 8
