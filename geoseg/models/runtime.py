"""Packages loaded into runtimes, once per process. No runtime is imported before it is used."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from geoseg.errors import UsageError, explain
from geoseg.models.batches import ANSWERS
from geoseg.models.catalogue import RUNTIMES
from geoseg.models.gate import DecidingGate, Gate
from geoseg.package import read_card

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.models.catalogue import RuntimeInfo
    from geoseg.models.cuda import CudaPredictor
    from geoseg.models.gate import Answers
    from geoseg.models.segmenter import Segmenter
    from geoseg.package import Card

_KEPT = 16
"""Predictors kept in memory per process."""


_cache: OrderedDict[tuple[object, ...], tuple[Card, Answers]] = OrderedDict()
_cache_lock = threading.Lock()


def load_predictor(
    package: Path,
    *,
    runtime: str = "torch",
    device: str = "auto",
    cores: int = 1,
    max_calls: int | None = None,
) -> tuple[Card, Answers]:
    """The card of a package and its network in a runtime: loaded once, shared by all threads that ask.

    Args:
        package: a package's folder, or one ONNX file with its card inside.
        runtime: one of `geoseg.models.catalogue.RUNTIMES`.
        device: "cpu", "cuda" (every GPU), "cuda:N", or "auto": every GPU the runtime can use, else the CPU.
        cores: CPU cores to use. torch makes as many calls at once, of one thread each; ONNX Runtime and
            OpenVINO one call at a time with so many threads. What comes out is the same for any number.
        max_calls: fewer calls at once, where memory allows for no more.

    Raises:
        PackageError: the package cannot be trusted.
        UsageError: no such runtime or device here, or they or the package do not go together.
    """
    _runtime(runtime)
    _check_numbers(cores, max_calls)
    places = _places(runtime, device)
    card = read_card(package)
    _check_network(runtime, package, card)
    calls = cores if max_calls is None else min(cores, max_calls)
    key = (card.fingerprint, runtime, places, cores, calls)
    with _cache_lock:
        if key not in _cache:
            _cache[key] = card, _load(package, card, runtime, places=places, cores=cores, calls=calls)
            while len(_cache) > _KEPT:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return _cache[key]


def available_runtimes(device: str) -> tuple[str, ...]:
    """Names of the runtimes that are installed and run on a device, the reference first.

    Raises:
        UsageError: there is no such device.
    """
    on_cpu = device == "cpu"
    if not on_cpu:
        from geoseg.models.devices import resolve_devices

        on_cpu = resolve_devices(device) == ("cpu",)
    return tuple(name for name, r in RUNTIMES.items() if (r.cpu if on_cpu else r.cuda) and r.installed)


def _load(
    package: Path, card: Card, runtime: str, *, places: tuple[str, ...], cores: int, calls: int
) -> Answers:
    if runtime == "onnxruntime":
        from geoseg.models.ort import load_ort

        return Gate([load_ort(package, card, threads=cores)] * min(ANSWERS, calls))
    if runtime == "openvino":
        from geoseg.models.ov import load_openvino

        return Gate([load_openvino(package, card, threads=cores)] * min(ANSWERS, calls))
    return _load_torch(package, RUNTIMES[runtime], places=places, calls=calls)


def _load_torch(package: Path, runtime: RuntimeInfo, *, places: tuple[str, ...], calls: int) -> Answers:
    from geoseg.models.fold import fold
    from geoseg.models.pytorch import TorchPredictor
    from geoseg.models.store import load_package

    card, model = load_package(package)
    bands = len(card.bands)
    if runtime.folded:
        model = fold(model, bands=bands).model
    if places == ("cpu",):
        return Gate([TorchPredictor(model, bands=bands)] * calls)
    return _on_gpus(model, card, runtime, places)


def _on_gpus(model: Segmenter, card: Card, runtime: RuntimeInfo, places: tuple[str, ...]) -> Answers:
    from geoseg.models.cuda import CALLS, CudaPredictor

    predictors: list[CudaPredictor] = [
        CudaPredictor(
            copy.deepcopy(model),
            bands=len(card.bands),
            device=place,
            precision=runtime.precision,
            compiled=runtime.compiled,
            call_bytes_per_px=card.call_bytes_per_px,
        )
        for place in places
    ]
    return DecidingGate(predictors * CALLS)


def _runtime(name: str) -> RuntimeInfo:
    """The runtime of that name, installed."""
    found = RUNTIMES.get(name)
    if found is None:
        raise UsageError(
            explain(
                "there is no such runtime",
                at=f"runtime {name!r}",
                expected=f"one of: {', '.join(RUNTIMES)}",
                found="another name",
                change="Choose one of these.",
            )
        )
    if not found.installed:
        raise UsageError(
            explain(
                "the runtime is not installed",
                at=f"runtime {name!r}",
                expected=f"the Python package {found.module}",
                found="no such package",
                change=f"pip install 'geoseg[{found.extra}]'"
                if found.extra
                else f"pip install {found.module}",
            )
        )
    return found


def _check_numbers(cores: int, max_calls: int | None) -> None:
    if cores < 1:
        raise UsageError(f"cores must be at least 1, not {cores}")
    if max_calls is not None and max_calls < 1:
        raise UsageError(f"max_calls must be at least 1, not {max_calls}")


def _places(runtime: str, device: str) -> tuple[str, ...]:
    """The devices a runtime is to use."""
    found = RUNTIMES[runtime]
    if not found.cuda and device in {"auto", "cpu"}:
        return ("cpu",)  # without importing torch
    from geoseg.models.devices import devices, resolve_devices

    places = resolve_devices(device)
    if found.cpu if places == ("cpu",) else found.cuda:
        return places
    kinds = "the CPU" if found.cpu else "a CUDA device"
    raise UsageError(
        explain(
            "the runtime does not run on this device",
            at=f"runtime {runtime!r}, device {device!r}",
            expected=f"{kinds}; here are: {', '.join(devices())}",
            found=", ".join(places),
            change=f"Choose one of: {', '.join(available_runtimes(device))}; or another device.",
        )
    )


def _check_network(runtime: str, package: Path, card: Card) -> None:
    """A graph cannot be run by torch."""
    if card.architecture is not None or RUNTIMES[runtime].module != "torch":
        return
    others = [n for n, r in RUNTIMES.items() if r.module != "torch"]
    raise UsageError(
        explain(
            "the package holds an ONNX graph, which torch does not run",
            at=f"runtime {runtime!r}, {package}",
            expected=f"one of: {', '.join(others)}",
            found=runtime,
            change=f"Give --runtime {others[0]}.",
        )
    )
