"""Training as TensorBoard shows it: one who watches, and writes down what is told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from geoseg.errors import UsageError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from geoseg.train.record import TrainEvent


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[[TrainEvent], None]]:
    """A listener for `train` that writes loss, learning rate and mean IoU by step to `folder`.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            explain(
                "curves cannot be written for TensorBoard",
                at=folder,
                expected="the package tensorboard",
                found=str(error),
                change="pip install tensorboard, or look at the curves in the model package.",
            )
        ) from error

    with SummaryWriter(str(folder)) as writer:

        def watch(event: TrainEvent) -> None:
            for name, value in _curves(event).items():
                writer.add_scalar(name, value, event.step)

        yield watch


def _curves(event: TrainEvent) -> dict[str, float]:
    """What an event adds, by name of the curve."""
    told: dict[str, float | None] = {}
    if event.stage == "step":
        told = {"step/loss": event.loss, "step/learning_rate": event.learning_rate}
    elif event.stage == "epoch":
        told = {"epoch/loss": event.loss, "epoch/mean_iou": event.mean_iou}
    return {name: value for name, value in told.items() if value is not None}
