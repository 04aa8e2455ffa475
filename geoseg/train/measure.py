"""What is measured on the finished network, once, so that nobody has to guess it when predicting."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from geoseg.data import draw, read_padded
from geoseg.inference import normalise
from geoseg.models.context import SAMPLE_PX, SAMPLES, measure_context
from geoseg.models.footprint import call_bytes_per_px

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geoseg.config import TrainConfig
    from geoseg.models.segmenter import Segmenter
    from geoseg.package import Context
    from geoseg.train.run import Run

_log = logging.getLogger(__name__)
_SPEED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a card says that only the trained network can tell."""

    context: Context
    """How far around a pixel the network looks."""
    call_bytes_per_px: int | None
    """Memory of a call on a CPU over pixels of its patch; None where the system does not tell."""
    speed: dict[str, float]
    """For the provenance."""


def measure(model: Segmenter, run: Run) -> Measured:
    """Context, memory and speed of the network, which ends up on the CPU. Random states stay as they are."""
    model.eval()
    speed = measure_speed(model, run)
    context = measure_context(
        lambda images: _logits(model, images, run.group.device), samples(run), stride_px=model.stride_px
    )
    model.to("cpu")
    memory = call_bytes_per_px(
        lambda images: _logits(model, images, torch.device("cpu")),
        bands=len(run.bands),
        stride_px=model.stride_px,
    )
    _log.info("%s; a network call takes %s bytes per pixel", _sentence(context), memory or "unknown")
    return Measured(context=context, call_bytes_per_px=memory, speed=speed)


def measure_speed(model: Segmenter, run: Run) -> dict[str, float]:
    """Forward speed of one thread, as prediction runs the network: `geoseg plan` estimates time with it."""
    patch = torch.zeros((1, len(run.bands), run.patch_px, run.patch_px), device=run.group.device)
    patch = patch.to(memory_format=torch.channels_last)
    times, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(_SPEED_RUNS + 1):  # the first one warms up
            start = time.perf_counter()
            model(patch).cpu()
            times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return {"forward_mpx_per_s": round(run.patch_px**2 / 1e6 / statistics.median(times[1:]), 4)}


def samples(run: Run) -> list[NDArray[np.float32]]:
    """Normalised imagery around labelled pixels of the training areas, each at most SAMPLE_PX wide."""
    t = run.config.training
    found = []
    for i in range(SAMPLES):
        how = draw(
            run.found,
            run.areas,
            patch_px=SAMPLE_PX,
            seed=t.seed,
            epoch=0,
            index=i,
            balanced=1.0,
            augment=False,
            jitter=0.0,
        )
        area = run.areas[how.area]
        inside = how.window.intersect(area.window)
        crop = read_padded(area, run.held[how.area] if run.held else None, inside)
        found.append(normalise(crop.values, crop.valid, run.bands))
    return found


def sizes(config: TrainConfig, context: Context, stride_px: int) -> tuple[int, int]:
    """Patch and overlap for the card, in pixels: as configured, where that is "auto" as the context demands.

    The overlap is twice the context radius, or half a patch where the network looks at the whole patch. The
    patch is the training patch, or twice the overlap where that is larger.
    """
    patch, overlap = config.inference.patch_px, config.inference.overlap_px
    least = _up(config.training.patch_px, stride_px)
    if overlap == "auto":
        overlap = _overlap(context, None if patch == "auto" else patch, least, stride_px)
    return max(least, 2 * overlap) if patch == "auto" else patch, overlap


def _overlap(context: Context, patch: int | None, least: int, stride_px: int) -> int:
    """What the context demands, as far as it fits a patch that was asked for."""
    half = (patch or least) // 2 // stride_px * stride_px
    wanted = half if context.radius_px is None else 2 * context.radius_px
    if patch is None or wanted <= half:
        return wanted
    _log.warning(
        "inference.patch_px %d is small for a network that looks %s px far: patches of that size may show "
        "seams; leave it out, or say at least %d",
        patch,
        context.radius_px,
        2 * wanted,
    )
    return half


def _logits(model: Segmenter, images: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """In full float32, as the reference runtime has it."""
    flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
    with torch.inference_mode(), torch.backends.cudnn.flags(**flags):
        pixels = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
        logits: NDArray[np.float32] = model(pixels).cpu().numpy()
    return logits


def _sentence(context: Context) -> str:
    if context.radius_px is None:
        return (
            f"the network looks at the whole patch (change {context.change:.2g} at {context.searched_px} px)"
        )
    return f"the network looks {context.radius_px} px far (change {context.change:.2g} there)"


def _up(px: int, stride_px: int) -> int:
    return -(-px // stride_px) * stride_px
