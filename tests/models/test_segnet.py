from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from geoseg.errors import UsageError
from geoseg.models.segnet import SegNet, vgg_stages


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_unpooling_puts_each_maximum_back_in_its_place():
    net = SegNet(encoder_name="vgg11_bn", in_channels=1, classes=2)
    x = torch.tensor(
        [
            [1.0, 2.0, 0.0, -1.0],
            [3.0, 0.0, -2.0, -3.0],
            [5.0, 5.0, 1.0, 2.0],
            [4.0, 1.0, 8.0, 7.0],
        ]
    )[None, None]
    pooled, places = net.pool(x)
    assert pooled.tolist() == [[[[3.0, 0.0], [5.0, 8.0]]]]
    back = net.unpool(torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]]), places, output_size=(4, 4))
    assert back[0, 0].tolist() == [
        [0.0, 0.0, 20.0, 0.0],
        [10.0, 0.0, 0.0, 0.0],
        [30.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 40.0, 0.0],
    ]


def test_decoders_use_the_indices_of_their_own_encoder():
    """With convolutions that pass everything on, only each window's maximum survives, in place."""
    net = SegNet(encoder_name="vgg11_bn", in_channels=1, classes=1)
    net.encoders = nn.ModuleList(nn.Identity() for _ in range(5))
    net.decoders = nn.ModuleList(nn.Identity() for _ in range(5))
    x = torch.rand(1, 1, 64, 96)
    expected = torch.zeros_like(x)
    for row in range(0, 64, 32):
        for col in range(0, 96, 32):
            window = x[0, 0, row : row + 32, col : col + 32]
            at = divmod(int(window.argmax()), 32)
            expected[0, 0, row + at[0], col + at[1]] = window.max()
    assert torch.equal(net(x), expected)


@pytest.mark.parametrize(
    ("encoder", "count"), [("vgg11_bn", 8), ("vgg13_bn", 10), ("vgg16_bn", 13), ("vgg19_bn", 16)]
)
def test_decoder_mirrors_the_encoder(encoder, count):
    with torch.device("meta"):
        net = SegNet(encoder_name=encoder, in_channels=6, classes=5)
    down, up = convolutions(net.encoders), convolutions(net.decoders)
    assert len(down) == len(up) == count
    assert down[0].in_channels == 6
    assert up[-1].out_channels == 5
    mirrored = [(c.out_channels, c.in_channels) for c in reversed(down)]
    assert [(c.in_channels, c.out_channels) for c in up[:-1]] == mirrored[:-1]
    assert up[-1].in_channels == 64
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 2 * count - 1


def test_stages_of_vgg16_as_in_the_paper():
    assert vgg_stages("vgg16_bn") == (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )


def test_last_convolution_is_bare():
    net = SegNet(encoder_name="vgg11_bn", in_channels=3, classes=2)
    assert isinstance(net.decoders[-1][-1], nn.Conv2d)


@pytest.mark.parametrize("size", [(33, 47), (63, 32), (95, 70)])
def test_odd_sizes_are_restored(size):
    net = SegNet(encoder_name="vgg11_bn", in_channels=2, classes=3).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.fixture(scope="module")
def vgg():
    """torchvision's own network without its 120 million dense weights."""
    torch.manual_seed(1)
    cfgs, make_layers = torchvision.models.vgg.cfgs, torchvision.models.vgg.make_layers
    features = make_layers(cfgs["A"], batch_norm=True)
    features(torch.randn(2, 3, 64, 64))  # statistics other than 0 and 1
    return nn.ModuleDict({"features": features}).eval()


class TestWeights:
    def test_three_bands_answer_as_torchvision_does(self, vgg):
        net = SegNet(encoder_name="vgg11_bn", in_channels=3, classes=2).eval()
        net.load_vgg(vgg.state_dict())
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            ours = x
            for encoder in net.encoders:
                ours = net.pool(encoder(ours))[0]
            assert torch.equal(ours, vgg["features"](x))

    @pytest.mark.parametrize("bands", [1, 5])
    def test_grey_images_answer_the_same_with_other_bands(self, vgg, bands):
        net = SegNet(encoder_name="vgg11_bn", in_channels=bands, classes=2).eval()
        net.load_vgg(vgg.state_dict())
        grey = torch.randn(1, 1, 32, 32)
        with torch.no_grad():
            ours = net.encoders[0][0](grey.expand(-1, bands, -1, -1))
            theirs = vgg["features"][0](grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_files_of_other_networks_are_refused(self, vgg, tmp_path):
        path = tmp_path / "vgg11.safetensors"
        save_file(vgg.state_dict(), path)
        same = SegNet(encoder_name="vgg11_bn", in_channels=3, classes=2)
        same.load_vgg_file(path)
        last = vgg["features"][-4]
        assert isinstance(last, nn.Conv2d)
        assert torch.equal(same.encoders[-1][-3].weight, last.weight)
        other = SegNet(encoder_name="vgg13_bn", in_channels=4, classes=2)
        with pytest.raises(UsageError, match=r"cannot be used: .*vgg11\.safetensors"):
            other.load_vgg_file(path)

    def test_unknown_set_of_weights(self):
        with pytest.raises(UsageError, match=r"no set of weights for vgg11_bn 'places'"):
            SegNet(encoder_name="vgg11_bn", encoder_weights="places")
