from __future__ import annotations

import pytest
import torch
from torch import nn

from geoseg.models.segmenter import Segmenter


class Watched(nn.Module):
    """Answers twice what it sees and remembers its shape."""

    def forward(self, x):
        self.seen = x
        return (2 * x).to(torch.float64)


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (8, 8)), ((8, 16), (8, 16)), ((9, 7), (16, 8))])
def test_pads_below_and_right_with_zeros_and_crops(size, padded):
    network = Watched()
    x = torch.randn(2, 3, *size)
    y = Segmenter(network, stride_px=8)(x)
    assert network.seen.shape[-2:] == padded
    assert torch.equal(network.seen[..., : size[0], : size[1]], x)
    assert not network.seen[..., size[0] :, :].any()
    assert not network.seen[..., size[1] :].any()
    assert y.dtype == torch.float32
    assert torch.equal(y, 2 * x)


def test_stride_is_at_least_one():
    with pytest.raises(ValueError, match="stride_px 0 must be at least 1"):
        Segmenter(nn.Identity(), stride_px=0)
