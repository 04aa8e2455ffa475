from __future__ import annotations

import pickle
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from geoseg.config import LabelSource
from geoseg.errors import LabelError, UsageError
from geoseg.legend import IGNORE_INDEX
from geoseg.raster.labels import Labels, open_labels, read_labels
from geoseg.raster.scene import Scene, open_scene
from geoseg.windows import Window

X = IGNORE_INDEX
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_200_000)
ROTATED = Affine(8, 3, 500_000, 2, -9, 5_200_000)


@pytest.fixture
def scene(make_raster) -> Scene:
    """41 x 53 px of 10 m in UTM 31."""
    return open_scene(make_raster(np.zeros((1, 41, 53), np.uint8)))


def opened(path: Path, scene: Scene, legend, **source: object) -> Labels:
    return open_labels(LabelSource(path=str(path), **source), path=path, scene=scene, legend=legend)


def in_parts(labels: Labels, scene: Scene, side: int) -> np.ndarray:
    """The whole plane, put together from windows."""
    whole = np.full(scene.window.shape, 77, np.uint8)
    for row in range(0, scene.window.height, side):
        for col in range(0, scene.window.width, side):
            window = Window(row, col, side, side).intersect(scene.window)
            whole[window.slices()] = read_labels(labels, window)
    return whole


def random_ids(legend, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.choice([*legend.ids, legend.nodata], shape).astype(np.uint8)


# Rasters


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_a_raster_on_the_scenes_grid(make_raster, scene, legend, dtype) -> None:
    ids = random_ids(legend, scene.window.shape)
    labels = opened(make_raster(ids.astype(dtype), name="labels.tif"), scene, legend)
    assert (read_labels(pickle.loads(pickle.dumps(labels)), scene.window) == legend.encode(ids)).all()  # noqa: S301
    assert (in_parts(labels, scene, 16) == legend.encode(ids)).all()


def test_remapping_nodata_and_internal_masks(make_raster, scene, legend) -> None:
    values = np.zeros(scene.window.shape, np.int16)
    values[0, :6] = [-5, 1000, 30, 40, 7, -1]
    path = make_raster(values, name="labels.tif", nodata=-1)
    labels = opened(path, scene, legend, remap={-5: 3, 1000: 7, 30: None, 40: 0})
    index = read_labels(labels, scene.window)
    assert index[0, :6].tolist() == [2, 1, X, 0, 1, X]
    assert (index[1:] == 0).all()


def test_remapping_wins_over_equal_ids(make_raster, scene, legend) -> None:
    values = np.full(scene.window.shape, 3, np.uint8)
    values[0, 0] = 255
    labels = opened(make_raster(values, name="labels.tif"), scene, legend, remap={3: 7, 255: 0})
    index = read_labels(labels, scene.window)
    assert index[0, 0] == 0
    assert (index[1:] == 1).all()


def test_a_nan_in_a_float_raster_is_no_label(make_raster, scene, legend) -> None:
    values = np.full(scene.window.shape, 7, np.float32)
    values[3, 4] = np.nan
    index = read_labels(opened(make_raster(values, name="labels.tif"), scene, legend), scene.window)
    assert index[3, 4] == X
    assert (index == 1).sum() == index.size - 1


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:4326", "EPSG:3035"])
def test_a_raster_on_another_grid_is_taken_from_the_nearest_pixel(make_raster, scene, legend, crs) -> None:
    """Against a look-up of each pixel's centre, but for centres within GDAL's tolerance of a label's edge."""
    to_labels = Transformer.from_crs(scene.geobox.crs.to_wkt(), crs, always_xy=True)
    cols, rows = np.meshgrid(np.arange(53) + 0.5, np.arange(41) + 0.5)
    x, y = to_labels.transform(500_000 + 10 * cols, 5_200_000 - 10 * rows)
    size = (x.max() - x.min()) / 9
    transform = Affine(size, 0, x.min() - size / 3, 0, -size, y.max() - 1.3 * size)
    ids = random_ids(legend, (7, 6))
    labels = opened(make_raster(ids, name="labels.tif", crs=crs, transform=transform), scene, legend)
    col, row = (x - transform.c) / size, (y - transform.f) / -size
    inside = (row >= 0) & (row < 7) & (col >= 0) & (col < 6)
    expected = np.full(inside.shape, X)
    expected[inside] = legend.encode(ids)[row[inside].astype(int), col[inside].astype(int)]
    certain = (np.abs(row - row.round()) > 0.13) & (np.abs(col - col.round()) > 0.13)
    assert 0.3 < certain.mean() < 0.8
    assert 0.2 < inside.mean() < 0.9
    assert (read_labels(labels, scene.window) == expected)[certain].all()
    assert (in_parts(labels, scene, 13) == read_labels(labels, scene.window)).all()


@pytest.mark.parametrize("nodata", [None, 9])
def test_outside_a_shifted_raster_nothing_is_known(make_raster, scene, legend, nodata) -> None:
    values = np.zeros(scene.window.shape, np.uint8)
    values[:, :5] = 9 if nodata else 0
    transform = Affine(10, 0, 499_800, 0, -10, 5_200_000)
    path = make_raster(values, name="labels.tif", transform=transform, nodata=nodata)
    index = read_labels(opened(path, scene, legend), scene.window)
    assert (index[:, 33:] == X).all()
    assert (index[:, :33] == 0).all()


def test_unknown_values_are_all_listed_with_the_remedy(make_raster, scene, legend) -> None:
    values = np.zeros(scene.window.shape, np.uint8)
    values[0, 0], values[40, 52] = 11, 80
    labels = opened(make_raster(values, name="labels.tif"), scene, legend)
    with pytest.raises(LabelError, match=r"found 11, 80\. Say what they are with `remap"):
        read_labels(labels, Window(0, 0, 5, 5))
    assert (read_labels(labels, Window(5, 5, 5, 5)) == 0).all()


def test_a_class_declared_nodata_does_not_vanish_unseen(make_raster, scene, legend) -> None:
    path = make_raster(np.zeros(scene.window.shape, np.uint8), name="labels.tif", nodata=0)
    with pytest.raises(LabelError, match="nodata 0, which is also class 'water'"):
        opened(path, scene, legend)
    labels = opened(path, scene, legend, remap={0: None})
    assert (read_labels(labels, scene.window) == X).all()


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:32633", "EPSG:4326"])
def test_labels_elsewhere_are_refused_with_both_extents(make_raster, scene, legend, crs) -> None:
    transform = Affine(1e-4, 0, 100, 0, -1e-4, 30) if crs == "EPSG:4326" else Affine(10, 0, 9e5, 0, -10, 5e6)
    path = make_raster(np.zeros((4, 4), np.uint8), name="labels.tif", crs=crs, transform=transform)
    with pytest.raises(
        LabelError, match=r"extent of scene, \(500000, 5199590, 500530, 5200000\) in EPSG:32631; found \("
    ):
        opened(path, scene, legend)


def test_polygons_without_column_get_a_hint(tmp_path, scene, legend) -> None:
    path = write_polygons(tmp_path, [shapely.box(0, 0, 1, 1)], ["x"])
    with pytest.raises(LabelError, match="say in which `column`"):
        opened(path, scene, legend)


# Polygons


def write_polygons(
    folder: Path, geometries, classes, *, crs="EPSG:32631", layer=None, name="labels.gpkg"
) -> Path:
    frame = geopandas.GeoDataFrame({"landuse": classes}, geometry=geometries, crs=crs)
    frame.to_file(folder / name, layer=layer or "labels", engine="pyogrio")
    return folder / name


points_px = st.lists(st.tuples(st.integers(-8, 60), st.integers(-8, 50)), min_size=3, max_size=6)


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
def test_polygons_against_points_in_polygons(make_raster, tmp_path, legend, transform) -> None:
    scene = open_scene(make_raster(np.zeros((1, 41, 53), np.uint8), transform=transform))
    cols, rows = np.meshgrid(np.arange(53) + 0.5, np.arange(41) + 0.5)

    @settings(deadline=None, max_examples=12)
    @given(st.lists(points_px, min_size=1, max_size=3))
    def check(rings) -> None:
        # A third of a pixel off the integers: no edge runs through a pixel's centre.
        hulls = [shapely.MultiPoint(ring).convex_hull.buffer(1.37) for ring in rings]
        expected = np.full((41, 53), X)
        for i, hull in enumerate(hulls):
            expected[shapely.contains_xy(hull, cols, rows)] = i
        if (expected == X).all():
            return
        world = [shapely.affinity.affine_transform(h, [transform.a, transform.b, transform.d, transform.e,
                                                       transform.c, transform.f]) for h in hulls]  # fmt: skip
        path = write_polygons(tmp_path, world, list(legend.names[: len(world)]), crs="EPSG:32631")
        labels = opened(path, scene, legend, column="landuse")
        found = read_labels(labels, scene.window)
        near_an_edge = sum(
            shapely.distance(h.boundary, shapely.points(cols, rows)) < 1e-6 for h in hulls
        ).astype(bool)
        assert (found == expected)[~near_an_edge].all()
        assert (in_parts(labels, scene, 11) == found).all()

    check()


def test_polygons_in_another_crs(tmp_path, scene, legend) -> None:
    box = shapely.box(500_100, 5_199_800, 500_303, 5_199_903)
    there = geopandas.GeoSeries([box], crs="EPSG:32631").to_crs("EPSG:4326")
    path = write_polygons(tmp_path, there.tolist(), ["forest"], crs="EPSG:4326")
    labels = opened(path, scene, legend, column="landuse")
    expected = np.full(scene.window.shape, X)
    expected[10:20, 10:30] = 1
    assert (read_labels(pickle.loads(pickle.dumps(labels)), scene.window) == expected).all()  # noqa: S301


def test_classes_by_name_id_and_mapping(tmp_path, scene, legend) -> None:
    boxes = [shapely.box(500_000 + 10 * i, 5_199_990, 500_010 + 10 * i, 5_200_000) for i in range(6)]
    values = ["forest", "3", "lake", "cloud", None, "0"]
    path = write_polygons(tmp_path, boxes, values)
    mapping = {"lake": "water", "cloud": None, "(none)": 7}
    labels = opened(path, scene, legend, column="landuse", classes=mapping)
    assert read_labels(labels, Window(0, 0, 1, 7)).tolist() == [[1, 2, 0, X, 1, 0, X]]


def test_integers_with_gaps_arrive_as_floats(tmp_path, scene, legend) -> None:
    boxes = [shapely.box(500_000 + 10 * i, 5_199_990, 500_010 + 10 * i, 5_200_000) for i in range(3)]
    path = write_polygons(tmp_path, boxes, [7.0, None, 12.0])
    labels = opened(path, scene, legend, column="landuse", classes={"(none)": None, 12: "water"})
    assert read_labels(labels, Window(0, 0, 1, 3)).tolist() == [[1, X, 0]]


def test_later_polygons_lie_on_top(tmp_path, scene, legend) -> None:
    box = shapely.box(500_000, 5_199_590, 500_530, 5_200_000)
    path = write_polygons(tmp_path, [box, box.buffer(-100)], ["forest", "water"])
    index = read_labels(opened(path, scene, legend, column="landuse"), scene.window)
    assert (index[0, 0], index[20, 20]) == (1, 0)


def test_unknown_attribute_values_are_listed_beside_the_legend(tmp_path, scene, legend) -> None:
    box = shapely.box(500_000, 5_199_590, 500_530, 5_200_000)
    path = write_polygons(tmp_path, [box] * 3, ["forest", "Forest", "rock"])
    with pytest.raises(LabelError, match=r"0 water, 7 forest, 3 field & meadow.*found Forest, rock\. Say"):
        opened(path, scene, legend, column="landuse")


@pytest.mark.parametrize(
    ("geometry", "crs", "source", "message"),
    [
        (shapely.box(0, 0, 9, 9), "EPSG:32631", {}, r"outside the scene.*found \(0, 0, 9, 9\) in EPSG:32631"),
        (shapely.box(0, 0, 9, 9), "EPSG:4326", {}, r"outside the scene.*found \(0, 0, 9, 9\) in EPSG:4326"),
        (shapely.Point(500_100, 5_199_900), "EPSG:32631", {}, "features with polygons; found Point"),
        (shapely.Polygon(), "EPSG:32631", {}, "outside the scene.*found no polygons"),
        (shapely.box(5e5, 5199e3, 501e3, 5200e3), None, {}, "with a CRS; found none"),
        (shapely.box(0, 0, 9, 9), "EPSG:32631", {"column": "kind"}, "an attribute 'kind'; found landuse"),
        (shapely.box(0, 0, 9, 9), "EPSG:32631", {"layer": "roads"}, "layer 'roads'; found labels"),
    ],
)
@pytest.mark.filterwarnings("ignore:.crs. was not provided")
def test_polygons_that_cannot_be_used(tmp_path, scene, legend, geometry, crs, source, message) -> None:
    path = write_polygons(tmp_path, [geometry], ["forest"], crs=crs)
    with pytest.raises(LabelError, match=message):
        opened(path, scene, legend, **{"column": "landuse", **source})


def test_a_file_of_several_layers_wants_one_named(tmp_path, scene, legend) -> None:
    box = shapely.box(500_000, 5_199_590, 500_530, 5_200_000)
    for layer, name in (("one", "forest"), ("two", "water")):
        path = write_polygons(tmp_path, [box], [name], layer=layer)
    with pytest.raises(LabelError, match="found one, two"):
        opened(path, scene, legend, column="landuse")
    labels = opened(path, scene, legend, column="landuse", layer="two")
    assert (read_labels(labels, scene.window) == 0).all()


def test_a_file_that_is_none(tmp_path, scene, legend) -> None:
    (tmp_path / "labels.gpkg").write_text("no polygons here")
    with pytest.raises(LabelError, match="Expected a vector file"):
        opened(tmp_path / "labels.gpkg", scene, legend, column="landuse")
    with pytest.raises(LabelError, match="the labels cannot be opened"):
        opened(tmp_path / "nothing.tif", scene, legend)


@pytest.mark.parametrize("source", [{"remap": {1: 99}}, {"column": "landuse", "classes": {"a": "swamp"}}])
def test_mappings_to_a_class_that_is_not_there(tmp_path, make_raster, scene, legend, source) -> None:
    polygons = write_polygons(tmp_path, [shapely.box(500_000, 5_199_590, 500_530, 5_200_000)], ["a"])
    raster = make_raster(np.zeros(scene.window.shape, np.uint8), name="labels.tif")
    with pytest.raises(UsageError, match=r"not in the legend.*found (99|'swamp')"):
        opened(polygons if "column" in source else raster, scene, legend, **source)


@pytest.mark.data
def test_the_polygons_of_the_carolina_coast(real_data) -> None:
    from geoseg.config import TrainConfig, load
    from geoseg.data import open_areas

    folder = real_data / "s2-nc-coast"
    config = load(Path(__file__).parents[2] / "configs" / "nc-coast-unet.yaml", TrainConfig)
    (area,) = open_areas(config.scenes, config=config, data_root=folder)
    counts = np.bincount(read_labels(area.labels, area.window).ravel(), minlength=256)
    assert counts[6:255].sum() == 0
    # Planar areas of the shapefile, in square metres, over the pixel's true 67.2 m2 there.
    areas_m2 = np.array([8405, 10348, 5459, 2698, 9884, 3629])
    assert counts[:6] == pytest.approx(areas_m2 / 67.2, rel=0.12)
