"""How well a map agrees with reference data: confusion matrices that add up, and scores from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from geoseg.legend import IGNORE_INDEX
from geoseg.value import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray


def confusion(reference: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixel counts, shape (classes, classes + 1): rows are the reference, columns the prediction.

    The last column counts reference pixels that were left unpredicted: they are wrong, not forgotten. Pixels
    the reference ignores are not counted. Matrices of parts add up to that of the whole.

    Args:
        reference: class indices of any shape; IGNORE_INDEX where nothing is known.
        predicted: class indices of the same shape; IGNORE_INDEX where there is no prediction.
        classes: number of classes.

    Raises:
        ValueError: shapes differ, or there is an index that is neither a class nor IGNORE_INDEX.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"reference {reference.shape} and prediction {predicted.shape} differ in shape")
    known = reference != IGNORE_INDEX
    rows, columns = reference[known].astype(np.intp), predicted[known].astype(np.intp)
    unpredicted = columns == IGNORE_INDEX
    highest = max(rows.max(initial=-1), columns[~unpredicted].max(initial=-1))
    if highest >= classes:
        raise ValueError(f"class index {highest} where there are {classes} classes")
    columns[unpredicted] = classes
    counts = np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1).astype(np.int64)


class ClassScores(Value):
    """One class. A ratio without a denominator is None, never 0."""

    reference_px: int = Field(description="Pixels of the class in the reference")
    predicted_px: int = Field(description="Pixels predicted as the class, where the reference knows")
    iou: float | None = Field(description="Intersection over union; None if absent from the reference")
    f1: float | None = Field(description="Harmonic mean of the accuracies; None like iou")
    producers_accuracy: float | None = Field(description="Share of the reference found (recall)")
    users_accuracy: float | None = Field(
        description="Share of the prediction that is right (precision); None if none was predicted"
    )


class Scores(Value):
    """Agreement over all classes.

    Means are over the classes present in the reference. A class that is absent there has no IoU: counting it
    as 0 would punish a perfect map of a place without water. Where it is predicted all the same, the class
    that was meant pays.
    """

    pixels: int = Field(description="Reference pixels counted")
    unpredicted_px: int = Field(description="Of these, without a prediction: counted as wrong")
    overall_accuracy: float | None = Field(description="Share of pixels that agree")
    mean_iou: float | None = Field(description="Over classes present in the reference")
    mean_f1: float | None = Field(description="Over classes present in the reference")
    frequency_weighted_iou: float | None = Field(description="IoU weighted by reference pixels")
    classes: tuple[ClassScores, ...] = Field(description="By class index")

    @classmethod
    def of(cls, matrix: NDArray[np.int64]) -> Scores:
        """Scores from a matrix as `confusion` makes it; every ratio is None where nothing was counted."""
        per_class = tuple(_class_scores(matrix, i) for i in range(len(matrix)))
        total = int(matrix.sum())
        present = [c for c in per_class if c.iou is not None]
        return cls(
            pixels=total,
            unpredicted_px=int(matrix[:, -1].sum()),
            overall_accuracy=_ratio(int(np.trace(matrix)), total),
            mean_iou=_mean([c.iou for c in present]),
            mean_f1=_mean([c.f1 for c in present]),
            frequency_weighted_iou=_ratio(sum((c.iou or 0.0) * c.reference_px for c in present), total),
            classes=per_class,
        )


def _class_scores(matrix: NDArray[np.int64], index: int) -> ClassScores:
    hits = int(matrix[index, index])
    reference, predicted = int(matrix[index].sum()), int(matrix[:, index].sum())
    return ClassScores(
        reference_px=reference,
        predicted_px=predicted,
        iou=_ratio(hits, reference + predicted - hits) if reference else None,
        f1=_ratio(2 * hits, reference + predicted) if reference else None,
        producers_accuracy=_ratio(hits, reference),
        users_accuracy=_ratio(hits, predicted),
    )


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
