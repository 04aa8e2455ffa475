"""CPU time, wall time and memory of a piece of work in this process; the machine it ran on."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.jobs import Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_GPU_EVERY_MS = 50
_STATUS = Path("/proc/self/status")
_PACKAGES = (
    "geoseg",
    "torch",
    "openvino",
    "onnxruntime",
    "segmentation-models-pytorch",
    "rasterio",
    "shapely",
    "pyogrio",
    "numba",
    "dask",
)


def measured(work: Callable[[], T]) -> tuple[T, Cost]:
    """What `work` returns, and what it took."""
    start_mb = rss_mb()
    cpu, wall = cpu_s(), time.perf_counter()
    result = work()
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    return result, Cost(cpu_s=cpu, wall_s=wall, peak_mb=peak_mb(), start_mb=start_mb)


@contextmanager
def gpu_busy() -> Iterator[list[float]]:
    """Fills the list with samples of the first GPU's utilisation, 0 to 1, while the block runs."""
    samples: list[float] = []
    query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    command = [*query, f"--loop-ms={_GPU_EVERY_MS}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:  # noqa: S603 - fixed words

        def collect() -> None:
            samples.extend(float(line) / 100 for line in watch.stdout or () if line.strip().isdigit())

        reader = threading.Thread(target=collect)
        reader.start()
        try:
            yield samples
        finally:
            watch.terminate()
            reader.join()


def cpu_s() -> float:
    """User and system seconds so far of this process and of children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def rss_mb() -> float:
    """Resident memory now."""
    return _status("VmRSS") or peak_mb()


def peak_mb() -> float:
    """Largest resident memory so far.

    Not `ru_maxrss` where it can be helped: a process inherits that from the one that started it.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(key: str) -> float | None:
    if not _STATUS.exists():
        return None
    lines = (line.split() for line in _STATUS.read_text("utf-8").splitlines())
    return next((int(words[1]) / 1024 for words in lines if words[0] == f"{key}:"), None)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_mb() -> float | None:
    """Memory that programs could still take; None: unknown."""
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return None
    lines = (line.split() for line in memory.read_text("utf-8").splitlines())
    return next((int(words[1]) / 1024 for words in lines if words[0] == "MemAvailable:"), None)


def machine() -> list[str]:
    """The machine and the versions, one fact per line."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    total = _total_gb()
    facts = [
        f"{_processor()}, {cores()} cores, {f'{total:.0f} GB' if total else 'unknown memory'}",
        *_gpus(),
        f"{platform.system()} {platform.release()}, load average {load} when this was written",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{p} {v}" for p in _PACKAGES if (v := _version(p))),
    ]
    return [fact for fact in facts if fact]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _total_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603 - found on the path
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
