"""Small networks for every architecture, so that the contract can be tried on all of them."""

from __future__ import annotations

import pytest
import torch

from geoseg.legend import Legend, LegendClass
from geoseg.models.registry import build
from geoseg.package import Architecture, Band

_SMALL_HEAD = {"head_channels": 16}
_CHEAP = {
    "manet": ("resnet18", {}),  # its decoder widens with the encoder
    "fcn32s": ("mobilenet_v2", _SMALL_HEAD),
    "fcn16s": ("mobilenet_v2", _SMALL_HEAD),
    "fcn8s": ("mobilenet_v2", _SMALL_HEAD),
    "segnet": ("vgg11_bn", {}),
    "segformer": ("mit_b0", {}),
    "dpt": (
        "tu-vit_tiny_patch16_224",
        {"decoder_intermediate_channels": [16, 16, 16, 16], "decoder_fusion_channels": 16},
    ),
}


def cheap_architecture(name):
    encoder, options = _CHEAP.get(name, ("mobilenet_v2", {}))
    return Architecture(name=name, encoder=encoder, options=options)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cheap():
    """Name -> the architecture value of its smallest sensible form."""
    return cheap_architecture


@pytest.fixture(scope="session")
def small_network():
    """(name, bands) -> a network in evaluation mode, made once; leave it as it was."""
    made = {}

    def get(name, bands=4):
        if (name, bands) not in made:
            torch.manual_seed(0)
            made[name, bands] = build(cheap_architecture(name), bands=bands, classes=3).eval()
        return made[name, bands]

    return get


@pytest.fixture
def card_fields():
    """(name, bands, classes) -> what save_package wants to know beside the model."""

    def get(name="unet", bands=4, classes=3):
        legend = Legend(
            classes=tuple(LegendClass(id=i + 1, name=f"class {i}", color="#112233") for i in range(classes))
        )
        return {
            "architecture": cheap_architecture(name),
            "bands": [Band(name=f"B{i}", mean=i / 2, std=1 + i) for i in range(bands)],
            "dtype": "uint16",
            "legend": legend,
            "patch_px": 256,
            "overlap_px": 128,
        }

    return get
