"""Which networks are measured, as plain values: no library is needed to name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A U-Net."""

    encoder: str
    classes: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    """Further constructor arguments, as a model card has them."""


_LIGHT = {"decoder_channels": [64, 32, 16, 16, 8]}
_LIGHT_ENCODER = "tu-tf_mobilenetv3_small_minimal_100"
NETWORKS = {
    "resnet18": NetworkSpec(encoder="resnet18"),
    "resnet34": NetworkSpec(encoder="resnet34"),
    "light": NetworkSpec(encoder=_LIGHT_ENCODER, options=_LIGHT),
    "light-4": NetworkSpec(encoder=_LIGHT_ENCODER, options=_LIGHT, classes=4),
    "light-40": NetworkSpec(encoder=_LIGHT_ENCODER, options=_LIGHT, classes=40),
    "tiny": NetworkSpec(
        encoder="resnet18", classes=4, options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    ),
}
"""`light` has a MobileNetV3-small without squeeze-and-excitation; `tiny` is for trying things out."""
