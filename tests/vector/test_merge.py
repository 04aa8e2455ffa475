from itertools import pairwise

import numpy as np
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from scipy import ndimage

from geoseg.vector.area import pixel_areas
from geoseg.vector.merge import merge_tiles
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

NODATA = 255
VALUES = [0, 1, 0, NODATA, 0, 1, 5]
GEOBOX = GeoBox((64, 64), Affine(10, 0, 300000, 0, -10, 7000000), "EPSG:32631")


@st.composite
def class_maps(draw):
    """Sparse maps, which shrink well, and dense random ones, where regions touch at corners."""
    shape = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    if draw(st.booleans()):
        return draw(arrays(np.uint8, shape, elements=st.sampled_from(VALUES), fill=st.just(0)))
    values = VALUES[: draw(st.integers(2, len(VALUES)))]
    return np.random.default_rng(draw(st.integers(0, 999))).choice(np.array(values, np.uint8), shape)


CUTS = st.sets(st.integers(1, 17), max_size=5)


def spans(size, marks):
    at = [0, *sorted({m for m in marks if 0 < m < size}), size]
    return list(pairwise(at))


def tiling(shape, rows, cols):
    return [
        Window(r, c, r2 - r, c2 - c) for r, r2 in spans(shape[0], rows) for c, c2 in spans(shape[1], cols)
    ]


def merged(classes, confidence, cores):
    """All batches of a tiling as {region id: (class, pixels, area, mean confidence, geometry)}."""
    tiles = {
        core: trace_tile(
            classes[core.slices()],
            confidence=None if confidence is None else confidence[core.slices()],
            pixel_area=pixel_areas(GEOBOX, core),
            core=core,
            nodata=NODATA,
        )
        for core in cores
    }
    batches = merge_tiles(
        cores,
        load_edges=lambda core: tiles[core].edges,
        load_regions=tiles.__getitem__,
        scene_width=classes.shape[1],
    )
    result = {}
    for batch in batches:
        assert (np.diff(batch.region_id) > 0).all()
        columns = (batch.region_id, batch.class_id, batch.pixels, batch.area_m2, batch.mean_confidence)
        for row in zip(*(c.tolist() for c in columns), batch.polygons.to_shapely(), strict=True):
            assert row[0] not in result
            result[row[0]] = row[1:]
    return result


def whole(classes):
    """{region id: (class, geometry)} from one call of rasterio on everything."""
    result = {}
    for geometry, value in shapes(classes, mask=classes != NODATA, connectivity=4):
        polygon = shapely.geometry.shape(geometry)
        col, row = min(polygon.exterior.coords, key=lambda p: (p[1], p[0]))
        result[int(row) * classes.shape[1] + int(col)] = (int(value), shapely.normalize(polygon))
    return result


@settings(deadline=None, max_examples=120)
@given(classes=class_maps(), rows=CUTS, cols=CUTS)
def test_merged_tiles_are_the_polygons_of_the_whole_raster(classes, rows, cols):
    found = merged(classes, None, tiling(classes.shape, rows, cols))
    expected = whole(classes)
    assert found.keys() == expected.keys()
    for region, (class_id, pixels, _, confidence, polygon) in found.items():
        assert class_id == expected[region][0]
        assert pixels == polygon.area
        assert np.isnan(confidence)
        assert polygon.is_valid
        assert shapely.to_wkb(shapely.normalize(polygon)) == shapely.to_wkb(expected[region][1])
    assert sum(row[1] for row in found.values()) == (classes != NODATA).sum()


@settings(deadline=None, max_examples=60)
@given(classes=class_maps(), seed=st.integers(0, 99), cuts=st.tuples(CUTS, CUTS, CUTS, CUTS))
def test_sums_and_polygons_are_the_same_bits_for_any_tiling(classes, seed, cuts):
    confidence = np.random.default_rng(seed).choice(np.array([3, 50, 100, NODATA], np.uint8), classes.shape)
    first = merged(classes, confidence, tiling(classes.shape, cuts[0], cuts[1]))
    second = merged(classes, confidence, tiling(classes.shape, cuts[2], cuts[3]))
    assert first.keys() == second.keys()
    for region, row in first.items():
        np.testing.assert_array_equal(row[:4], second[region][:4])
        assert shapely.to_wkb(row[4]) == shapely.to_wkb(second[region][4])
    area = pixel_areas(GEOBOX, Window(0, 0, *classes.shape)).astype(np.float64)
    assert sum(row[2] for row in first.values()) == area[classes != NODATA].sum()
    labels = {v: ndimage.label(classes == v)[0] for v in np.unique(classes)}
    for region, (class_id, _, area_m2, mean, _) in first.items():
        inside = labels[class_id] == labels[class_id].ravel()[region]
        known = confidence[inside & (confidence != NODATA)]
        assert area_m2 == area[inside].sum()
        np.testing.assert_allclose(mean, known.mean() if len(known) else np.nan, rtol=1e-12)


def test_a_polygon_across_many_tiles_is_one_polygon_with_its_hole():
    classes = np.full((40, 40), 2, np.uint8)
    classes[10:30, 10:30] = NODATA
    for step in (3, 7, 13, 40):
        marks = range(step, 40, step)
        found = merged(classes, None, tiling(classes.shape, marks, marks))
        polygon = shapely.box(0, 0, 40, 40) - shapely.box(10, 10, 30, 30)
        assert list(found) == [0]
        assert found[0][1] == 1200
        assert shapely.equals_exact(found[0][4], polygon, normalize=True)


def test_regions_inside_one_another_keep_their_holes():
    classes = np.zeros((30, 30), np.uint8)
    for ring in range(14):  # rings of alternating classes around one another, each with a hole of its own
        classes[ring : 30 - ring, ring : 30 - ring] = ring % 2
    classes[0, 3], classes[27, 12], classes[12, 12] = 5, 5, 5
    expected = whole(classes)
    for step in (4, 11, 15):
        found = merged(classes, None, tiling(classes.shape, range(step, 30, step), range(step, 30, step)))
        assert found.keys() == expected.keys()
        assert all(shapely.equals_exact(found[r][4], expected[r][1], normalize=True) for r in expected)


def test_regions_are_finished_as_soon_as_their_last_tile_has_been_read():
    classes = np.repeat(np.arange(6, dtype=np.uint8), 10)[:, None] * np.ones((1, 8), np.uint8)
    cores = tiling(classes.shape, range(5, 60, 5), [4])
    read = []

    def load(core):
        read.append(core)
        at = core.slices()
        return trace_tile(classes[at], confidence=None, pixel_area=np.ones((1, 1)), core=core, nodata=NODATA)

    batches = merge_tiles(cores, load_edges=lambda c: load(c).edges, load_regions=load, scene_width=8)
    next(batches)
    assert len(read) == len(cores) + 1, "edges of all tiles, then one tile per batch"
    finished = [0, *(len(batch) for batch in batches)]
    assert finished == [0, 0, 0, 1] * 6
    assert read == cores + cores


def test_a_large_noisy_map_agrees_too():
    rng = np.random.default_rng(8)
    field = ndimage.gaussian_filter(rng.random((64, 64)), 1.5)
    classes = np.digitize(field, np.quantile(field, [0.2, 0.5, 0.8])).astype(np.uint8)
    classes[rng.random(classes.shape) < 0.1] = NODATA
    found = merged(classes, None, tiling(classes.shape, range(5, 60, 9), [1, 2, 20, 63]))
    expected = whole(classes)
    assert found.keys() == expected.keys()
    assert all(shapely.equals_exact(found[r][4], expected[r][1], normalize=True) for r in expected)
    assert all(
        shapely.get_num_coordinates(found[r][4]) == shapely.get_num_coordinates(expected[r][1]) for r in found
    )
