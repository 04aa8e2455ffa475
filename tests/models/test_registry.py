from __future__ import annotations

import pytest
import torch

from geoseg.errors import UsageError
from geoseg.models import registry
from geoseg.models.registry import build, encoders, options
from geoseg.package import Architecture


def make(name, encoder="resnet18", *, bands=3, weights=None, **given):
    architecture = Architecture(name=name, encoder=encoder, options=given)
    return build(architecture, bands=bands, classes=2, encoder_weights=weights)


class TestEncoders:
    def test_segnet_has_the_vgg_with_batch_normalisation(self):
        assert encoders("segnet") == ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")

    def test_dpt_has_vision_transformers_only(self):
        names = encoders("dpt")
        assert "tu-vit_base_patch16_224" in names
        assert all(n.startswith("tu-") for n in names)
        assert not any("patch14" in n for n in names)

    def test_those_that_cannot_be_dilated_are_left_out(self):
        assert "vgg16" in encoders("unet")
        for name in ("deeplabv3", "deeplabv3plus", "pan"):
            assert not {"vgg16", "densenet121", "xception", "mit_b0"} & set(encoders(name))

    def test_no_deprecated_names(self):
        assert not any(n.startswith("timm-") for n in encoders("unet"))

    @pytest.mark.parametrize(("name", "encoder"), [("pan", "densenet121"), ("linknet", "mit_b0")])
    def test_left_out_because_they_fail(self, name, encoder, monkeypatch):
        monkeypatch.setattr(registry, "_check_encoder", lambda *_: None)
        with pytest.raises(UsageError, match="cannot be built"):
            make(name, encoder)


class TestRefusals:
    def test_unknown_encoder(self):
        with pytest.raises(UsageError, match=r"no encoder of unet 'resnet19'.*Did you mean 'resnet1.*timm"):
            make("unet", "resnet19")

    def test_unknown_timm_encoder(self):
        with pytest.raises(UsageError, match="no encoder of fpn 'tu-nonsense'"):
            make("fpn", "tu-nonsense")

    def test_encoder_of_another_architecture(self):
        with pytest.raises(UsageError, match=r"segnet 'resnet18'.*vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn$"):
            make("segnet", "resnet18")

    def test_unknown_option(self):
        with pytest.raises(UsageError, match=r"option of fcn8s 'head_chanels'.*Did you mean 'head_channels'"):
            make("fcn8s", head_chanels=3)

    @pytest.mark.parametrize("name", ["activation", "aux_params", "classes", "encoder_name", "kwargs"])
    def test_options_that_would_change_what_comes_out(self, name):
        with pytest.raises(UsageError, match=f"no option of unet '{name}'"):
            make("unet", **{name: "softmax"})

    def test_option_of_a_wrong_value(self):
        with pytest.raises(UsageError, match=r"cannot be built: unet on resnet18.*decoder_channels"):
            make("unet", decoder_channels=[16, 16])

    def test_timm_model_without_a_pyramid(self):
        with pytest.raises(UsageError, match="cannot be built: unet on tu-vit_tiny_patch16_224"):
            make("unet", "tu-vit_tiny_patch16_224")

    def test_timm_model_of_one_size_only(self):
        with pytest.raises(UsageError, match=r"cannot be built: dpt .*patch14"):
            make("dpt", "tu-vit_small_patch14_dinov2")

    def test_unknown_weights(self):
        with pytest.raises(UsageError, match=r"no set of weights for resnet18 'imagenot'.*imagenet"):
            make("unet", weights="imagenot")


class TestStride:
    @pytest.mark.parametrize(
        ("name", "encoder", "given", "stride"),
        [
            ("unet", "resnet18", {}, 32),
            ("unet", "resnet18", {"encoder_depth": 3, "decoder_channels": [16, 8, 4]}, 32),
            ("pspnet", "resnet18", {}, 32),
            ("deeplabv3", "resnet18", {}, 32),
            ("pan", "resnet18", {}, 128),
            ("unet", "tu-swin_tiny_patch4_window7_224", {}, 224),
            ("dpt", "tu-vit_small_patch8_224", {}, 32),
        ],
    )
    def test_is_derived_from_the_network(self, name, encoder, given, stride):
        assert make(name, encoder, **given).stride_px == stride

    def test_is_where_the_phase_repeats(self, small_network):
        """128 px from its border and more, a patch answers as the scene does: shifts can be compared."""
        model = small_network("segnet")
        scene = torch.randn(1, 4, 352, 352)

        def middle(shift):
            """The same 32 x 32 scene pixels out of a patch that starts at (shift, shift)."""
            with torch.inference_mode():
                patch = model(scene[..., shift : shift + 320, shift : shift + 320])
            return patch[..., 160 - shift : 192 - shift, 160 - shift : 192 - shift]

        torch.testing.assert_close(middle(32), middle(0), rtol=1e-4, atol=1e-5)
        assert (middle(16) - middle(0)).abs().max() > 0.1 * middle(0).std()


def test_options_come_with_their_defaults():
    assert options("fcn8s") == {"head_channels": 4096, "dropout": 0.5}
    assert options("segnet") == {}
    assert options("unet")["decoder_interpolation"] == "nearest"


def test_options_reach_the_network():
    assert make("fcn8s", head_channels=24).network.fc7[0].out_channels == 24
    widths = [512, 64, 32, 16, 8, 4]
    unet = make("unet", decoder_channels=widths[1:])
    assert unet.network.segmentation_head[0].in_channels == widths[-1]


@pytest.mark.parametrize("encoder", ["efficientnet-b0", "mit_b0"])
def test_the_smallest_image_is_large_enough_for_shallow_encoders(encoder):
    """At pspnet's own stride of 8 pixels these two fail."""
    with torch.inference_mode():
        assert make("pspnet", encoder).eval()(torch.randn(1, 3, 1, 9)).shape == (1, 2, 1, 9)


def test_building_keeps_timm_networks_in_training_mode():
    assert make("unet", "tu-resnet10t").training
