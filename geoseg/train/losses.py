"""What the network is punished for: terms of the loss, their sum, and how much each class and pixel weighs.

Two kinds of terms. Cross-entropy and focal are means over labelled pixels, weighted by class and by nearness
to a border. Dice, Tversky and Lovasz compare regions: means over the classes that occur in the batch. A class
that is absent there has no region to be compared with; where it is predicted all the same, the class that was
meant pays. Pixels without a label count nowhere, and a batch without any label costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from segmentation_models_pytorch.losses import LovaszLoss, TverskyLoss
from torch.nn import functional

from geoseg.legend import IGNORE_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geoseg.config import Loss


def class_weights(class_px: NDArray[np.int64], kind: str) -> Tensor:
    """Weight of each class, float32; they average 1 over the labelled pixels. An absent class weighs 0.

    Args:
        class_px: labelled pixels by class; at least one.
        kind: "none", "inverse_sqrt", "inverse" or "effective".
    """
    if kind == "none":
        return torch.ones(len(class_px))
    share = class_px / class_px.sum()
    raw = np.divide(1, _size(share, int(class_px.sum()), kind), out=np.zeros_like(share), where=share > 0)
    return torch.from_numpy((raw / (raw * share).sum()).astype(np.float32))


def _size(share: NDArray[np.float64], total: int, kind: str) -> NDArray[np.float64]:
    """What a class counts as, up to a factor."""
    if kind == "inverse_sqrt":
        return np.sqrt(share)
    if kind == "inverse":
        return share
    # Effective number (1 - beta ** n) / (1 - beta), with expm1 and log1p: beta is 1 to the last digits.
    effective: NDArray[np.float64] = -np.expm1(share * total * np.log1p(-1 / max(total, 2)))
    return effective


def loss_of(logits: Tensor, target: Tensor, how: Loss, weights: Tensor) -> Tensor:
    """The loss of a batch, a scalar that gradients flow from.

    Args:
        logits: (n, classes, h, w), float32.
        target: (n, h, w) class indices, int64; IGNORE_INDEX where nothing is known.
        how: weights and settings of the terms.
        weights: by class, for cross-entropy and focal.
    """
    known = target != IGNORE_INDEX
    if not known.any():
        return logits.sum() * 0
    terms = []
    if how.cross_entropy:
        terms.append(how.cross_entropy * _cross_entropy(logits, target, how, weights))
    if how.focal:
        terms.append(how.focal * _focal(logits, target, how, weights))
    if how.dice:
        terms.append(how.dice * _tversky(logits, target, alpha=0.5, beta=0.5))
    if how.tversky:
        terms.append(how.tversky * _tversky(logits, target, alpha=how.alpha, beta=how.beta))
    if how.lovasz:
        lovasz = LovaszLoss("multiclass", ignore_index=IGNORE_INDEX)
        terms.append(how.lovasz * lovasz(logits, target))
    total: Tensor = sum(terms[1:], start=terms[0])
    return total


def near_border(target: Tensor, reach_px: int) -> Tensor:
    """(n, h, w), True where another class is known at most `reach_px` rows and columns away."""
    known = target != IGNORE_INDEX
    side = 2 * reach_px + 1
    values = target[:, None].float()
    none = torch.full_like(values, -torch.inf)
    highest = functional.max_pool2d(torch.where(known[:, None], values, none), side, 1, reach_px)
    lowest = -functional.max_pool2d(torch.where(known[:, None], -values, none), side, 1, reach_px)
    return known & (highest != lowest)[:, 0]


def _cross_entropy(logits: Tensor, target: Tensor, how: Loss, weights: Tensor) -> Tensor:
    options = {"ignore_index": IGNORE_INDEX, "label_smoothing": how.label_smoothing}
    if not how.boundary_weight:
        return functional.cross_entropy(logits, target, weight=weights, **options)  # type: ignore[arg-type]
    by_pixel = functional.cross_entropy(  # already times the class's weight
        logits,
        target,
        weight=weights,
        reduction="none",
        **options,  # type: ignore[arg-type]
    )
    border = 1 + how.boundary_weight * near_border(target, how.boundary_px)
    return (by_pixel * border).sum() / (_by_pixel(weights, target) * border).sum()


def _focal(logits: Tensor, target: Tensor, how: Loss, weights: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017) of the softmax; the library's is one of sigmoids, class by class."""
    entropy = functional.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none")
    weight = _by_pixel(weights, target)
    if how.boundary_weight:
        weight = weight * (1 + how.boundary_weight * near_border(target, how.boundary_px))
    # 1 - p, held off 0: the slope of a power below 1 is infinite there.
    missed = -torch.expm1(-entropy)
    eased = missed.clamp_min(1e-6) ** how.gamma
    return (eased * entropy * weight).sum() / weight.sum()


def _tversky(logits: Tensor, target: Tensor, *, alpha: float, beta: float) -> Tensor:
    """1 - Tversky index, mean over the classes present; with both weights 0.5 that is 1 - Dice."""
    term = TverskyLoss("multiclass", ignore_index=IGNORE_INDEX, alpha=alpha, beta=beta)
    present = torch.unique(target[target != IGNORE_INDEX]).numel()
    # The library counts absent classes as 0 in its mean over all.
    loss: Tensor = term(logits, target) * (logits.shape[1] / present)
    return loss


def _by_pixel(weights: Tensor, target: Tensor) -> Tensor:
    """The weight of each pixel's class; 0 where it is not known."""
    known = target != IGNORE_INDEX
    return weights[torch.where(known, target, 0)] * known
