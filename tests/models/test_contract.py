"""What every architecture in the registry must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoseg.models.catalogue import architectures
from geoseg.models.registry import build
from geoseg.models.store import load_package, save_package

# Layers that an encoder carries and the network leaves out: below pspnet's depth of 3, and timm's own head.
_UNUSED = {
    "pspnet": tuple(f"network.encoder.features.{i}." for i in range(7, 19)),
    "dpt": ("network.encoder.model.norm.", "network.encoder.model.head."),
}


@pytest.mark.parametrize("name", list(architectures()))
class TestEveryArchitecture:
    @pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 64)])
    def test_gives_every_pixel_a_class_at_any_size(self, small_network, name, size):
        with torch.inference_mode():
            logits = small_network(name)(torch.randn(2, 4, *size))
        assert logits.shape == (2, 3, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        classes = logits.numpy().argmax(1)
        assert classes.shape == (2, *size)
        assert set(np.unique(classes)) <= {0, 1, 2}

    @pytest.mark.parametrize("bands", [1, 3, 13])
    def test_takes_any_number_of_bands_and_uses_each(self, cheap, name, bands):
        model = build(cheap(name), bands=bands, classes=2).eval()
        x = torch.randn(1, bands, 64, 64, requires_grad=True)
        model(x).square().sum().backward()
        assert (x.grad.abs().amax((0, 2, 3)) > 0).all()

    def test_trains(self, cheap, name):
        model = build(cheap(name), bands=4, classes=3).train()
        target = torch.arange(2 * 33 * 47).reshape(2, 33, 47) % 3
        loss = torch.nn.functional.cross_entropy(model(torch.randn(2, 4, 33, 47)), target)
        loss.backward()
        unused = _UNUSED.get(name, ())
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.startswith(unused) and unused:
                assert parameter.grad is None
            else:
                assert parameter.grad.isfinite().all(), parameter_name

    def test_padding_at_the_bottom_and_right_changes_nothing_but_the_size(self, small_network, name):
        model = small_network(name)
        x = torch.randn(1, 4, 33, 47)
        whole = torch.zeros(1, 4, *(-(-n // model.stride_px) * model.stride_px for n in (33, 47)))
        whole[..., :33, :47] = x
        with torch.inference_mode():
            assert torch.equal(model(x), model.network(whole)[..., :33, :47])

    def test_comes_back_from_a_package_bit_for_bit(self, cheap, card_fields, name, tmp_path):
        model = build(cheap(name), bands=4, classes=3).train()
        with torch.no_grad():
            model(torch.randn(2, 4, 64, 64))  # gives batch normalisation statistics worth keeping
        saved = save_package(tmp_path / "model", model=model, **card_fields(name))
        random_state = torch.random.get_rng_state()
        card, loaded = load_package(tmp_path / "model")
        assert torch.equal(torch.random.get_rng_state(), random_state)
        assert card == saved
        assert not loaded.training
        assert loaded.stride_px == model.stride_px == card.stride_px
        x = torch.randn(1, 4, 33, 47)
        with torch.inference_mode():
            assert torch.equal(loaded(x), model.eval()(x))
