"""How an evaluation is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geoseg.cli.console import Console


def score_lines(console: Console, evaluation: Mapping[str, Any]) -> list[str]:
    """One line on the whole and a table by class, from an evaluation's JSON document."""
    scores = evaluation["scores"]
    names = [c["name"] for c in evaluation["legend"]["classes"]]
    keys = ("iou", "f1", "producers_accuracy", "users_accuracy")
    rows = [
        (name, f"{c['reference_px']:,}", *(percent(c[key]) for key in keys))
        for name, c in zip(names, scores["classes"], strict=True)
    ]
    present = sum(c["iou"] is not None for c in scores["classes"])
    return [
        (
            f"mean IoU {percent(scores['mean_iou'])} over the {present} classes present, overall accuracy "
            f"{percent(scores['overall_accuracy'])}, {scores['pixels']:,} reference pixels"
        ),
        *console.table(("class", "reference px", "IoU", "F1", "producer's", "user's"), rows),
    ]


def percent(share: float | None) -> str:
    """A share as percent; a class that is absent has none."""
    return "absent" if share is None else f"{100 * share:.1f} %"
