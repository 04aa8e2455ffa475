"""What is fixed before the first step: data, normalisation, windows, and when the run is over."""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from geoseg.data import Area, Crop, Survey, blocks, draw, hold, read_padded, survey, vary
from geoseg.errors import LabelError, explain
from geoseg.inference import normalise
from geoseg.legend import IGNORE_INDEX
from geoseg.package import Band
from geoseg.raster.labels import read_labels
from geoseg.train.record import TrainEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from geoseg.config import TrainConfig
    from geoseg.train.distributed import Group
    from geoseg.train.record import Stage
    from geoseg.windows import Window

_log = logging.getLogger(__name__)
_LARGE_PX = 512
"""Side of validation windows where nothing is said: much of a smaller one would lie near its border."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """Everything the loop reads and never changes."""

    config: TrainConfig
    areas: tuple[Area, ...]
    held: tuple[Crop, ...] | None
    found: Survey
    bands: tuple[Band, ...]
    validation: tuple[tuple[Area, Window], ...]
    group: Group
    on_progress: Callable[[TrainEvent], None]
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.monotonic() - self.started

    @property
    def steps(self) -> int:
        """Steps there will be, unless time runs out."""
        return self.config.training.epochs * self.config.training.steps_per_epoch

    @property
    def patch_px(self) -> int:
        """Side of validation windows, and of the patch that speed is measured on."""
        return _large_px(self.config)

    def progress(self, step: int) -> float:
        """Share of the run that is over after `step` steps: of steps or of time, whichever is more.

        All processes of a group are to ask together: the first one's clock counts.
        """
        minutes = self.config.training.minutes
        if minutes is None:
            return step / self.steps
        return self.group.first(max(step / self.steps, self.seconds / (60 * minutes)))

    def tell(self, stage: Stage, *, step: int, **facts: Any) -> None:
        """Pass an event on to whoever watches."""
        minutes, left = self.config.training.minutes, None
        if step:
            left = self.seconds * (self.steps / step - 1)
            left = min(left, max(0.0, 60 * minutes - self.seconds)) if minutes else left
        event = TrainEvent(
            stage=stage, step=step, steps=self.steps, seconds=self.seconds, seconds_left=left, **facts
        )
        self.on_progress(event)

    def batch(self, epoch: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Pixels (n, bands, p, p), normalised and varied, and targets (n, p, p) of one batch of an epoch.

        These are the batch's windows, or this process's share of them.
        """
        size = self.config.training.batch_size
        share = size // self.group.size
        first = number * size + self.group.rank * share
        examples = [self._example(epoch, first + i) for i in range(share)]
        return np.stack([pixels for pixels, _ in examples]), np.stack([target for _, target in examples])

    def _example(self, epoch: int, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        t = self.config.training
        how = draw(
            self.found,
            self.areas,
            patch_px=t.patch_px,
            seed=t.seed,
            epoch=epoch,
            index=index,
            balanced=t.balanced,
            augment=t.augment,
            jitter=t.jitter,
        )
        held = self.held[how.area] if self.held else None
        crop = read_padded(self.areas[how.area], held, how.window)
        return vary(normalise(crop.values, crop.valid, self.bands), crop, how)


def prepare(
    config: TrainConfig,
    areas: tuple[Area, ...],
    held_out: tuple[Area, ...],
    *,
    group: Group,
    on_progress: Callable[[TrainEvent], None],
) -> Run:
    """The run as far as it can be known beforehand: one pass over the training areas.

    Raises:
        GeosegError: there is nothing to learn from or to validate on.
    """
    t = config.training
    on_progress(TrainEvent(stage="survey", epoch=0, step=0, steps=t.epochs * t.steps_per_epoch, seconds=0.0))
    held = hold(areas)
    found = survey(areas, held, classes=len(config.legend), seed=t.seed)
    absent = [n for n, count in zip(config.legend.names, found.class_px, strict=True) if not count]
    if absent:
        _log.warning("no training pixel is labelled %s: the model will not learn it", " or ".join(absent))
    bands = tuple(
        Band(name=n, mean=float(m), std=float(s))
        for n, m, s in zip(config.bands, found.mean, found.std, strict=True)
    )
    return Run(
        config=config,
        areas=areas,
        held=held,
        found=found,
        bands=bands,
        validation=_validation_windows(held_out, config),
        group=group,
        on_progress=on_progress,
    )


def _large_px(config: TrainConfig) -> int:
    patch = config.inference.patch_px
    return max(config.training.patch_px, _LARGE_PX) if patch == "auto" else patch


def _validation_windows(areas: Sequence[Area], config: TrainConfig) -> tuple[tuple[Area, Window], ...]:
    """Grid windows with labels, thinned evenly to the number wanted."""
    labelled = [
        (area, window)
        for area in areas
        for window in blocks(area.window, _large_px(config))
        if (read_labels(area.labels, window) != IGNORE_INDEX).any()
    ]
    if areas and not labelled:
        raise LabelError(
            explain(
                "there is nothing to validate on",
                at=", ".join(a.scene.name for a in areas),
                expected="labelled pixels in the validation scenes",
                found="none within the windows used",
                change="Check their `window` and labels, or leave `validation` empty.",
            )
        )
    count = min(len(labelled), config.training.validation_windows)
    return tuple(labelled[i * len(labelled) // count] for i in range(count))


def ahead(make: Callable[[int], T], count: int, *, workers: int) -> Generator[T]:
    """make(0), make(1), ... in order, made by threads a little ahead of being asked for."""
    if workers == 0:
        yield from map(make, range(count))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    try:
        pending = deque(pool.submit(make, i) for i in range(min(count, workers + 1)))
        for i in range(count):
            made = pending.popleft().result()
            if i + workers + 1 < count:
                pending.append(pool.submit(make, i + workers + 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
