import numpy as np
import pytest
import shapely
from affine import Affine

from geoseg.regions import find_components
from geoseg.vector.outlines import Outlines, concatenate, no_outlines
from geoseg.vector.trace import outline
from geoseg.windows import Window


def outlines_of(classes, connectivity=4):
    core = Window(0, 0, *classes.shape)
    return outline(
        find_components(
            classes.astype(np.uint8), core=core, scene=core, nodata=255, connectivity=connectivity
        ),
        core,
    )


def equal(one, other):
    names = ("coords", "fixed", "ring_offsets", "polygon_offsets", "region_offsets", "scale")
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


RANDOM = np.random.default_rng(5).integers(0, 3, (12, 12))


@pytest.mark.parametrize("connectivity", [4, 8])
def test_taking_and_concatenating_follow_the_index(connectivity):
    outlines = outlines_of(RANDOM, connectivity)
    index = np.array([4, 0, 4, len(outlines) - 1])
    parts = [outlines.take(index), no_outlines(), outlines.take(index[:1])]
    expected = outlines.to_shapely()[[*index, index[0]]]
    whole = concatenate(parts)
    # what is taken may be single polygons where the whole had some of several
    assert shapely.equals_exact(whole.to_shapely(), expected).all() or connectivity == 8
    assert shapely.equals(whole.to_shapely(), expected).all()
    sizes = np.diff(outlines.ring_offsets[outlines.polygon_offsets[outlines.region_offsets]])
    taken = np.diff(whole.ring_offsets[whole.polygon_offsets[whole.region_offsets]])
    assert taken.tolist() == sizes[[*index, index[0]]].tolist()
    assert whole.fixed.sum() == sum(p.fixed.sum() for p in parts)
    assert equal(concatenate([outlines]), outlines)
    assert len(concatenate([])) == len(outlines.take(index[:0])) == 0


def test_outlines_of_different_scale_are_not_put_together():
    fine = outlines_of(RANDOM)
    halves = Outlines(
        coords=fine.coords * 2,
        fixed=fine.fixed,
        ring_offsets=fine.ring_offsets,
        polygon_offsets=fine.polygon_offsets,
        region_offsets=fine.region_offsets,
        scale=2,
    )
    assert shapely.equals_exact(halves.to_shapely(), fine.to_shapely()).all()
    assert halves.take(np.array([1])).scale == concatenate([no_outlines(), halves]).scale == 2
    assert no_outlines(scale=2).scale == 2
    with pytest.raises(ValueError, match=r"scales \[1, 2\] cannot be put together"):
        concatenate([fine, halves])


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    "transform",
    [
        Affine(10, 0, 300000.5, 0, -10, 7000000),
        Affine(1 / 3, 0.7, -180, 0.1, -0.3, 90),
        Affine(0, 3, 5, 2, 0, 7),
    ],
)
def test_points_are_where_the_transform_puts_them(transform, scale):
    plain = outlines_of(RANDOM)
    offsets = (plain.ring_offsets, plain.polygon_offsets, plain.region_offsets)
    names = ("ring_offsets", "polygon_offsets", "region_offsets")
    outlines = Outlines(
        coords=plain.coords, fixed=plain.fixed, **dict(zip(names, offsets, strict=True)), scale=scale
    )
    expected = [
        (
            transform.a * (col / scale) + transform.b * (row / scale) + transform.c,
            transform.d * (col / scale) + transform.e * (row / scale) + transform.f,
        )
        for col, row in plain.coords.tolist()
    ]
    assert outlines.to_points(transform).tolist() == [list(point) for point in expected]
    assert outlines.to_points().tolist() == (plain.coords / scale).tolist()
    in_shapely = shapely.get_coordinates(outlines.to_shapely(transform))
    np.testing.assert_array_equal(in_shapely, outlines.to_points(transform))


def test_regions_in_several_pieces_are_multipolygons_and_so_are_the_others():
    classes = np.array([[1, 2, 2], [2, 1, 2], [2, 2, 2]])
    found = outlines_of(classes, connectivity=8).to_shapely()
    assert [g.geom_type for g in found] == ["MultiPolygon"] * 2
    assert shapely.get_num_geometries(found).tolist() == [2, 1]
    assert {g.geom_type for g in outlines_of(classes).to_shapely()} == {"Polygon"}
    assert len(no_outlines().to_shapely()) == 0
