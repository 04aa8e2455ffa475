"""Where torch computes here, and with how many threads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from geoseg.errors import UsageError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator


def devices() -> tuple[str, ...]:
    """What a network can run on here: "cpu", then "cuda:0" and so on."""
    return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))


def resolve_devices(device: str) -> tuple[str, ...]:
    """Those of `devices()` that are meant: "auto" is every GPU or else the CPU, "cuda" every GPU.

    Raises:
        UsageError: when it does not exist here; lists those that do.
    """
    here = devices()
    if device == "auto":
        return here[1:] or here
    if device == "cuda" and len(here) > 1:
        return here[1:]
    if device in here:
        return (device,)
    raise UsageError(
        explain(
            "there is no such device",
            at=f"device {device!r}",
            expected=f"one of: auto, {', '.join(here)}",
            found="no usable CUDA device" if len(here) == 1 and device.startswith("cuda") else "another name",
            change="Choose one of these; CUDA needs its driver and a CUDA build of torch.",
        )
    )


def resolve_device(device: str) -> str:
    """The first of `resolve_devices`, for work that one device does.

    Raises:
        UsageError: when it does not exist here; lists those that do.
    """
    return resolve_devices(device)[0]


def set_threads(threads: int | None) -> None:
    """Use that many threads per operation in this process; None leaves what is set.

    Raises:
        UsageError: for fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """The calling thread computes alone while this is open; other threads are left as they are.

    With OpenMP, which torch is built on, the setting belongs to the thread that makes it. A thread that
    starts meanwhile may take the 1 over, those that began before keep theirs.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
