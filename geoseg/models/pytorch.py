"""The reference: PyTorch on the CPU, eager, float32."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from geoseg.models.batches import require_batch
from geoseg.models.devices import one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geoseg.models.segmenter import Segmenter


class TorchPredictor:
    """Raw logits of a network for batches of patches; safe to call from several threads.

    The network is taken over: put into evaluation mode and into channels-last memory, where convolutions are
    faster. Each call computes in the calling thread alone. Some operations are cut up differently for several
    threads and then round differently: the same patch would not always get the same logits.
    """

    def __init__(self, model: Segmenter, *, bands: int) -> None:
        self.bands = bands
        """Channels a batch must have."""
        self._model = model.eval().to(memory_format=torch.channels_last)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, classes, h, w), C-contiguous, for normalised patches (n, bands, h, w).

        Raises:
            MismatchError: when the batch is not four-dimensional float32 with the network's bands.
        """
        with self.lend(batch) as logits:
            return np.ascontiguousarray(logits)

    @contextmanager
    def lend(self, batch: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """The same, with the classes of a pixel side by side in memory, as the network leaves them.

        Raises:
            MismatchError: when the batch is not four-dimensional float32 with the network's bands.
        """
        patches = as_patches(batch, bands=self.bands)
        with torch.inference_mode(), one_thread():
            logits = self._model(patches.to(memory_format=torch.channels_last))
        del patches  # a copy in other order, which nobody needs while the block runs
        yield logits.numpy()


def as_patches(batch: NDArray[np.float32], *, bands: int) -> torch.Tensor:
    """The batch as a tensor, sharing its memory where torch can.

    Raises:
        MismatchError: when it is not four-dimensional float32 with that many bands.
    """
    require_batch(batch, bands=bands, by="PyTorch")
    # torch wants to be allowed to write to what it shares, although predictors do not, and counts forwards.
    shared = batch.flags.writeable and all(stride >= 0 for stride in batch.strides)
    return torch.from_numpy(batch if shared else batch.copy())
