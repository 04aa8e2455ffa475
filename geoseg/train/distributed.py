"""Several processes that train one network, as `torchrun` starts them; one alone when nothing does.

Each process has its share of a batch's windows and of the validation windows. Torch's
DistributedDataParallel averages gradients; the first process alone writes files and tells how it goes.
"""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from geoseg.errors import UsageError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes of a run, seen from one of them. All must make the same calls in the same order."""

    rank: int = 0
    """Of this process, from 0."""
    size: int = 1
    """Number of processes."""
    device: torch.device
    """Where this process computes."""

    @property
    def is_first(self) -> bool:
        """True for the process that writes and tells."""
        return self.rank == 0

    def total(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum over all processes."""
        if self.size == 1:
            return values
        shared = torch.from_numpy(values).to(self.device)
        distributed.all_reduce(shared)
        return shared.cpu().numpy()

    def mean(self, value: float) -> float:
        """The mean over all processes; not a number if any is not."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(shared)
        return float(shared) / self.size

    def first(self, value: float) -> float:
        """What the first process has."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, 0)
        return float(shared)

    def first_text(self, text: str | None) -> str:
        """The text of the first process, once it has one; the others may say None."""
        told = [text]
        if self.size > 1:
            distributed.broadcast_object_list(told, src=0, device=self.device)
        assert told[0] is not None  # noqa: S101 - the first process has one
        return told[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Gives all processes the first one's buffers: each has seen other windows."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def reseed(self, seed: int, step: int) -> None:
        """Makes random numbers of a step a function of seed, step and process: none are to be remembered."""
        if self.size > 1:
            mixed = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))


@contextmanager
def joined(wanted: str, *, batch_size: int) -> Iterator[Group]:
    """The group that this process belongs to, joined until the block ends.

    Args:
        wanted: "auto", "cpu" or "cuda".
        batch_size: windows of a batch, to be shared evenly.

    Raises:
        UsageError: there is no such device, or the windows cannot be shared.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(wanted, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1:
        yield Group(device=device)
        return
    if batch_size % size:
        raise UsageError(
            explain(
                "the windows of a batch cannot be shared",
                at="training.batch_size",
                expected=f"a multiple of the {size} processes",
                found=batch_size,
                change=f"Use {max(1, batch_size // size) * size}, or another number of processes.",
            )
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_own_store(),
        rank=int(os.environ["RANK"]),
        world_size=size,
    )
    try:
        yield Group(rank=distributed.get_rank(), size=size, device=device)
    finally:
        distributed.destroy_process_group()


_joined = itertools.count()


def _own_store() -> Any:
    """Where the processes of this run find each other, under keys of its own.

    torchrun keeps what was written: a second run in the same processes would find closed ports of the first.
    """
    store, _, _ = next(iter(distributed.rendezvous("env://")))  # type: ignore[attr-defined]
    return distributed.PrefixStore(f"geoseg/{next(_joined)}", store)  # type: ignore[attr-defined]


def wrapped(model: nn.Module, group: Group, *, bands: int) -> nn.Module:
    """The model itself, or one whose backward pass averages gradients over the processes."""
    if group.size == 1:
        return model
    return torch.nn.parallel.DistributedDataParallel(
        model,
        device_ids=[group.device] if group.device.type == "cuda" else None,
        find_unused_parameters=_has_idle(model, group, bands=bands),
    )


def _has_idle(model: nn.Module, group: Group, *, bands: int) -> bool:
    """True if some parameters take no part: shallow encoders keep their deeper stages."""
    was = model.training
    model.eval()  # leaves statistics and random numbers as they are
    model(torch.zeros((1, bands, 64, 64), device=group.device)).sum().backward()
    idle = any(p.requires_grad and p.grad is None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    model.train(was)
    return idle


def _device(wanted: str, local_rank: int | None) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            explain(
                "there is no such device",
                at="training.device",
                expected="a GPU that torch can use",
                found="none",
                change="Say `device: auto` or `device: cpu`.",
            )
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if local_rank is None else torch.device("cuda", local_rank)
