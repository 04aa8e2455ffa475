"""Which patches, what overlap, which way of stitching: what is chosen where the user chooses nothing.

A choice depends on the card, the shape of the scene and what the user says, and on nothing else: not on the
machine, the workers or the moment. So the same job has the same lattice everywhere, and the same map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import UsageError, explain
from geoseg.tiling import TILE_PX, Axis, Lattice, TilePlan, require_multiple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.package import Card
    from geoseg.windows import Window

CALL_BYTES = 3_000_000_000
"""Memory one network call may take where the user says nothing: 2300 px patches of a U-Net on ResNet-18."""
FIXED_BYTES = 600_000_000
"""What a process takes before its first tile: Python, GDAL and PyTorch, of which the last is two thirds."""
_ENOUGH = 1.05
"""Larger patches are not worth their memory where they save less than this factor of work."""
_LEAST_STEP = 4
"""A patch is at least its overlap and this many strides, however little memory there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What one network, or several used together, ask of patches."""

    stride_px: int
    overlap_px: int
    """Where the user names none."""
    patch_px: int
    """As the package says: used where nothing better is known."""
    blend: bool
    """A score depends on the whole patch, so that overlapping patches should be weighed."""
    call_bytes_per_px: int | None
    """Memory of a network call over pixels of its patch; None: not measured."""
    tile_bytes_per_px: int = 0
    """What each tile that is read, waits or is decided holds besides, over the same pixels."""

    @classmethod
    def of(cls, cards: Sequence[Card], *, blend: bool) -> Demands:
        """What all `cards` ask for together; `blend` decides for those whose context was not measured."""
        stride = math.lcm(*(card.stride_px for card in cards))
        measured = [card.call_bytes_per_px for card in cards if card.call_bytes_per_px is not None]
        return cls(
            stride_px=stride,
            overlap_px=max(_up(_overlap(card), stride) for card in cards),
            patch_px=_up(max(card.patch_px for card in cards), stride),
            blend=any(is_global(card, unmeasured=blend) for card in cards),
            call_bytes_per_px=max(measured) if len(measured) == len(cards) else None,
            tile_bytes_per_px=max(_held(card) for card in cards),
        )

    def job_bytes(self, patch_px: int, *, calls: int = 1) -> int:
        """Memory of a process that makes so many calls at once, while one more tile is read or decided.

        Only where the call was measured.
        """
        per_px = calls * (self.call_bytes_per_px or 0) + (calls + 1) * self.tile_bytes_per_px
        return FIXED_BYTES + per_px * patch_px**2


def _held(card: Card) -> int:
    """Bytes per pixel: as read and whether valid, normalised, and the scores while they are decided."""
    floats = len(card.bands) + len(card.legend)
    return 4 * floats + len(card.bands) * np.dtype(card.dtype).itemsize + 1


def is_global(card: Card, *, unmeasured: bool) -> bool:
    """True where a score depends on the whole patch; `unmeasured` where the card does not know."""
    return unmeasured if card.context is None else card.context.radius_px is None


def plan_tiles(
    shape: tuple[int, int],
    demands: Demands,
    *,
    patch_px: int | None = None,
    overlap_px: int | None = None,
    tile_px: int = TILE_PX,
    blend: bool | None = None,
    memory: int | None = None,
    extent: Window | None = None,
) -> TilePlan:
    """The plan for a scene of `shape` (height, width); None chooses.

    `memory` is what a process may take that makes one network call at a time, in bytes.

    Raises:
        UsageError: patch and overlap do not fit each other or the network's stride, or memory is too little.
    """
    overlap = demands.overlap_px if overlap_px is None else overlap_px
    require_multiple("overlap", overlap, demands.stride_px)
    blended = demands.blend if blend is None else blend
    patch = patch_px or _choose_patch(shape, demands, overlap, blended=blended, memory=memory)
    lattice = Lattice.of(shape, patch_px=patch, overlap_px=overlap, stride_px=demands.stride_px)
    return TilePlan(lattice=lattice, tile_px=tile_px, blend=blended, extent=extent)


def _choose_patch(
    shape: tuple[int, int], demands: Demands, overlap: int, *, blended: bool, memory: int | None
) -> int:
    """The smallest patch with which nearly as little is computed twice as memory allows."""
    stride, per_px = demands.stride_px, demands.call_bytes_per_px
    least = overlap + _LEAST_STEP * stride
    if blended or per_px is None:
        # What pools over a patch was trained on patches of this size. Memory was not measured: no promises.
        too_small = demands.patch_px <= overlap == demands.overlap_px  # by the context alone, not by the user
        return least if too_small else demands.patch_px
    most = int(math.sqrt(CALL_BYTES / per_px)) // stride * stride
    if memory is not None:
        if memory < demands.job_bytes(least):
            raise _too_little(least, demands.job_bytes(least), memory, overlap)
        held = demands.job_bytes(1) - FIXED_BYTES
        most = min(most, int(math.sqrt((memory - FIXED_BYTES) / held)) // stride * stride)
    if most < least:
        return least
    work = {patch: _work(shape, patch, overlap, stride) for patch in range(least, most + 1, stride)}
    enough = _ENOUGH * min(work.values())
    return next(patch for patch, px in work.items() if px <= enough)


def _work(shape: tuple[int, int], patch: int, overlap: int, stride: int) -> int:
    """Pixels the network is given."""
    rows, cols = (Axis(size=size, patch_px=patch, overlap_px=overlap, stride_px=stride) for size in shape)
    return rows.count * rows.length * cols.count * cols.length


def _overlap(card: Card) -> int:
    """Twice the context radius: where patches meet, each has that much around it."""
    if card.context is None or card.context.radius_px is None:
        return card.overlap_px
    return 2 * card.context.radius_px


def _up(px: int, stride: int) -> int:
    return -(-px // stride) * stride


def _too_little(least: int, needed: int, memory: int, overlap: int) -> UsageError:
    return UsageError(
        explain(
            "there is too little memory for a patch",
            at=f"patches of at least {least} px ({overlap} px of overlap)",
            expected=f"at least {needed / 1e6:.0f} MB, of which the programs take {FIXED_BYTES / 1e6:.0f}",
            found=f"{memory / 1e6:.0f} MB",
            change="Allow more with --memory, or say --overlap with fewer pixels (seams may show).",
        )
    )
