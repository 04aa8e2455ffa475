from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from geoseg.errors import UsageError
from geoseg.models import fold as fold_module
from geoseg.models.catalogue import architectures
from geoseg.models.fold import TOLERANCE, fold
from geoseg.models.segmenter import Segmenter


def norms(model):
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def live(model):
    """Statistics, gains and shifts as after training: nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            tensors = [m.running_var, m.running_mean, *([m.weight, m.bias] if m.affine else [])]
            with torch.no_grad():
                for tensor in tensors:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


class Net(nn.Module):
    def __init__(self, forward=None, *, norm=None, **convolution):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, **{"padding": 1, **convolution})
        self.norm = norm or nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)
        self.way = forward or (lambda net, x: net.norm(net.conv(x)))

    def forward(self, x):
        return self.head(self.way(self, x))


def segmenter(*arguments, **options):
    return live(Segmenter(Net(*arguments, **options), stride_px=4))


@pytest.mark.parametrize("name", [n for n in architectures() if n not in {"segformer", "dpt"}])
def test_every_architecture_stays_the_same_function(small_network, name):
    model = live(copy.deepcopy(small_network(name)))
    before = norms(model)
    folded = fold(model, bands=4)
    assert norms(model) == before, "the network given must stay as it was"
    # Left are linknet's, which follow transposed convolutions, and layers pspnet never runs.
    left = {"linknet": 5, "pspnet": 13}.get(name, 0)
    assert norms(folded.model) == left
    assert folded.pairs == before - left
    x = torch.randn(1, 4, 71, 50)
    with torch.inference_mode():
        wanted, found = model(x), folded.model(x)
    assert (wanted - found).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"groups": 2},
        {"stride": 2},
        {"padding_mode": "reflect"},
        {"norm": nn.BatchNorm2d(4, affine=False)},
        {"norm": nn.BatchNorm2d(4, eps=0.1)},
        {"norm": BatchNormAct2d(4, act_layer=nn.SiLU)},
    ],
    ids=str,
)
def test_pairs_of_every_kind(options):
    model = segmenter(**options)
    folded = fold(model, bands=2)
    assert folded.pairs == 1
    assert norms(folded.model) == 0
    assert folded.difference < 1e-5
    x = torch.randn(2, 2, 16, 24)
    if options.get("stride") != 2:
        torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "way",
    [
        lambda net, x: net.norm(y := net.conv(x)) + y,
        lambda net, x: net.norm(net.conv(x).relu_()),
        lambda net, x: net.norm(net.conv(x).add_(1)),
        lambda net, x: net.norm(net.conv(x)) + net.conv(x * 2),
        lambda net, x: net.norm(net.norm(net.conv(x))),
        lambda net, x: net.norm(net.conv(x)) * net.conv.weight.std(),
        lambda net, x: net.norm(net.conv(x)[..., :4, :4]),
        lambda net, x: net.norm(net.conv(x)) + net.norm.running_mean.mean(),
    ],
)
def test_what_somebody_else_looks_at_is_left_alone(way):
    with pytest.raises(UsageError, match=r"cannot be folded.*found no such pair.*runtime torch"):
        fold(segmenter(way), bands=2)


def test_a_network_without_pairs(small_network):
    with pytest.raises(UsageError, match="no such pair"):
        fold(small_network("dpt").__class__(nn.Conv2d(4, 2, 1), stride_px=8), bands=4)


def test_another_answer_is_refused(monkeypatch):
    absorb = fold_module._absorb

    def careless(convolution, normalisation):
        absorb(convolution, normalisation)
        with torch.no_grad():
            convolution.bias.add_(0.01)

    monkeypatch.setattr(fold_module, "_absorb", careless)
    with pytest.raises(UsageError, match=r"found logits that change by \d\.\de-0\d of the largest"):
        fold(segmenter(), bands=2)


def test_no_number_is_no_agreement():
    model = segmenter()
    with torch.no_grad():
        model.network.norm.weight.fill_(torch.nan)
    with pytest.raises(UsageError, match="change by nan"):
        fold(model, bands=2)
