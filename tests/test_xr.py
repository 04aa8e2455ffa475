from __future__ import annotations

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr

import geoseg
from geoseg.errors import MismatchError, SceneError, UsageError
from geoseg.xr import segment


@pytest.fixture
def scene(make_raster):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 255, (3, 150, 130), dtype=np.uint8)
    values[:, :40, :30] = 0
    return make_raster(values, nodata=0, descriptions=("red", "green", "blue"))


def as_array(path, **chunks) -> xr.DataArray:
    with rasterio.open(path) as dataset:
        values, names = dataset.read(), dataset.descriptions
    coords = {"band": list(names), "y": np.arange(150) * -10.0, "x": np.arange(130) * 10.0}
    array = xr.DataArray(values, dims=("band", "y", "x"), coords=coords, attrs={"nodata": 0}, name="scene")
    return array.chunk(chunks) if chunks else array


@pytest.mark.parametrize("chunks", [{}, {"band": 1, "y": 40, "x": 70}])
def test_lazy_result_equals_the_files_of_the_main_job(scene, package, tmp_path, chunks) -> None:
    model = geoseg.load_model(package)
    geoseg.predict(geoseg.open_scene(scene), model, tmp_path / "out")
    array = as_array(scene, **chunks)
    result = segment(array, model, tile_px=64)
    assert dask.is_dask_collection(result.classes.data)
    assert result.classes.dims == ("y", "x")
    computed = result.compute(scheduler="sync")
    for name in ("classes", "confidence"):
        with rasterio.open(tmp_path / "out" / f"scene_{name}.tif") as dataset:
            assert np.array_equal(computed[name].to_numpy(), dataset.read(1))
    assert np.array_equal(computed.classes.x, array.x)
    assert (computed.classes.to_numpy()[:40, :30] == computed.classes.attrs["_FillValue"]).all()


def test_bands_are_matched_by_name_and_a_misfit_is_refused(scene, package) -> None:
    model = geoseg.load_model(package)
    array = as_array(scene)
    shuffled = array.isel(band=[2, 0, 1])
    a, b = (segment(x, model).compute(scheduler="sync") for x in (array, shuffled))
    assert a.classes.equals(b.classes)
    with pytest.raises(MismatchError, match="Expected bands red, green, blue"):
        segment(array, model, bands=("a", "b", "c"))
    with pytest.raises(MismatchError, match="Expected uint8 values; found float64"):
        segment(array.astype(float), model)
    with pytest.raises(UsageError, match="Expected 3 names; found red, green"):
        segment(array, model, bands=("red", "green"))
    scaled = segment(array.astype(float), model, mapping=geoseg.Mapping(scale=1))
    assert scaled.compute(scheduler="sync").classes.equals(a.classes)
    with pytest.raises(SceneError, match="three dimensions"):
        segment(array[0], model)
