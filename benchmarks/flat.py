"""geoseg with an answer that is cheap and real: the class follows from the pixel's own value."""

from __future__ import annotations

from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import tool
from benchmarks.specs import NETWORKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.contenders import Work
    from benchmarks.jobs import Job


def geoseg_by_value(job: Job) -> Work:
    """Class raster only."""
    return _with_values(job, everything=False)


def geoseg_all_by_value(job: Job) -> Work:
    """With confidence and polygons."""
    return _with_values(job, everything=True)


def _with_values(job: Job, *, everything: bool) -> Work:
    at_once = BoundedSemaphore(tool.concurrency(job)[0])
    centres = np.linspace(-1.5, 1.5, NETWORKS[job.network].classes, dtype=np.float32)

    def answer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits that fall with the distance of the first band from each class's centre."""
        with at_once:
            # Fresh memory, as a network's answer is.
            logits = np.empty((len(batch), len(centres), *batch.shape[2:]), np.float32)
            for i, centre in enumerate(centres):
                np.subtract(batch[:, 0], centre, out=logits[:, i])
                np.abs(logits[:, i], out=logits[:, i])
                np.negative(logits[:, i], out=logits[:, i])
            return logits

    return tool.answered(job, answer, everything=everything)
