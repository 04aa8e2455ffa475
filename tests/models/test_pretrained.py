from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from safetensors.torch import load_file, save_file

from geoseg.errors import UsageError
from geoseg.models.pretrained import load_encoder_file, local_file, spread_bands
from geoseg.models.registry import build
from geoseg.package import Architecture


def make(name, encoder, weights, bands=3):
    architecture = Architecture(name=name, encoder=encoder)
    return build(architecture, bands=bands, classes=2, encoder_weights=str(weights))


@pytest.fixture
def encoder_file(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), path)
    return path


class TestSpreadBands:
    def test_by_hand(self):
        weight = torch.tensor([6.0, 12.0, 30.0]).view(1, 3, 1, 1)
        assert spread_bands(weight, 1).flatten().tolist() == [48.0]
        assert spread_bands(weight, 2).flatten().tolist() == [24.0, 24.0]
        assert spread_bands(weight, 3) is not None
        assert spread_bands(weight, 3).flatten().tolist() == [6.0, 12.0, 30.0]
        assert spread_bands(weight, 5).flatten().tolist() == [3.0, 6.0, 30.0, 3.0, 6.0]

    @pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 13])
    def test_keeps_the_answer_to_grey(self, bands):
        weight = torch.randn(8, 3, 3, 3)
        torch.testing.assert_close(spread_bands(weight, bands).sum(1), weight.sum(1))


class TestLocalFiles:
    def test_fill_the_encoder(self, encoder_file):
        saved = load_file(encoder_file)
        ours = make("unet", "resnet18", encoder_file).network.encoder.state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in saved.items())

    def test_are_spread_over_other_bands(self, encoder_file):
        first = load_file(encoder_file)["conv1.weight"]
        ours = make("unet", "resnet18", encoder_file, bands=5).network.encoder.conv1.weight
        assert torch.equal(ours, spread_bands(first, 5))

    def test_of_a_whole_network_serve_its_encoder(self, encoder_file, tmp_path):
        saved = load_file(encoder_file)
        whole = {f"encoder.{k}": v for k, v in saved.items()} | {"head.weight": torch.zeros(1)}
        save_file(whole, tmp_path / "whole.safetensors")
        encoder = smp.encoders.get_encoder("resnet18", weights=None)
        load_encoder_file(encoder, tmp_path / "whole.safetensors", bands=3)
        assert torch.equal(encoder.conv1.weight, saved["conv1.weight"])

    def test_of_another_encoder_are_refused(self, encoder_file):
        with pytest.raises(UsageError, match=r"cannot be used: .*resnet18.*Expected tensor '.*found"):
            make("unet", "resnet34", encoder_file)

    def test_that_are_missing_or_no_safetensors_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match="cannot be used"):
            make("unet", "resnet18", tmp_path / "nowhere.safetensors")
        (tmp_path / "text.safetensors").write_text("no tensors")
        with pytest.raises(UsageError, match="cannot be used"):
            make("unet", "resnet18", tmp_path / "text.safetensors")

    @pytest.mark.parametrize("name", ["encoder.pth", "encoder.ckpt"])
    def test_pickles_are_refused_unopened(self, name):
        with pytest.raises(UsageError, match=r"Expected a \.safetensors file.*can run code"):
            local_file(name)

    def test_names_are_not_files(self):
        assert local_file("imagenet") is None
        assert local_file(None) is None
        assert local_file("a/b.safetensors") == Path("a/b.safetensors")


class TestDownloads:
    """The network is faked at its edge: what the hub clients raise when there is no connection."""

    def test_of_smp_say_what_to_do(self, monkeypatch):
        def offline(*_args, **_kwargs):
            raise ConnectionError("no route to host\nsecond line")

        monkeypatch.setattr(smp.encoders, "hf_hub_download", offline)
        with pytest.raises(UsageError, match=r"'imagenet' of encoder 'resnet18'.*no route to host\. .*null`"):
            make("unet", "resnet18", "imagenet")

    def test_of_torchvision_say_what_to_do(self, monkeypatch):
        def offline(*_args, **_kwargs):
            raise urllib.error.URLError("unreachable")

        monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
        with pytest.raises(UsageError, match=r"'imagenet' of encoder 'vgg11_bn'.*unreachable.*local"):
            make("segnet", "vgg11_bn", "imagenet")

    def test_are_used_when_they_arrive(self, monkeypatch, encoder_file):
        monkeypatch.setattr(smp.encoders, "hf_hub_download", lambda *_a, **_k: str(encoder_file))
        ours = make("fcn32s", "resnet18", "imagenet").network.encoder.conv1.weight
        assert torch.equal(ours, load_file(encoder_file)["conv1.weight"])

    def test_other_errors_of_the_file_system_are_left_alone(self, monkeypatch):
        def broken(*_args, **_kwargs):
            raise PermissionError("cannot read a library")

        monkeypatch.setattr(smp.encoders.resnet.ResNetEncoder, "__init__", broken)
        with pytest.raises(PermissionError, match="cannot read a library"):
            build(Architecture(name="unet", encoder="resnet18"), bands=3, classes=2)
