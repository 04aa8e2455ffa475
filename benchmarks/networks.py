"""The networks that are measured: untrained, but calibrated, so that seams and lost precision show.

An untrained network answers almost the same everywhere. So batch normalisation takes its statistics from
crops of the scene, and the head is scaled until every class occurs. The labels of such a network hang on
distant pixels far more than those of a trained one: read differences as an upper bound.

Every tool gets the same weights: geoseg as a package, the others as the plain network that this module
loads, with normalisation in front (the network's `Normalised` form).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
from rasterio.windows import Window
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.scenes import BANDS
from benchmarks.specs import NETWORKS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SEED = 1234
_CROP_PX = 512
_CROPS = 8
_SPREAD = 3.0
"""Standard deviation of the calibrated logits: about as sure of itself as a trained network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the network's input is normalised."""

    mean: tuple[float, ...]
    """By band."""
    std: tuple[float, ...]

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """(values - mean) / std for (..., bands, height, width)."""
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        return np.asarray((values.astype(np.float32) - mean) / std, np.float32)


class Normalised(nn.Module):
    """A network that takes pixels as they are in the scene."""

    def __init__(self, network: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", calibration.mean), ("std", calibration.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, h, w)."""
        logits: torch.Tensor = self.network((x.to(torch.float32) - self.mean) / self.std)
        return logits


def make_network(name: str, scene: Path, folder: Path) -> Path:
    """Weights of the network `name`, calibrated on `scene`; left alone when they are there."""
    path = folder / f"{name}.safetensors"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    seen = np.stack(crops(scene, side=_CROP_PX, count=_CROPS))
    mean, std = seen.mean((0, 2, 3)), seen.std((0, 2, 3))
    calibration = Calibration(mean=tuple(mean.round(3).tolist()), std=tuple(std.round(3).tolist()))
    network = _calibrated(_build(name), torch.from_numpy(calibration.apply(seen)))
    path.with_suffix(".json").write_text(
        json.dumps({"mean": calibration.mean, "std": calibration.std}), encoding="utf-8"
    )
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


def load_network(name: str, folder: Path) -> tuple[nn.Module, Calibration]:
    """The network in evaluation mode, and what its input has to go through."""
    network = _build(name)
    network.load_state_dict(load_file(folder / f"{name}.safetensors"))
    document = json.loads((folder / f"{name}.json").read_text("utf-8"))
    calibration = Calibration(mean=tuple(document["mean"]), std=tuple(document["std"]))
    return network.eval().requires_grad_(requires_grad=False), calibration


def _build(name: str) -> nn.Module:
    spec = NETWORKS[name]
    torch.manual_seed(_SEED)
    return smp.Unet(
        spec.encoder, encoder_weights=None, in_channels=len(BANDS), classes=spec.classes, **spec.options
    )


def crops(scene: Path, *, side: int, count: int) -> list[NDArray[np.float32]]:
    """Squares spread over the scene, each (bands, side, side); smaller where the scene is."""
    with rasterio.open(scene) as dataset:
        side = min(side, dataset.height // 32 * 32)
        rng = np.random.default_rng(0)
        corners = rng.integers(0, [dataset.height - side + 1, dataset.width - side + 1], (count, 2))
        return [
            dataset.read(window=Window(int(col), int(row), side, side)).astype(np.float32)
            for row, col in corners
        ]


@torch.no_grad()
def _calibrated(network: nn.Module, crops: torch.Tensor) -> nn.Module:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what is seen
    network.train()
    network(crops)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    network.eval()
    logits = network(crops)
    head = network.get_submodule("segmentation_head.0")
    gain = _SPREAD / logits.std((0, 2, 3)).clamp_min(1e-6)
    head.weight.mul_(gain.view(-1, 1, 1, 1))
    head.bias.copy_((head.bias - logits.mean((0, 2, 3))) * gain)
    return network
