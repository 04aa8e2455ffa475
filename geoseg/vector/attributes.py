"""Finished regions become features: what is known of their pixels, and what their outlines measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoseg.vector.features import FeatureBatch
from geoseg.vector.lengths import Ruler, outlined_area

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from odc.geo.geobox import GeoBox

    from geoseg.vector.merge import RegionBatch


def features_of(
    batches: Iterable[RegionBatch], geobox: GeoBox, *, generalised: bool
) -> Iterator[FeatureBatch]:
    """The regions with perimeter, area and shares.

    Args:
        batches: finished regions; asked for one at a time.
        geobox: the product's grid.
        generalised: outlines are not around exactly their pixels, so that their areas are their own.
    """
    ruler = Ruler.of(geobox)
    for batch in batches:
        perimeter, area_px = ruler.measure(batch.outlines)
        raw = batch.area_m2
        yield FeatureBatch(
            outlines=batch.outlines,
            region_id=batch.region_id,
            class_id=batch.class_id,
            area_m2=outlined_area(raw, batch.pixels, area_px) if generalised else raw,
            perimeter_m=perimeter,
            pixels=batch.pixels,
            mean_confidence=batch.mean_confidence,
            min_confidence=batch.min_confidence,
            confidence_count=batch.confidence_count,
            raw_area_m2=raw if generalised else None,
            shares=None if batch.mix is None else batch.mix / batch.pixels[:, None],
        )
