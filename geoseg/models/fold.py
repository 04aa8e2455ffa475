"""Batch normalisation folded into the convolution before it: the same function, one pass over memory fewer.

Which normalisation follows which convolution is not read off names but watched: the network runs once, and a
pair counts when the output of the one is the input of the other and nothing else ever looks at it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from geoseg.errors import UsageError, explain

if TYPE_CHECKING:
    from geoseg.models.segmenter import Segmenter

TOLERANCE = 1e-4
"""Largest change of a logit over the largest logit that passes as rounding."""
_STRIDES = (2, 3)
"""Height and width of the image that is watched, in strides; the one that is compared is its transpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A network that does the same with fewer layers."""

    model: Segmenter
    """A copy, in evaluation mode."""
    pairs: int
    """Convolutions that have taken over a normalisation."""
    difference: float
    """Largest change of a logit on random input, over the largest logit."""


def fold(model: Segmenter, *, bands: int) -> Folded:
    """The network with every batch normalisation that directly follows a convolution folded into it.

    Raises:
        UsageError: there is no such pair, or the folded network answers differently.
    """
    folded = copy.deepcopy(model).eval()
    pairs = _pairs(folded, _image(folded, bands))
    for convolution, normalisation in pairs:
        _absorb(convolution, normalisation)
    _replace(folded, {norm: _rest(norm) for _, norm in pairs})
    difference = _difference(model.eval(), folded, _image(model, bands).transpose(2, 3))
    if not pairs or not difference <= TOLERANCE:  # NaN must not pass
        raise _refused(len(pairs), difference)
    return Folded(model=folded, pairs=len(pairs), difference=difference)


def _image(model: Segmenter, bands: int) -> Tensor:
    """The same noise every time."""
    shape = (1, bands, *(n * model.stride_px for n in _STRIDES))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _difference(model: nn.Module, folded: nn.Module, image: Tensor) -> float:
    with torch.inference_mode():
        wanted, found = model(image), folded(image)
        return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(torch.finfo().tiny))


@dataclass(slots=True)
class _Flow:
    """What became of one tensor."""

    source: nn.Conv2d
    tensor: Tensor
    """Kept, so that its identity is not given to another one."""
    looks: int = 0
    normalised_by: nn.BatchNorm2d | None = None


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the output of every convolution through all that the network computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        modules = list(model.modules())
        self._weights = {id(m.weight): m for m in modules if isinstance(m, nn.Conv2d)}
        self._means = {id(m.running_mean): m for m in modules if isinstance(m, nn.BatchNorm2d)}
        self._flows: dict[int, _Flow] = {}
        self._runs: dict[nn.Module, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs the operation and notes which tensors it read."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name: str = func.overloadpacket.__name__
        for tensor in tree_leaves((args, kwargs)):
            self._read(tensor, name, result, source=args[0] if args else None)
        return result

    def _read(self, tensor: object, name: str, result: object, *, source: object) -> None:
        """Notes that an operation read a tensor while it made `result` out of `source`."""
        if flow := self._flows.get(id(tensor)):
            flow.looks += 1
        if convolution := self._weights.get(id(tensor)):
            self._runs[convolution] = self._runs.get(convolution, 0) + 1
            if name == "convolution" and isinstance(result, Tensor):
                self._flows[id(result)] = _Flow(source=convolution, tensor=result)
        if normalisation := self._means.get(id(tensor)):
            self._runs[normalisation] = self._runs.get(normalisation, 0) + 1
            if "batch_norm" in name and (flow := self._flows.get(id(source))):
                flow.normalised_by = normalisation

    def pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Convolution and normalisation, each run once, with nothing else between or beside them."""
        return [
            (flow.source, flow.normalised_by)
            for flow in self._flows.values()
            if flow.normalised_by is not None
            and flow.looks == self._runs[flow.source] == self._runs[flow.normalised_by] == 1
        ]


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    watch = _Watch(model)
    with torch.no_grad(), watch:
        model(image)
    return watch.pairs()


def _absorb(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> None:
    """Scale and shift become part of weight and bias, computed in float64."""
    mean, variance = normalisation.running_mean, normalisation.running_var
    gain = (variance.double() + normalisation.eps).rsqrt()  # type: ignore[union-attr]
    if normalisation.affine:
        gain = gain * normalisation.weight.double()
    shift = -mean.double() * gain  # type: ignore[union-attr]
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * gain
    if normalisation.affine:
        shift = shift + normalisation.bias.double()
    weight = convolution.weight
    with torch.no_grad():
        weight.copy_(weight.double() * gain[:, None, None, None])
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def _rest(normalisation: nn.BatchNorm2d) -> nn.Module:
    """What a normalisation layer does besides normalising: timm's have the activation inside."""
    if isinstance(normalisation, BatchNormAct2d):
        return nn.Sequential(normalisation.drop, normalisation.act)
    return nn.Identity()


def _replace(model: nn.Module, new: dict[nn.BatchNorm2d, nn.Module]) -> None:
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.BatchNorm2d) and module in new:
            model.set_submodule(name, new[module])


def _refused(pairs: int, difference: float) -> UsageError:
    found = f"logits that change by {difference:.1e} of the largest" if pairs else "no such pair"
    return UsageError(
        explain(
            "batch normalisation cannot be folded into this network",
            at="runtime torch-folded",
            expected=f"convolutions that it directly follows, and logits the same to {TOLERANCE:g}",
            found=found,
            change="Use the runtime torch.",
        )
    )
