"""How a network learns: optimiser, learning rate, precision, gradient clipping, moving average of weights."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from geoseg.errors import ExecutionError, explain
from geoseg.train.distributed import wrapped
from geoseg.train.losses import loss_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from geoseg.config import Training
    from geoseg.models.segmenter import Segmenter
    from geoseg.train.distributed import Group

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_AVERAGE, _MODEL, _OPTIMISER, _RANDOM = "average.", "model.", "optimiser.", "random."


def rate_factor(progress: float, *, warm_up: float, final_rate: float) -> float:
    """Share of the peak learning rate at a share of the run: up in a line, then down along a cosine."""
    if progress < warm_up:  # batch statistics of fresh weights are wild
        return max(progress / warm_up, final_rate)
    past = min((progress - warm_up) / (1 - warm_up), 1.0)
    return final_rate + (1 - final_rate) * (1 + math.cos(math.pi * past)) / 2


class Learner:
    """A network with all that changes while it learns; `tensors` and `scale` are the whole of that."""

    def __init__(self, model: Segmenter, training: Training, class_weights: Tensor, group: Group) -> None:
        # Channels last takes a fifth less time than torch's default layout.
        model.to(group.device).to(memory_format=torch.channels_last)
        self.model = model
        self.group = group
        self._training = training
        self._class_weights = class_weights.to(group.device)
        self._optimiser = _optimiser(model, training)
        self._dtype = _dtype(training.precision, group.device)
        self._scaler = torch.amp.GradScaler(group.device.type, enabled=self._dtype == torch.float16)
        self._average = None
        if training.ema is not None:
            rule = get_ema_multi_avg_fn(training.ema)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
        self._network: torch.nn.Module = model

    def begin(self, *, bands: int) -> None:
        """To be called once, when weights are as they shall be: all processes take the first one's."""
        self._network = wrapped(self.model, self.group, bands=bands)

    @property
    def scored(self) -> Segmenter:
        """The network that counts: the moving average where there is one."""
        return self.model if self._average is None else cast("Segmenter", self._average.module)

    def autocast(self) -> torch.autocast:
        """The forward pass in the precision asked for."""
        return torch.autocast(self.group.device.type, dtype=self._dtype, enabled=self._dtype is not None)

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], *, rate: float, at: int) -> float:
        """One step down the gradient of `accumulate` batches; returns the loss before it.

        Raises:
            ExecutionError: the loss is not a number.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.group.reseed(self._training.seed, at)
        self._optimiser.zero_grad(set_to_none=True)
        parts = [self._backward(batches, left=left) for left in reversed(range(self._training.accumulate))]
        value = self.group.mean(math.fsum(parts))
        _require_finite(value, rate=rate, at=at)
        self._scaler.unscale_(self._optimiser)
        if self._training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._training.clip_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return value

    def _backward(self, batches: Iterator[tuple[Tensor, Tensor]], *, left: int) -> float:
        """Adds the gradient of the next batch; returns its part of the loss. `left` batches are to follow."""
        network = self._network
        pixels, target = next(batches)
        waits = left > 0 and isinstance(network, DistributedDataParallel)
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with self.autocast():
                logits = network(pixels)
            loss = loss_of(logits.float(), target, self._training.loss, self._class_weights)
            if self._training.accumulate > 1:
                loss = loss / self._training.accumulate
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @property
    def scale(self) -> dict[str, float]:
        """State of the loss scaler; empty where there is none."""
        return dict(self._scaler.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that learning changes, and the state of random numbers, on the CPU, copied."""
        found = {_MODEL + name: value for name, value in self.model.state_dict().items()}
        if self._average is not None:
            found |= {_AVERAGE + name: value for name, value in self._average.state_dict().items()}
        for index, values in self._optimiser.state_dict()["state"].items():
            found |= {f"{_OPTIMISER}{index}.{k}": v for k, v in values.items() if v is not None}
        found[_RANDOM + "cpu"] = torch.get_rng_state()
        if self.group.device.type == "cuda":
            found[_RANDOM + "cuda"] = torch.cuda.get_rng_state()
        return {name: to_file(value) for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], scale: Mapping[str, float]) -> None:
        """Puts back what `tensors` and `scale` gave, of a learner made with the same settings."""
        self.model.load_state_dict(_under(tensors, _MODEL))
        if self._average is not None:
            self._average.load_state_dict(_under(tensors, _AVERAGE))
        self._restore_optimiser(_under(tensors, _OPTIMISER))
        if scale:
            self._scaler.load_state_dict(dict(scale))
        torch.set_rng_state(tensors[_RANDOM + "cpu"])
        if self.group.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[_RANDOM + "cuda"])

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            like = parameters[int(index)]
            # In the parameter's memory layout: what is added up in another order differs in the last bit.
            placed = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(index), {})[key] = placed.detach()
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": state, "param_groups": groups})


def to_file(value: Tensor) -> Tensor:
    """A copy as files take it: on the CPU, rows side by side, sharing memory with nothing."""
    return value.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def _optimiser(model: Segmenter, t: Training) -> torch.optim.Optimizer:
    if t.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=t.learning_rate, momentum=t.momentum, weight_decay=t.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), lr=t.learning_rate, weight_decay=t.weight_decay)


def _dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Of the forward pass; None: as it is. bfloat16 is fast on GPUs."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return _DTYPES[precision]


def _require_finite(value: float, *, rate: float, at: int) -> None:
    if not math.isfinite(value):
        raise ExecutionError(
            explain(
                "training has diverged",
                at=f"step {at + 1}",
                expected="a finite loss",
                found=f"{value}, at learning rate {rate:.3g}",
                change="Lower `learning_rate`; check the scenes for extreme values that are really nodata.",
            )
        )
