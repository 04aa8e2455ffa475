"""Several files of one grid as one scene."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import SceneError, UsageError, explain
from geoseg.raster.header import read_headers
from geoseg.raster.placement import place
from geoseg.raster.scene import Piece, Scene, describe_grid, geobox_of, scene_of
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from geoseg.raster.header import Header


def open_mosaic(
    paths: Sequence[str | Path],
    *,
    name: str,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
) -> Scene:
    """The scene that the files at `paths` form together. Reads headers only, however many there are.

    Where files overlap, the last one lies on top; where it has no data, those below show. A pixel's bands all
    come from one file: the topmost in which every band has data. Where no file is, there is no data.

    Args:
        paths: files of one CRS, pixel size and data type with the same bands, on one grid: their pixels
            coincide to a hundredth of their size.
        name: stem of output file names.
        bands: names for the bands of every file in order, as for `open_scene`.
        nodata: a value without data, as for `open_scene`.

    Raises:
        SceneError: a file cannot be opened, or does not go with the first.
    """
    if not paths:
        raise UsageError("a mosaic needs at least one file")
    twice = [str(path) for path, n in Counter(str(p) for p in paths).items() if n > 1]
    if twice:
        raise UsageError(f"a mosaic takes each file once; given more often: {', '.join(twice)}")
    headers = read_headers(paths)
    scenes = [scene_of(header, bands=bands, nodata=nodata) for header in headers]
    first = scenes[0]
    for header, scene in zip(headers, scenes, strict=True):
        _require_alike(first, scene, header)
    windows = [_window_in(first, header) for header in headers]
    whole = windows[0]
    for window in windows:
        whole = whole.cover(window)
    pieces = tuple(
        Piece(path=header.path, window=Window(w.row - whole.row, w.col - whole.col, w.height, w.width))
        for header, w in zip(headers, windows, strict=True)
    )
    masks = dict.fromkeys(m for scene in scenes for m in scene.masks)
    return replace(
        first,
        name=name,
        geobox=geobox_of(first.geobox, whole),
        files=tuple(dict.fromkeys(f for scene in scenes for f in scene.files)),
        states=tuple(dict.fromkeys(s for scene in scenes for s in scene.states)),
        alpha_is_data=any(scene.alpha_is_data for scene in scenes),
        masks=(*masks, *(["gaps between the files"] if _has_gaps(pieces, whole.shape) else [])),
        pieces=pieces,
    )


def _require_alike(first: Scene, scene: Scene, header: Header) -> None:
    for what, a, b in (
        ("data type", first.dtype, scene.dtype),
        ("bands", _bands(first), _bands(scene)),
    ):
        if a != b:
            raise _unlike(what, expected=f"{a}, as in {first.paths[0]}", found=b, path=header.path)


def _bands(scene: Scene) -> str:
    return ", ".join(f"{b.index} {b.name}" for b in scene.bands)


def _window_in(first: Scene, header: Header) -> Window:
    """Where the file lies in the pixel plane of the first."""
    placed = place(header.geobox, first.geobox)
    if placed is None or not placed.is_aligned:
        expected = (
            f"pixels that coincide with those of {first.paths[0]}, extended: {describe_grid(first.geobox)}"
        )
        found = describe_grid(header.geobox)
        raise _unlike("grid", expected=expected, found=found, path=header.path)
    return placed.window


def _unlike(what: str, *, expected: str, found: str, path: str) -> SceneError:
    change = {
        "grid": "Bring all files to one grid first (for example with gdalwarp -tap -tr), or predict them "
        "one by one.",
        "bands": "Name the bands with --bands if only their names differ, else predict the files one by one.",
        "data type": "Convert them to one type first (gdal_translate -ot), or predict them one by one.",
    }[what]
    return SceneError(
        explain(
            f"files of a mosaic differ in their {what}",
            at=path,
            expected=expected,
            found=found,
            change=change,
        )
    )


def _has_gaps(pieces: Sequence[Piece], shape: tuple[int, int]) -> bool:
    """True when the files leave a pixel of the plane out, told from their edges alone."""
    windows = [p.window for p in pieces]
    rows = np.unique([0, shape[0], *(e for w in windows for e in (w.row, w.stop_row))])
    cols = np.unique([0, shape[1], *(e for w in windows for e in (w.col, w.stop_col))])
    covered = np.zeros((len(rows) - 1, len(cols) - 1), bool)
    for w in windows:
        i, k = np.searchsorted(rows, (w.row, w.stop_row))
        j, m = np.searchsorted(cols, (w.col, w.stop_col))
        covered[i:k, j:m] = True
    return not covered.all()
