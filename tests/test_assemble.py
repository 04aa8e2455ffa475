from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pyogrio
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from rio_cogeo import cog_validate

from geoseg.assemble import Assembly
from geoseg.errors import ExecutionError
from geoseg.raster.parts import PartStore
from geoseg.vector.options import Tracing
from geoseg.vector.tracing import trace_or_find_small
from geoseg.windows import Window

SHAPE = (700, 600)
TRACING = Tracing(scene=Window(0, 0, *SHAPE), nodata=255)
CORES = {  # tiles of an area of interest: neither the scene's first row nor its first column
    Window(0, 0, 400, 350): (3, 7),
    Window(0, 350, 400, 250): (3, 8),
    Window(400, 0, 300, 350): (4, 7),
    Window(400, 350, 300, 250): (4, 8),
}


@pytest.fixture
def whole(legend) -> dict[str, np.ndarray]:
    """The arrays of the scene, of which each part holds a piece."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(legend), (14, 12)).astype(np.uint8).repeat(50, 0).repeat(50, 1)
    probabilities = rng.integers(0, 251, (len(legend), *SHAPE), dtype=np.uint8)
    confidence = rng.integers(30, 101, SHAPE, dtype=np.uint8)
    classes = legend.decode(index)
    classes[:90, 200:500] = legend.nodata
    confidence[classes == legend.nodata] = 255
    probabilities[:, classes == legend.nodata] = 255
    return {"classes": classes, "confidence": confidence, "probabilities": probabilities}


@pytest.fixture
def assembly(tmp_path, legend, whole) -> Assembly:
    store = PartStore(folder=tmp_path / "parts")
    for core, (row, col) in CORES.items():
        here = {name: np.ascontiguousarray(values[(..., *core.slices())]) for name, values in whole.items()}
        arrays = trace_or_find_small(
            here["classes"],
            confidence=here["confidence"],
            pixel_area=np.full(core.shape, 100.0),
            core=core,
            how=TRACING,
        )
        store.write(row, col, here | arrays)
    return Assembly(
        store=store,
        outlined=store,
        cores=CORES,
        geobox=GeoBox(SHAPE, from_origin(500_000, 5_200_000, 10, 10), "EPSG:32631"),
        legend=legend,
        tags={"GEOSEG_JOB": "test"},
        tracing=TRACING,
    )


def paths(folder) -> tuple[dict, dict]:
    """Rasters and polygons."""
    folder.mkdir()
    names = {"classes": "c.tif", "confidence": "s.tif", "probabilities": "p.tif"}
    return {k: folder / name for k, name in names.items()}, {
        "gpkg": folder / "g.gpkg",
        "fgb": folder / "g.fgb",
    }


def test_all_products_hold_what_the_parts_held(tmp_path, assembly, whole, legend) -> None:
    rasters, polygons = paths(tmp_path / "out")
    written = []

    def note(kind) -> None:
        assert threading.current_thread() is threading.main_thread()
        written.append(kind)

    totals = assembly.write_all(rasters, polygons, description="a map", on_written=note)
    assert sorted(written) == sorted([*rasters, "polygons"])
    for kind, path in rasters.items():
        with rasterio.open(path) as dataset:
            values = dataset.read()
            assert dataset.tags()["GEOSEG_JOB"] == "test"
            assert dataset.nodata == 255
        assert np.array_equal(values, np.atleast_3d(whole[kind].T).T), kind
        assert cog_validate(path, strict=True)[0]
    frames = [pyogrio.read_dataframe(path, layer="landuse") for path in polygons.values()]
    assert totals.count == len(frames[0]) == len(frames[1]) > 20
    by_class = frames[0].groupby("class_id").pixels.sum().to_dict()
    assert by_class == {row.class_id: row.pixels for row in totals.rows(legend)}
    assert frames[1].region_id.is_unique
    # FlatGeobuf puts its features in the order of its index.
    assert set(frames[0].region_id) == set(frames[1].region_id)


def test_bands_say_what_they_hold(tmp_path, assembly, legend) -> None:
    rasters, _ = paths(tmp_path / "out")
    del rasters["classes"]
    assembly = dataclasses.replace(assembly, confidence="margin")
    assert assembly.write_all(rasters, {}, description="") is None
    with rasterio.open(rasters["probabilities"]) as dataset:
        assert dataset.descriptions == legend.names
        assert dataset.scales == (1 / 250,) * 3
    with rasterio.open(rasters["confidence"]) as dataset:
        assert dataset.descriptions == ("margin, percent",)
        assert dataset.scales == (0.01,)
    assert not (tmp_path / "out" / "c.tif").exists()


def test_the_same_bytes_one_by_one_and_at_once(tmp_path, assembly) -> None:
    together, alone = paths(tmp_path / "together"), paths(tmp_path / "alone")
    dataclasses.replace(assembly, threads=3).write_all(*together, description="a map")
    assembly.write_classes(alone[0]["classes"])
    assembly.write_confidence(alone[0]["confidence"])
    assembly.write_probabilities(alone[0]["probabilities"])
    for kind, path in alone[1].items():
        assembly.write_polygons({kind: path}, description="a map")
    for mine, other in zip(together, alone, strict=True):
        for kind in mine:
            assert mine[kind].read_bytes() == other[kind].read_bytes(), kind


def test_one_that_fails_leaves_nothing_half_written(tmp_path, assembly) -> None:
    assembly.store.path(4, 8).unlink()
    out = paths(tmp_path / "out")
    with pytest.raises(ExecutionError, match=r"part cannot be read: .*tile_00004_00008\.npz"):
        assembly.write_all(*out, description="a map")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("codes", "dtype"),
    [(None, "uint8"), ({0: 311, 7: 3112, 3: 12}, "uint16"), ({0: -1, 7: 70_000, 3: 5}, "int32"),
     ({0: 0, 7: 4_294_967_294, 3: 5}, "uint32")],
)  # fmt: skip
def test_the_cleaned_raster_holds_what_is_outlined(tmp_path, assembly, whole, legend, codes, dtype) -> None:
    path = tmp_path / "cleaned.tif"
    dataclasses.replace(assembly, codes=codes).write_cleaned(path)
    with rasterio.open(path) as dataset:
        assert dataset.dtypes == (dtype,)
        values, valid = dataset.read(1), dataset.read_masks(1) > 0
    assert np.array_equal(valid, whole["classes"] != legend.nodata)
    for class_id, code in (codes or {0: 0, 7: 7, 3: 3}).items():
        assert np.array_equal(values == code, whole["classes"] == class_id)
