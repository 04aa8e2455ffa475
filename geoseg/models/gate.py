"""Bounds how many network calls run at once, by lending predictors to the threads that ask."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from geoseg.stitch import Confidence


class Answers(Protocol):
    """A predictor, as far as a gate knows it."""

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Logits (n, classes, h, w) of normalised patches (n, bands, h, w)."""


class Decides(Answers, Protocol):
    """A predictor that can also decide, where its logits are."""

    def decide(
        self, batch: NDArray[np.float32], confidence: Confidence | None, temperature: float | None = None, /
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Class index and confidence percent of each pixel, both (n, h, w)."""


P = TypeVar("P", bound=Answers)


class Gate(Generic[P]):
    """As many calls at once as predictors were given; further ones wait. Safe to call from several threads.

    A predictor given twice serves two calls at once. Who has rested longest is lent first, so that work
    spreads over several GPUs.
    """

    def __init__(self, predictors: Sequence[P]) -> None:
        if not predictors:
            raise ValueError("a gate without predictors would let nobody through")
        self.calls = len(predictors)
        """Calls that run at once."""
        self._free: SimpleQueue[P] = SimpleQueue()
        for predictor in predictors:
            self._free.put(predictor)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a predictor answers, once one is free."""
        with self._lent() as predictor:
            return predictor(batch)

    @contextmanager
    def lend(self, batch: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """The same, to be read while the block runs; so no more answers are in memory than calls may run."""
        with self._lent() as predictor:
            lend = getattr(predictor, "lend", None)
            with nullcontext(predictor(batch)) if lend is None else lend(batch) as logits:
                yield logits

    @contextmanager
    def _lent(self) -> Iterator[P]:
        """A free predictor, which comes back whatever happens."""
        predictor = self._free.get()
        try:
            yield predictor
        finally:
            self._free.put(predictor)


class DecidingGate(Gate[Decides]):
    """A gate to predictors that can decide."""

    def decide(
        self, batch: NDArray[np.float32], confidence: Confidence | None, temperature: float | None = None, /
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """What a predictor decides, once one is free."""
        with self._lent() as predictor:
            return predictor.decide(batch, confidence, temperature)
