from __future__ import annotations

import json

import numpy as np
import pytest
from rasterio.transform import Affine

from geoseg.cli.scenes import open_source, sources
from geoseg.errors import UsageError


def test_files_and_band_files_become_sources() -> None:
    signed = "https://host/x.tif?sig=a=b"
    assert sources(["a.tif", "B02=b.tif", signed, "B03=c.tif"]) == [
        "a.tif",
        signed,
        {"B02": "b.tif", "B03": "c.tif"},
    ]
    with pytest.raises(UsageError, match="band B02 is given twice"):
        sources(["B02=a.tif", "B02=b.tif"])


def test_a_mosaic_is_one_source_and_takes_no_band_files() -> None:
    assert sources(["a.tif", "b.tif"], mosaic=True) == [("a.tif", "b.tif")]
    with pytest.raises(UsageError, match="B02=PATH is one band"):
        sources(["a.tif", "B02=b.tif"], mosaic=True)


def test_each_kind_of_source_is_opened(make_raster, tmp_path) -> None:
    values = np.ones((1, 4, 4), np.uint8)
    a = str(make_raster(values, name="a.tif"))
    b = str(make_raster(values, name="b.tif", transform=Affine(10, 0, 500_040, 0, -10, 5_200_000)))
    c = str(make_raster(values, name="c.tif", transform=Affine(20, 0, 500_000, 0, -20, 5_200_000)))
    given = {"bands": None, "nodata": 7.0, "name": "west"}
    mosaic = open_source((a, b), **(given | {"bands": "red"}))
    assert (mosaic.name, mosaic.band_names, mosaic.window.shape) == ("west", ("red",), (4, 8))
    stack = open_source({"red": a, "nir": c}, **given, resampling="cubic")
    assert (stack.name, stack.resampling, stack.nodata) == ("west", "cubic", 7)
    item = tmp_path / "item.json"
    item.write_text(
        json.dumps({"stac_version": "1.1.0", "assets": {"r": {"href": "a.tif", "roles": ["data"]}}})
    )
    assert open_source(str(item), **given).band_names == ("r",)
    assert open_source(a, **given).name == "west"
    assert open_source(a, **(given | {"name": None})).name == "a"
    with pytest.raises(UsageError, match="--bands names the bands of one file"):
        open_source({"red": a}, **(given | {"bands": "red"}))
