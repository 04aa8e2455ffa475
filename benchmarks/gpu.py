"""Mode `gpu`: how near an end-to-end run on CUDA comes to the limits of decoding and of the network."""

from __future__ import annotations

import shutil
import sys
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import jobs
from benchmarks.report import Verdict, table, verdict_table, write_section

if TYPE_CHECKING:
    from benchmarks.setting import Setting

REACHED = 0.9
"""Of the lower of both limits: what an end-to-end run should come to."""


def run(setting: Setting) -> str:
    """Measures, writes the section, and returns it; says so and writes nothing where there is no GPU."""
    why = _unusable()
    if why:
        return f"Mode gpu needs a CUDA device that PyTorch can use: {why}. Nothing was measured."
    setting.require(setting.networks)
    parts, verdicts = [], []
    for network in setting.networks:
        for size in setting.sizes:
            for runtime in setting.runtimes:
                text, found = _measure(setting, network, size, runtime)
                parts.append(text)
                verdicts += found
    return write_section(setting.results, "gpu", [verdict_table(verdicts), *parts])


def _unusable() -> str | None:
    """Why there is no GPU to measure; None: there is."""
    try:
        said = jobs.check_call([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"])
    except jobs.FailedError as error:
        return str(error)
    if said.split()[-1] != "True":
        return "torch.cuda.is_available() is False"
    return None if shutil.which("nvidia-smi") else "nvidia-smi is not on the path"


def _measure(setting: Setting, network: str, size: int, runtime: str) -> tuple[str, list[Verdict]]:
    scene = setting.scene(size)
    contenders = ("read", "forward", "geoseg", "geoseg-all")
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    busy: dict[str, list[float]] = {name: [] for name in contenders}
    results = []
    for number in range(setting.rounds):
        for name in contenders[:: 1 if number % 2 == 0 else -1]:
            result = setting.run(setting.job(name, network, scene, runtime=runtime))
            share = float(result.facts.more.get("gpu_busy", 0.0))
            results.append(result)
            rates[name].append(size**2 / 1e6 / result.cost.wall_s)
            busy[name].append(share)
            print(f"{name}: {rates[name][-1]:.1f} Mpx/s, GPU busy {share:.0%}", flush=True)
    setting.keep("gpu", results)
    limits = [min(pair) for pair in zip(rates["read"], rates["forward"], strict=True)]
    reached = tuple(rate / limit for rate, limit in zip(rates["geoseg"], limits, strict=True))
    rows = [
        [name, f"{median(rates[name]):.1f}", f"{median(busy[name]):.0%}" if name != "read" else "-"]
        for name in contenders
    ]
    text = table([f"{network}, {size} px, {runtime}", "Mpx/s of the scene", "GPU busy"], rows)
    what = f"{network} {size}, {runtime}: Mpx/s over min(decode limit, forward limit)"
    return text, [Verdict(what=what, required=REACHED, found=reached, at_most=False)]
