import struct

import numpy as np
import pytest
import shapely
from affine import Affine
from feature_batches import feature_batch, random_map
from odc.geo.geobox import GeoBox

from geoseg.vector.outlines import Outlines, no_outlines
from geoseg.vector.wkb import encode, place

NORTH_UP = Affine(10, 0, 500000, 0, -10, 5200000)
GRIDS = [
    NORTH_UP,
    Affine(10, 0, 5e5, 0, 10, 5e6),
    Affine(6, 8, 5e5, 8, -6, 5e6),
    Affine(6, -8, 5e5, 8, 6, 5e6),
    Affine(0.1, 0, -0.3, 0, -1 / 3, 51),
]


def outlines(*, connectivity=4, seed=0):
    return feature_batch(
        random_map(seed=seed), GeoBox((40, 50), NORTH_UP, "EPSG:32631"), connectivity=connectivity
    ).outlines


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_shapely_reads_the_geometries_it_would_have_made(grid, connectivity):
    mine = outlines(connectivity=connectivity)
    placed = place(mine, grid)
    encoded = encode(placed, multi=connectivity == 8)
    found = shapely.from_wkb(encoded.to_list())
    kind = shapely.GeometryType.POLYGON if connectivity == 4 else shapely.GeometryType.MULTIPOLYGON
    assert set(shapely.get_type_id(found).tolist()) == {kind}
    mine_parts, expected = (shapely.get_parts(g, return_index=True) for g in (found, mine.to_shapely(grid)))
    assert np.array_equal(mine_parts[1], expected[1])
    assert shapely.equals_exact(shapely.normalize(mine_parts[0]), shapely.normalize(expected[0]), 0).all()
    assert np.array_equal(shapely.bounds(found), encoded.boxes)
    shells = shapely.get_exterior_ring(shapely.get_parts(found))
    assert shapely.is_ccw(shells).all()
    holes = [r for p in shapely.get_parts(found) for r in p.interiors]
    assert len(holes) > 5
    assert not shapely.is_ccw(holes).any()


def test_a_geopackage_blob_has_id_and_envelope_before_the_same_geometry():
    placed = place(outlines(), NORTH_UP)
    plain, blobs = encode(placed, multi=True), encode(placed, multi=True, srs_id=32631)
    for wkb, blob, box in zip(plain.to_list(), blobs.to_list(), plain.boxes, strict=True):
        magic, version, flags, srs_id, x0, x1, y0, y1 = struct.unpack("<2sBBi4d", blob[:40])
        assert (magic, version, flags, srs_id) == (b"GP", 0, 3, 32631)
        assert [x0, y0, x1, y1] == box.tolist()
        assert blob[40:] == wkb
    assert struct.unpack("<i", encode(placed, multi=False, srs_id=-1).to_list()[0][4:8]) == (-1,)


def test_coordinates_in_half_pixels_are_halved():
    ring = np.array([[1, 1], [1, 5], [5, 5], [1, 1]], np.int32)
    halves = Outlines(
        coords=ring,
        fixed=np.zeros(4, bool),
        ring_offsets=np.array([0, 4]),
        polygon_offsets=np.array([0, 1]),
        region_offsets=np.array([0, 1]),
        scale=2,
    )
    (found,) = shapely.from_wkb(encode(place(halves, NORTH_UP), multi=False).to_list())
    assert found.equals(shapely.Polygon([(500005, 5199995), (500005, 5199975), (500025, 5199975)]))


def test_none_are_no_bytes():
    encoded = encode(place(no_outlines(), NORTH_UP), multi=False, srs_id=1)
    assert len(encoded) == len(encoded.data) == len(encoded.boxes) == 0


def test_several_polygons_need_a_multipolygon():
    with pytest.raises(ValueError, match="several polygons are multipolygons"):
        encode(place(outlines(connectivity=8), NORTH_UP), multi=False)


def test_some_regions_can_be_taken():
    placed = place(outlines(connectivity=8), NORTH_UP)
    index = np.array([5, 0, 7])
    everything = encode(placed, multi=True).to_list()
    assert encode(placed.take(index), multi=True).to_list() == [everything[i] for i in index]
