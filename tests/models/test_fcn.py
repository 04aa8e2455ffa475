from __future__ import annotations

import pytest
import torch
from torch import nn

from geoseg.models.fcn import FCN8s, FCN16s, FCN32s, bilinear_kernel, bilinear_upsampling

VARIANTS = [FCN32s, FCN16s, FCN8s]


def network(variant, **given):
    return variant(encoder_name="resnet18", in_channels=3, classes=2, head_channels=8, **given).eval()


class Answers(nn.Module):
    """Stands in for the encoder: answers the given features whatever the image."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, _image):
        return self.features


def constant_scores(variant, *, coarse, at16, at8):
    """A network on an image of 64 x 64 whose score maps are constants before they are fused."""
    net = network(variant)
    net.encoder = Answers([None, None, None, *(torch.zeros(1, 1, n, n) for n in (8, 4, 2))])
    net.fc6, net.fc7 = nn.Identity(), nn.Identity()
    net.score = constant(coarse)
    net.skip_scores = nn.ModuleList(constant(v) for v in (at16, at8)[: len(net.skip_scores)])
    return net


def constant(value):
    layer = nn.Conv2d(1, 2, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


class TestBilinearKernel:
    def test_factor_2_by_hand(self):
        by_hand = torch.tensor([[1, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]) / 16
        assert torch.equal(bilinear_kernel(2), by_hand)

    def test_factor_4_by_hand(self):
        row = torch.tensor([1, 3, 5, 7, 7, 5, 3, 1]) / 8
        assert torch.equal(bilinear_kernel(4), torch.outer(row, row))

    @pytest.mark.parametrize("factor", [0, 1, 3])
    def test_other_factors_are_refused(self, factor):
        with pytest.raises(ValueError, match="even number"):
            bilinear_kernel(factor)

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_layer_is_bilinear_inside_and_keeps_channels_apart(self, factor):
        layer = bilinear_upsampling(3, factor)
        x = torch.randn(1, 3, 5, 6)
        oracle = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        inner = slice(factor // 2, -(factor // 2))
        up = layer(x)
        assert up.shape == (1, 3, 5 * factor, 6 * factor)
        torch.testing.assert_close(up[..., inner, inner], oracle[..., inner, inner])
        assert layer.weight.requires_grad

    def test_one_pixel_by_hand(self):
        """A lone 16 spreads as 1 3 3 1 squared, centred: no shift of phase."""
        x = torch.zeros(1, 1, 3, 3)
        x[0, 0, 1, 1] = 16
        row = torch.tensor([0.0, 1, 3, 3, 1, 0])
        assert torch.equal(bilinear_upsampling(1, 2)(x)[0, 0], torch.outer(row, row))


class TestFusion:
    def test_sums_by_hand(self):
        """Inside, 1 up-sampled is 1; plus 10; up-sampled; plus 100."""
        net = constant_scores(FCN8s, coarse=1.0, at16=10.0, at8=100.0)
        coarse, middle, fine = net.score_maps(torch.zeros(1, 3, 64, 64))
        assert torch.equal(coarse, torch.ones(1, 2, 2, 2))
        # Edge weights of the kernel at a border of zeros: 3/4 outside, 1 inside.
        edge = torch.tensor([0.75, 1, 1, 0.75])
        torch.testing.assert_close(middle[0, 0], torch.outer(edge, edge) + 10)
        assert torch.allclose(fine[0, 0, 3:5, 3:5], torch.tensor(111.0))

    @pytest.mark.parametrize(("variant", "inside"), [(FCN32s, 1.0), (FCN16s, 11.0), (FCN8s, 111.0)])
    def test_each_variant_adds_its_skips(self, variant, inside):
        net = constant_scores(variant, coarse=1.0, at16=10.0, at8=100.0)
        logits = net(torch.zeros(1, 3, 64, 64))
        assert logits.shape == (1, 2, 64, 64)
        torch.testing.assert_close(logits[0, 0, 31, 31], torch.tensor(inside))

    def test_untrained_skips_leave_the_chain_of_upsamplings(self):
        net = network(FCN8s)
        x = torch.randn(1, 3, 96, 64)
        twice = bilinear_upsampling(2, 2)
        with torch.no_grad():
            chain = twice(twice(net.score_maps(x)[0]))
            chain = nn.functional.interpolate(chain, scale_factor=8, mode="bilinear", align_corners=False)
            assert torch.equal(net(x), chain)
        assert chain.abs().max() > 0

    def test_trained_skips_count(self):
        net = network(FCN8s)
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            before = net(x)
            for score in net.skip_scores:
                nn.init.ones_(score.weight)
                after = net(x)
                assert not torch.equal(before, after)
                before = after


@pytest.mark.parametrize(("variant", "strides"), [(FCN32s, [32]), (FCN16s, [32, 16]), (FCN8s, [32, 16, 8])])
def test_score_maps_have_the_strides_of_the_name(variant, strides):
    maps = network(variant).score_maps(torch.randn(1, 3, 96, 64))
    assert [m.shape for m in maps] == [(1, 2, 96 // s, 64 // s) for s in strides]


@pytest.mark.parametrize("variant", VARIANTS)
def test_last_upsampling_is_not_learned(variant):
    """Each factor-2 step is a layer with weights; the last step has none."""
    net = network(variant)
    steps = {FCN32s: 0, FCN16s: 1, FCN8s: 2}[variant]
    learned = [m for m in net.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(learned) == steps
    assert all(m.weight.shape == (2, 2, 4, 4) and m.weight.requires_grad for m in learned)


def test_head_has_the_width_of_the_paper_by_default():
    with torch.device("meta"):
        net = FCN32s(encoder_name="vgg16", in_channels=4, classes=21)
    assert net.fc6[0].weight.shape == (4096, 512, 7, 7)
    assert net.fc7[0].weight.shape == (4096, 4096, 1, 1)
    assert [type(m) for m in net.fc6] == [nn.Conv2d, nn.ReLU, nn.Dropout2d]
    assert net.score.weight.shape == (21, 4096, 1, 1)


def test_vgg_skips_are_pool4_and_pool3():
    net = FCN8s(encoder_name="vgg11", in_channels=3, classes=2, head_channels=8).eval()
    x = torch.randn(1, 3, 64, 64)
    pools = []
    with torch.no_grad():
        y = x
        for layer in net.encoder.features:
            y = layer(y)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(y)
        features = net.encoder(x)
        assert torch.equal(net._skip_feature(features, 4), pools[3])
        assert torch.equal(net._skip_feature(features, 3), pools[2])
    assert [s.in_channels for s in net.skip_scores] == [512, 256]
