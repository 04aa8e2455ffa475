"""How an evaluation is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geoseg.cli.console import Console


def score_lines(console: Console, evaluation: Mapping[str, Any]) -> list[str]:
    """One line on the whole, a table by class, and a line on all else, from an evaluation's JSON document."""
    scores, boundary = evaluation["scores"], evaluation.get("boundary")
    names = [c["name"] for c in evaluation["legend"]["classes"]]
    keys = ("iou", "f1", "producers_accuracy", "users_accuracy")
    edges = boundary["classes"] if boundary else [None] * len(names)
    rows = [
        (
            name,
            f"{c['reference_px']:,}",
            *(percent(c[key]) for key in keys),
            *([] if edge is None else [percent(edge["iou"]), percent(edge["f1"])]),
        )
        for name, c, edge in zip(names, scores["classes"], edges, strict=True)
    ]
    present = sum(c["iou"] is not None for c in scores["classes"])
    absent = evaluation.get("absent") or ()
    left_out = f"; not in the reference, not counted: {', '.join(absent)}" if absent else ""
    columns = ["class", "reference px", "IoU", "F1", "producer's", "user's"]
    if boundary:
        columns += ["boundary IoU", "boundary F1"]
    return [
        (
            f"mean IoU {percent(scores['mean_iou'])} over the {present} classes present, overall accuracy "
            f"{percent(scores['overall_accuracy'])}, {scores['pixels']:,} reference pixels{left_out}"
        ),
        *console.table(columns, rows),
        *_boundary_line(boundary),
        *_object_lines(console, names, evaluation.get("objects")),
        *_reliability_line(evaluation.get("reliability")),
        *_polygon_line(evaluation.get("polygons")),
        *_interval_lines(console, names, evaluation.get("intervals")),
    ]


def percent(share: float | None) -> str:
    """A share as percent; a class that is absent has none."""
    return "absent" if share is None else f"{100 * share:.1f} %"


def _boundary_line(boundary: Mapping[str, Any] | None) -> list[str]:
    if not boundary:
        return []
    line = (
        f"boundaries, {boundary['tolerance_m']:.4g} m: mean IoU {percent(boundary['mean_iou'])}, "
        f"mean F1 {percent(boundary['mean_f1'])}"
    )
    return [line]


def _object_lines(console: Console, names: list[str], objects: Mapping[str, Any] | None) -> list[str]:
    if not objects:
        return []
    columns = ["objects found", *(_size(group) for group in objects["classes"][0])]
    rows = [
        (name, *(f"{g['found']:,} of {g['objects']:,}" if g["objects"] else "-" for g in groups))
        for name, groups in zip(names, objects["classes"], strict=True)
        if any(g["objects"] for g in groups)
    ]
    return console.table(columns, rows)


def _size(group: Mapping[str, Any]) -> str:
    upper = group["to_px"]
    return f"{group['from_px']:,} px or more" if upper is None else f"{group['from_px']:,}-{upper - 1:,} px"


def _reliability_line(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    line = (
        f"confidence: {percent(found['mean_confidence'])} on average, right in {percent(found['accuracy'])}, "
        f"calibration error {percent(found['expected_error'])}"
    )
    return [line]


def _polygon_line(polygons: Mapping[str, Any] | None) -> list[str]:
    if not polygons:
        return []
    share = polygons["disagreement_px"] / max(1, polygons["compared_px"])
    scores = polygons["scores"]
    line = (
        f"polygons: mean IoU {percent(scores['mean_iou'])}, overall accuracy "
        f"{percent(scores['overall_accuracy'])}; {polygons['disagreement_px']:,} px ({100 * share:.3g} %) "
        "are not of the raster's class"
    )
    return [line]


def _interval_lines(console: Console, names: list[str], found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    keys = ("iou", "producers_accuracy", "users_accuracy")
    rows = [
        (name, c["polygons"], *(_range(c[key]) for key in keys))
        for name, c in zip(names, found["classes"], strict=True)
        if c["polygons"]
    ]
    head = (
        f"over draws of the {found['polygons']} reference polygons, 95 % intervals: mean IoU "
        f"{_range(found['mean_iou'])}, overall accuracy {_range(found['overall_accuracy'])}"
    )
    return [head, *console.table(("class", "polygons", "IoU", "producer's", "user's"), rows)]


def _range(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "unknown"
    return f"{percent(found['value'])} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
