"""Features of class maps, for the tests of what is written of them."""

import numpy as np
from odc.geo.geobox import GeoBox

from geoseg.legend import Legend, LegendClass
from geoseg.vector.area import pixel_areas
from geoseg.vector.features import NO_CONFIDENCE, FeatureBatch
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

NODATA = 255
LEGEND = Legend(
    classes=(
        LegendClass(id=0, name="Water", color="#0000ff"),
        LegendClass(id=1, name="Woods & <trees>", color="#008000"),
        LegendClass(id=9, name="Äcker", color="#ffcc00"),
    )
)


def random_map(shape=(40, 50), seed=0):
    return np.random.default_rng(seed).choice(np.array([0, 0, 0, 1, 9, NODATA], np.uint8), shape)


def feature_batch(
    classes: np.ndarray, geobox: GeoBox, *, confidence=None, connectivity=4, **more: np.ndarray
) -> FeatureBatch:
    """All regions of a map in one batch, ordered by region id."""
    scene = Window(0, 0, *classes.shape)
    found = trace_tile(
        classes,
        confidence=confidence,
        pixel_area=pixel_areas(geobox, scene),
        core=scene,
        scene=scene,
        nodata=NODATA,
        connectivity=connectivity,
    )
    table, count = found.table, found.table.confidence_count
    mean = np.where(count > 0, table.confidence_sum / np.maximum(count, 1), np.nan)
    first, outlines = table.first_pixel.astype(np.int64), found.outlines
    points = outlines.ring_offsets[outlines.polygon_offsets[outlines.region_offsets]]
    return FeatureBatch(
        outlines=outlines,
        region_id=first[:, 0] * classes.shape[1] + first[:, 1],
        class_id=table.class_id,
        area_m2=table.area_m2,
        perimeter_m=10.0 * np.diff(points),
        pixels=table.pixels,
        mean_confidence=mean,
        min_confidence=np.where(count > 0, table.confidence_min, NO_CONFIDENCE).astype(np.uint8),
        confidence_count=count,
        **more,
    )


def parts(batch: FeatureBatch, size: int) -> list[FeatureBatch]:
    return [batch.part(i, min(i + size, len(batch))) for i in range(0, len(batch), size)]
