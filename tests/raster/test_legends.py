"""The legend a class raster carries, in geoseg's own tag or as GDAL and others write it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio

from geoseg.errors import LabelError, SceneError
from geoseg.raster.cog import attribute_table
from geoseg.raster.legends import LEGEND_TAG, legend_tag, nodata_of, own_legend, read_legend


@pytest.fixture
def class_raster(make_raster):
    def write(*, tags=None, colors=None, nodata=255, sidecar=None):
        path = make_raster(np.zeros((4, 5), np.uint8), nodata=nodata)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**(tags or {}))
            if colors:
                dataset.write_colormap(1, colors)
        if sidecar is not None:
            path.with_name("scene.tif.aux.xml").write_text(sidecar)
        return path

    return write


def test_a_legend_comes_back_from_its_tag(class_raster, legend) -> None:
    path = class_raster(tags=legend_tag(legend))
    assert own_legend(path) == legend
    assert read_legend(path, present=[0, 99]) == legend  # 99 is not its business


def test_without_a_tag_there_is_no_own_legend(class_raster) -> None:
    assert own_legend(class_raster()) is None


def test_names_and_colours_of_other_tools_are_used(class_raster, legend) -> None:
    path = class_raster(colors={7: (1, 2, 3, 255)}, sidecar=attribute_table(legend))
    found = read_legend(path, present=[7, 0, 3, 9, 255])
    assert [(c.id, c.name) for c in found.classes] == [
        (0, "water"),
        (3, "field & meadow"),
        (7, "forest"),
        (9, "class 9"),
    ]
    assert found.classes[2].color == "#010203"
    assert found.nodata == 255


@pytest.mark.parametrize("sidecar", ["<not xml", "<PAMDataset></PAMDataset>"])
def test_a_sidecar_that_says_nothing_is_passed_over(class_raster, sidecar) -> None:
    found = read_legend(class_raster(sidecar=sidecar), present=[4, 2])
    assert found.names == ("class 2", "class 4")
    assert len({c.color for c in found.classes}) == 2


@pytest.mark.parametrize(("declared", "expected"), [(0, 0), (255, 255), (None, 255), (200, 200)])
def test_the_files_nodata_value_is_no_class(class_raster, declared, expected) -> None:
    path = class_raster(nodata=declared)
    found = read_legend(path, present={0, 1, 200, expected})
    assert found.nodata == expected
    assert nodata_of(path) == declared  # what nobody declared, nobody may act on
    assert expected not in found.ids.tolist()
    assert 1 in found.ids.tolist()


def test_255_is_refused_as_a_class_where_it_is_not_nodata(class_raster) -> None:
    with pytest.raises(
        LabelError, match=r"scene\.tif. Expected class ids 0 to 254 \(nodata is 0\); found .*255"
    ):
        read_legend(class_raster(nodata=0), present=[0, 255])


def test_the_tags_nodata_counts_more_than_the_files(class_raster, legend) -> None:
    path = class_raster(tags=legend_tag(replace(legend, nodata=9)), nodata=255)
    assert nodata_of(path) == 9


def test_nothing_but_nodata_is_refused(class_raster) -> None:
    with pytest.raises(LabelError, match=r"no class in the raster: .*scene\.tif.*nothing but 255"):
        read_legend(class_raster(), present=[255])


@pytest.mark.parametrize(
    "tag",
    ["not json", "[]", "{}", '{"classes": [{"id": 1}], "nodata": 255}', '{"classes": [], "nodata": 255}',
     '{"classes": [{"id": 300, "name": "a", "color": "#000000"}], "nodata": 255}'],
)  # fmt: skip
def test_a_tag_that_is_no_legend_is_named(class_raster, tag) -> None:
    path = class_raster(tags={LEGEND_TAG: tag})
    for read in (own_legend, lambda p: read_legend(p, present=[1])):
        with pytest.raises(LabelError, match=r"tag is not a legend: .*scene\.tif.*--legend"):
            read(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(SceneError, match=r"cannot be opened: .*none\.tif"):
        own_legend(tmp_path / "none.tif")
