"""The one shape every network is used in: any size in, as many logits out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Segmenter(nn.Module):
    """A network that takes every size from one pixel on.

    The image is padded with zeros, at the bottom and on the right only, to a multiple of `stride_px`; the
    result is cropped back. The upper-left corner stays where it is, so the phase of the network does, too:
    a patch whose origin is a multiple of `stride_px` is seen as it would be in the whole image.
    """

    def __init__(self, network: nn.Module, *, stride_px: int) -> None:
        if stride_px < 1:
            raise ValueError(f"stride_px {stride_px} must be at least 1")
        super().__init__()
        self.network = network
        self.stride_px = stride_px
        """Shifting the image by a multiple of this shifts the answer along; sizes are padded to it."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes, h, w), float32, for images (n, bands, h, w)."""
        height, width = x.shape[-2:]
        below, right = -height % self.stride_px, -width % self.stride_px
        if below or right:
            x = functional.pad(x, (0, right, 0, below))
        logits: Tensor = self.network(x)
        return logits[..., :height, :width].float()
