from __future__ import annotations

import json

import numpy as np
import pytest

from geoseg.errors import SceneError
from geoseg.raster.read import read_window
from geoseg.raster.stac import is_item, open_item


@pytest.fixture
def item(make_raster, tmp_path):
    """An item whose assets say their bands in the ways of STAC 1.0 and 1.1; returns its path."""
    for name, value in (("B04", 4), ("B08", 8)):
        make_raster(np.full((1, 6, 8), value, np.uint16), name=f"{name}.tif")
    make_raster(np.stack([np.full((6, 8), v, np.uint16) for v in (1, 2, 3)]), name="visual.tif")
    tif = "image/tiff; application=geotiff; profile=cloud-optimized"
    document = {
        "stac_version": "1.0.0",
        "type": "Feature",
        "id": "S2_tile",
        "assets": {
            "red": {
                "href": "./B04.tif",
                "type": tif,
                "roles": ["data", "reflectance"],
                "eo:bands": [{"name": "B04", "common_name": "red"}],
            },
            "nir": {
                "href": str(tmp_path / "B08.tif"),
                "type": tif,
                "roles": ["data"],
                "bands": [{"name": "B08", "eo:common_name": "nir"}],
            },
            "visual": {
                "href": "visual.tif",
                "type": tif,
                "roles": ["visual"],
                "bands": [{"name": "R"}, {"name": "G"}, {"name": "B"}],
            },
            "thumbnail": {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]},
            "metadata": {"href": "m.xml", "type": "application/xml"},
        },
    }
    path = tmp_path / "item.json"
    path.write_text(json.dumps(document))
    return path


def test_the_data_of_an_item_is_a_scene(item, monkeypatch) -> None:
    monkeypatch.chdir(item.parent.parent)
    scene = open_item(item)
    assert scene.name == "S2_tile"
    assert scene.band_names == ("red", "nir")
    assert read_window(scene, scene.window).values[:, 0, 0].tolist() == [4, 8]


def test_bands_are_found_by_key_name_or_common_name_also_inside_an_asset(item) -> None:
    scene = open_item(item, bands=["B08", "G", "red", "B"], name="mine")
    assert scene.name == "mine"
    assert scene.band_names == ("B08", "G", "red", "B")
    assert read_window(scene, scene.window).values[:, 0, 0].tolist() == [8, 2, 4, 3]


def test_bands_that_are_not_there_are_named_with_those_that_are(item, tmp_path) -> None:
    with pytest.raises(SceneError, match=r"item\.json. Expected swir; found B, B04, B08, G, R, nir, red"):
        open_item(item, bands=["swir"])
    with pytest.raises(SceneError, match=r"The nearest there is B08 for b8, nir for nri\. Name the bands"):
        open_item(item, bands=["b8", "red", "nri"])
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert is_item(str(item))
    assert not is_item(str(other))
    assert not is_item(str(tmp_path / "B04.tif"))
    with pytest.raises(SceneError, match="not a STAC item"):
        open_item(other)
