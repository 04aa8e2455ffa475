"""Pictures of a map: scene, truth, prediction and confidence side by side, and curves of a training run.

Uses matplotlib through its object interface only: no window, no global state, nothing that another thread
could disturb. Import this module where a picture is drawn, not at start-up: matplotlib takes half a second.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from geoseg.errors import UsageError, explain
from geoseg.files import replacing
from geoseg.stitch import CONFIDENCE_NODATA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from geoseg.legend import Legend
    from geoseg.windows import Window

NODATA_RGB = (222, 222, 222)
"""What pixels without data are drawn in."""
PICTURE_WIDTH_PX = 2000
"""Width of a map picture, unless that would make the file too large."""
MAX_PICTURE_BYTES = 2_000_000
"""Largest file `draw_map` writes; a noisy scene is drawn smaller to fit."""

_DPI = 100
_MARGIN, _GAP, _HEAD, _LABEL, _LEGEND_LINE, _NOTE = 28, 18, 62, 34, 34, 34  # pixels
_LEGEND_COLUMNS = 8
_MAX_PANEL_PX = 1500
_COLORMAP = "viridis"
_LOSS_COLOR, _IOU_COLOR = "#b5482e", "#2a6f97"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A rectangle drawn on every panel, e.g. the part of the scene that was used for training."""

    window: Window
    """In pixels of the arrays given to `draw_map`, not of the scene they were reduced from."""
    label: str
    """Written inside its upper-left corner, on the first panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPoint:
    """What is known after one epoch of training."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean training loss of the epoch."""
    mean_iou: float | None
    """Mean intersection over union on the validation part, 0 to 1; None when it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One picture of a row of pictures."""

    name: str
    """Written above it."""
    pixels: NDArray[np.uint8]
    """(height, width, 3)."""
    interpolation: str
    """How matplotlib resizes it."""


def stretch(bands: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`bands` (3, height, width) for display: in each, the 2nd percentile becomes 1 and the 98th 255.

    Percentiles are of valid pixels only. Pixels that are not valid become 0, which no valid pixel is, so that
    `draw_map` can show them as nodata.
    """
    shown = np.zeros(bands.shape, np.uint8)
    if not valid.any():
        return shown
    for band, out in zip(bands, shown, strict=True):
        values = band[valid].astype(np.float64)
        low, high = np.percentile(values, (2, 98))
        out[valid] = 1 + np.rint(np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 254).astype(
            np.uint8
        )
    return shown


def draw_map(
    path: Path,
    *,
    image: NDArray[np.uint8] | None,
    truth: NDArray[np.uint8] | None,
    prediction: NDArray[np.uint8],
    confidence: NDArray[np.uint8] | None,
    legend: Legend,
    title: str,
    note: str,
    outlines: Sequence[Outline] = (),
) -> None:
    """Write a PNG with scene, truth, prediction and confidence side by side, those that are given.

    Args:
        path: where the picture appears, complete or not at all.
        image: (3, height, width) red, green, blue as from `stretch`; 0 in all three is nodata.
        truth: (height, width) class ids.
        prediction: (height, width) class ids.
        confidence: (height, width) percent, 255 for none.
        legend: names and colours; classes that occur nowhere are not listed.
        title: one line above.
        note: one line below, e.g. where the data are from.
        outlines: rectangles drawn over every panel.

    Raises:
        UsageError: when the arrays differ in size.
        OutputError: when the picture cannot be written.
    """
    _check_sizes(path, prediction, image=image, truth=truth, confidence=confidence)
    panels = _panels(legend, image=image, truth=truth, prediction=prediction, confidence=confidence)
    keys = _keys(legend, [a for a in (truth, prediction) if a is not None])
    figure = _map_figure(panels, keys, outlines, title=title, note=note, bar=confidence is not None)
    _save(path, figure)


def draw_curves(path: Path, rows: Sequence[EpochPoint]) -> None:
    """Write a PNG with the training loss and the validation's mean IoU over epochs.

    Raises:
        UsageError: when `rows` is empty.
        OutputError: when the picture cannot be written.
    """
    if not rows:
        change = "Draw the curves after the first epoch."
        raise UsageError(
            explain(
                "no training curves to draw",
                at=path,
                expected="an epoch or more",
                found="none",
                change=change,
            )
        )
    figure = Figure(figsize=(9, 5), dpi=_DPI, layout="constrained")
    left = figure.add_subplot()
    left.plot([r.epoch for r in rows], [r.loss for r in rows], color=_LOSS_COLOR, marker=".")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color=_LOSS_COLOR)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylim(bottom=0)
    left.grid(visible=True, alpha=0.3)
    measured = [(r.epoch, r.mean_iou) for r in rows if r.mean_iou is not None]
    if measured:
        right = left.twinx()
        right.plot(*zip(*measured, strict=True), color=_IOU_COLOR, marker=".")
        right.set_ylabel("validation mean IoU", color=_IOU_COLOR)
        right.set_ylim(0, 1)
    left.spines["top"].set_visible(False)
    _save(path, figure)


def colorize(classes: NDArray[np.uint8], legend: Legend) -> NDArray[np.uint8]:
    """Class ids (height, width) as (height, width, 3) legend colours; nodata and unknown ids are grey."""
    table = np.full((256, 3), NODATA_RGB, np.uint8)
    for entry in legend.classes:
        table[entry.id] = entry.rgb
    return table[classes]


def _check_sizes(path: Path, prediction: NDArray[np.uint8], **others: NDArray[np.uint8] | None) -> None:
    for name, array in others.items():
        if array is not None and array.shape[-2:] != prediction.shape:
            raise UsageError(
                explain(
                    f"the {name} does not fit the prediction",
                    at=path,
                    expected=f"{prediction.shape} pixels",
                    found=f"{array.shape[-2:]}",
                    change="Read all of them at the same reduced size.",
                )
            )


def _panels(
    legend: Legend,
    *,
    image: NDArray[np.uint8] | None,
    truth: NDArray[np.uint8] | None,
    prediction: NDArray[np.uint8],
    confidence: NDArray[np.uint8] | None,
) -> list[_Panel]:
    """The panels to draw, from left to right."""
    panels = []
    if image is not None:
        shown = np.moveaxis(image, 0, -1).copy()
        shown[(image == 0).all(axis=0)] = NODATA_RGB
        panels.append(_Panel(name="scene", pixels=shown, interpolation="antialiased"))
    if truth is not None:
        panels.append(_Panel(name="truth", pixels=colorize(truth, legend), interpolation="nearest"))
    panels.append(_Panel(name="prediction", pixels=colorize(prediction, legend), interpolation="nearest"))
    if confidence is not None:
        shades = ScalarMappable(Normalize(0, 100), _COLORMAP).to_rgba(confidence, bytes=True)[..., :3].copy()
        shades[confidence == CONFIDENCE_NODATA] = NODATA_RGB
        panels.append(_Panel(name="confidence", pixels=shades, interpolation="nearest"))
    return panels


def _keys(legend: Legend, maps: Sequence[NDArray[np.uint8]]) -> list[Patch]:
    """Entries of the legend: the classes that occur in `maps`, and nodata."""
    present = {int(v) for array in maps for v in np.flatnonzero(np.bincount(array.ravel(), minlength=256))}
    keys = [
        Patch(facecolor=c.color, edgecolor="#00000055", label=c.name)
        for c in legend.classes
        if c.id in present
    ]
    grey = tuple(v / 255 for v in NODATA_RGB)
    if present - {c.id for c in legend.classes}:
        keys.append(Patch(facecolor=grey, edgecolor="#00000055", label="no data"))
    return keys


def _map_figure(
    panels: Sequence[_Panel],
    keys: Sequence[Patch],
    outlines: Sequence[Outline],
    *,
    title: str,
    note: str,
    bar: bool,
) -> Figure:
    """The whole picture. Everything is placed in pixels, so that panels are as large as they can be."""
    count, (rows, cols) = len(panels), panels[0].pixels.shape[:2]
    room = (PICTURE_WIDTH_PX - 2 * _MARGIN - (count - 1) * _GAP) / count
    wide = min(room, _MAX_PANEL_PX * cols / rows)
    tall = wide * rows / cols
    foot = _LEGEND_LINE * -(-max(1, len(keys)) // _LEGEND_COLUMNS) + _NOTE + 18
    full = tall + _HEAD + _LABEL + foot
    figure = Figure(figsize=(PICTURE_WIDTH_PX / _DPI, full / _DPI), dpi=_DPI, facecolor="white")
    for index, panel in enumerate(panels):
        left = _MARGIN + index * (room + _GAP) + (room - wide) / 2
        box = (left / PICTURE_WIDTH_PX, foot / full, wide / PICTURE_WIDTH_PX, tall / full)
        _draw_panel(figure, box, panel, outlines, labelled=index == 0)
    figure.text(_MARGIN / PICTURE_WIDTH_PX, 1 - 18 / full, title, size=19, weight="bold", va="top")
    figure.text(_MARGIN / PICTURE_WIDTH_PX, 12 / full, note, size=11, color="#555555", va="bottom")
    figure.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(_MARGIN / PICTURE_WIDTH_PX, (foot - 8) / full),
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        fontsize=13,
        handlelength=1.4,
        handleheight=1.1,
        columnspacing=1.6,
        borderaxespad=0,
        borderpad=0,
    )
    if bar:
        _draw_bar(figure, full)
    return figure


def _draw_panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    panel: _Panel,
    outlines: Sequence[Outline],
    *,
    labelled: bool,
) -> None:
    """One panel at `box` (left, bottom, width, height in fractions of the figure), north up."""
    axes = figure.add_axes(box)
    axes.imshow(panel.pixels, interpolation=panel.interpolation, aspect="auto")
    axes.set_title(panel.name, fontsize=15, loc="left", pad=6)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#888888")
    halo = [withStroke(linewidth=3, foreground="black")]
    for outline in outlines:
        at = outline.window
        corner = (at.col - 0.5, at.row - 0.5)
        frame = Rectangle(
            corner, at.width, at.height, fill=False, color="white", linewidth=1.6, path_effects=halo
        )
        axes.add_patch(frame)
        if labelled:
            axes.annotate(
                outline.label,
                corner,
                xytext=(7, -7),
                textcoords="offset points",
                color="white",
                size=12,
                va="top",
                path_effects=halo,
                annotation_clip=True,
            )


def _draw_bar(figure: Figure, full: float) -> None:
    """The scale of the confidence panel, at the lower right."""
    width, height = 300, 14
    left = PICTURE_WIDTH_PX - _MARGIN - width - 24  # room for half of "100 %"
    axes = figure.add_axes((left / PICTURE_WIDTH_PX, 34 / full, width / PICTURE_WIDTH_PX, height / full))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), _COLORMAP), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 50, 100], labels=["0 %", "confidence", "100 %"])
    bar.ax.tick_params(length=0, labelsize=11)
    bar.outline.set_visible(False)


def _encode(figure: Figure, dpi: float) -> bytes:
    """The figure as PNG."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    options = {"compress_level": 9}
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs=options, metadata={"Software": "geoseg"})
    return buffer.getvalue()


def _save(path: Path, figure: Figure) -> None:
    """Write `figure` to `path` by way of a temporary sibling, smaller when it would be too many bytes."""
    dpi = float(_DPI)
    data = _encode(figure, dpi)
    while len(data) > MAX_PICTURE_BYTES and dpi > _DPI / 4:
        dpi *= 0.85
        data = _encode(figure, dpi)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
