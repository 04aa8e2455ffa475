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
from geoseg.vector.trace import trace_tile
from geoseg.windows import Window

SHAPE = (700, 600)
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
        regions = trace_tile(
            here["classes"],
            confidence=here["confidence"],
            pixel_area=np.full(core.shape, 100.0),
            core=core,
            nodata=legend.nodata,
        )
        store.write(row, col, here | regions.to_arrays())
    return Assembly(
        store=store,
        cores=CORES,
        geobox=GeoBox(SHAPE, from_origin(500_000, 5_200_000, 10, 10), "EPSG:32631"),
        legend=legend,
        tags={"GEOSEG_JOB": "test"},
    )


def paths(folder) -> dict:
    folder.mkdir()
    names = {"classes": "c.tif", "confidence": "s.tif", "probabilities": "p.tif", "polygons": "g.gpkg"}
    return {kind: folder / name for kind, name in names.items()}


def test_all_products_hold_what_the_parts_held(tmp_path, assembly, whole, legend) -> None:
    out = paths(tmp_path / "out")
    written = []

    def note(kind) -> None:
        assert threading.current_thread() is threading.main_thread()
        written.append(kind)

    count = assembly.write_all(out, description="a map", on_written=note)
    assert sorted(written) == sorted(out)
    for kind in ("classes", "confidence", "probabilities"):
        with rasterio.open(out[kind]) as dataset:
            values = dataset.read()
            assert dataset.tags()["GEOSEG_JOB"] == "test"
            assert dataset.nodata == 255
        assert np.array_equal(values, np.atleast_3d(whole[kind].T).T), kind
        assert cog_validate(out[kind], strict=True)[0]
    assert count == len(pyogrio.read_dataframe(out["polygons"], layer="landuse"))
    assert count > 20


def test_bands_say_what_they_hold(tmp_path, assembly, legend) -> None:
    out = paths(tmp_path / "out")
    del out["polygons"], out["classes"]
    assembly = dataclasses.replace(assembly, confidence="margin")
    assert assembly.write_all(out, description="") is None
    with rasterio.open(out["probabilities"]) as dataset:
        assert dataset.descriptions == legend.names
        assert dataset.scales == (1 / 250,) * 3
    with rasterio.open(out["confidence"]) as dataset:
        assert dataset.descriptions == ("margin, percent",)
        assert dataset.scales == (0.01,)
    assert not (tmp_path / "out" / "c.tif").exists()


def test_the_same_bytes_one_by_one_and_at_once(tmp_path, assembly) -> None:
    together, alone = paths(tmp_path / "together"), paths(tmp_path / "alone")
    dataclasses.replace(assembly, threads=3).write_all(together, description="a map")
    assembly.write_classes(alone["classes"])
    assembly.write_confidence(alone["confidence"])
    assembly.write_probabilities(alone["probabilities"])
    for kind in ("classes", "confidence", "probabilities"):
        assert together[kind].read_bytes() == alone[kind].read_bytes(), kind


def test_one_that_fails_leaves_nothing_half_written(tmp_path, assembly) -> None:
    assembly.store.path(4, 8).unlink()
    out = paths(tmp_path / "out")
    with pytest.raises(ExecutionError, match=r"part cannot be read: .*tile_00004_00008\.npz"):
        assembly.write_all(out, description="a map")
    assert not list((tmp_path / "out").iterdir())
