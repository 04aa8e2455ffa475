"""What the finished tiles of a job say together: counts, areas, and what somebody should look at."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from geoseg.manifest import ClassShare, Counts, Outlined
from geoseg.units import unlike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.legend import Legend
    from geoseg.package import Card
    from geoseg.tasks import TileDone
    from geoseg.vector.summary import Totals

_SUSPICIOUS_SHARE = 0.01


def count(done: Sequence[TileDone], legend: Legend) -> Counts:
    """Pixels and areas by class."""
    pixels: Counter[int] = Counter()
    area: Counter[int] = Counter()
    # In tile order, whatever order they finished in: the same sums to the last bit.
    for tile in sorted(done, key=lambda t: (t.row, t.col)):
        pixels.update(tile.pixels)
        area.update(tile.area_m2)  # counters add floats just as well
    shares = tuple(
        ClassShare(id=c.id, name=c.name, pixels=pixels[c.id], area_m2=float(area[c.id]))
        for c in legend.classes
    )
    nodata = pixels[legend.nodata]
    return Counts(valid=sum(pixels.values()) - nodata, nodata=nodata, classes=shares)


def outlined(totals: Totals, legend: Legend) -> tuple[Outlined, ...]:
    """What the polygons come to by class, for those that occur."""
    return tuple(
        Outlined(
            id=row.class_id,
            name=row.class_name,
            polygons=row.polygons,
            pixels=row.pixels,
            area_m2=None if math.isnan(row.area_m2) else row.area_m2,
            area_change_m2=row.area_change_m2,
        )
        for row in totals.rows(legend)
    )


def warnings_of(done: Sequence[TileDone], card: Card) -> tuple[str, ...]:
    """What the values of the scene give reason to doubt."""
    looked_at = sum(tile.looked_at for tile in done)
    if looked_at == 0:
        return ()
    return (*_undeclared_nodata(done, looked_at), *_unlike_training(done, card, looked_at))


def _undeclared_nodata(done: Sequence[TileDone], looked_at: int) -> tuple[str, ...]:
    """A warning where much of the scene is one extreme value that nothing declares as nodata."""
    found: Counter[int] = Counter()
    for tile in done:
        found.update(tile.suspects)
    return tuple(
        f"{100 * count / looked_at:.1f} % of the pixels hold {value} in every band and were given a class, "
        f"for nothing declares {value} as nodata; if it is, predict again with --nodata {value} --overwrite"
        for value, count in sorted(found.items())
        if count > _SUSPICIOUS_SHARE * looked_at
    )


def _unlike_training(done: Sequence[TileDone], card: Card, looked_at: int) -> tuple[str, ...]:
    """A warning where the scene's values are far from those the normalisation was measured on."""
    mean = np.sum([t.sums for t in done if t.sums], axis=0) / looked_at
    squares = np.sum([t.squares for t in done if t.squares], axis=0) / looked_at
    spread = np.sqrt(np.maximum(squares - mean**2, 0))
    how = unlike(card.bands, mean.tolist(), spread.tolist())
    advice = "other units or another sensor? See --scale and --offset"
    return () if how is None else (f"values are unlike those the model was made for ({how}): {advice}",)
