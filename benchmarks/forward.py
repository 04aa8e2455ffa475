"""The bare network in each runtime: arrays in, arrays out, set up as its own documentation advises."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.windows import Window

from benchmarks.jobs import Facts
from benchmarks.networks import load_network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.jobs import Job
    from benchmarks.tool import Chosen

Call = Callable[[Any], Any]
_KEPT = 4
"""Different patches of one shape that are held in memory; they take turns."""


class Bare:
    """A network that is given the patches of a plan, as many at once as geoseg would, and nothing else."""

    def __init__(self, job: Job) -> None:
        from benchmarks import tool

        self._job = job
        self._at_once, threads = tool.concurrency(job)
        self._calibration = load_network(job.network, job.work / "networks")[1]
        runtime = RUNTIMES[job.runtime](job, threads)
        self._ready, self._call = runtime.ready, runtime.call
        self._fetch, self._finish = runtime.fetch, runtime.finish
        self._inputs: list[Any] = []
        self._facts = Facts()

    def prepare(self, chosen: Chosen, scene: Path) -> None:
        """Read and normalise patches of the scene, in the form the runtime wants."""
        self._inputs = []
        with rasterio.open(scene) as source:
            for (height, width), count in chosen.patches.items():
                kept = [self._patch(source, i, height, width) for i in range(min(count, _KEPT))]
                self._inputs += [kept[i % len(kept)] for i in range(count)]
        self._facts = Facts(forwarded_px=chosen.forwarded_px, cuts=chosen.cuts)

    def run(self) -> Facts:
        """All patches."""
        if self._at_once == 1:
            for x in self._inputs:
                self._call(x)
        else:
            with ThreadPoolExecutor(self._at_once) as pool:
                for _ in pool.map(self._forget, self._inputs):
                    pass
        self._finish()
        return self._facts

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The answer to a normalised batch."""
        return np.array(self._fetch(self._call(self._ready(batch))))

    def _forget(self, x: Any) -> None:
        self._call(x)

    def _patch(self, source: Any, index: int, height: int, width: int) -> Any:
        """The index-th patch of a shape: somewhere on the scene, past its end zeros."""
        row, col = (
            index * 61 % max(1, size - side) for size, side in zip(source.shape, (height, width), strict=True)
        )
        window = Window(col, row, width, height)
        values = self._calibration.apply(source.read(window=window, boundless=True, fill_value=0))
        return self._ready(values[None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bones:
    """A network in a runtime."""

    call: Call
    """The call itself."""
    ready: Call
    """Makes an input of a normalised batch."""
    fetch: Call = np.asarray
    """Makes an array of an answer."""
    finish: Callable[[], object] = bool
    """Waits until everything asked for is done."""


def _torch(job: Job, threads: int) -> Bones:
    import torch

    torch.set_num_threads(threads)
    network, _ = load_network(job.network, job.work / "networks")
    network.to(job.device, memory_format=torch.channels_last)
    bf16 = job.runtime == "torch-bf16"

    def ready(batch: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(batch).to(job.device).to(memory_format=torch.channels_last)

    def call(x: torch.Tensor) -> Any:
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            return network(x)

    # On a GPU calls only queue up work.
    return Bones(
        call=call,
        ready=ready,
        fetch=lambda logits: logits.float().cpu().numpy(),
        finish=torch.cuda.synchronize if job.device != "cpu" else bool,
    )


def _openvino(job: Job, threads: int) -> Bones:
    import openvino

    from benchmarks import tool

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the machine may be shared
    }
    with tool.graph(job) as path:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return Bones(
        call=lambda x: request.infer([x], share_inputs=True, share_outputs=True)[0],
        ready=np.ascontiguousarray,
    )


def _onnxruntime(job: Job, threads: int) -> Bones:
    import onnxruntime

    from benchmarks import tool

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tool.graph(job) as path:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Bones(call=lambda x: session.run(None, {name: x})[0], ready=np.ascontiguousarray)


RUNTIMES: dict[str, Callable[[Job, int], Bones]] = {
    "torch": _torch,
    "torch-bf16": _torch,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
"""What sets each of them up, given the job and the threads of a call."""
