from xml.etree import ElementTree as ET

import pytest

from geoseg.legend import Legend, LegendClass
from geoseg.vector.style import polygon_qml, polygon_sld, raster_qml

NASTY = "Rock & <scree> \"bare\" 'Fels' ü \u200b 😀"
LEGEND = Legend(
    classes=(
        LegendClass(id=0, name="Water", color="#0000FF"),
        LegendClass(id=7, name=NASTY, color="#12ab34"),
        LegendClass(id=200, name="bad\x00\x1b\ud800name", color="#ffffff"),
    )
)
NAMES = ["Water", NASTY, "bad\ufffd\ufffd\ufffdname"]
SLD = {"se": "http://www.opengis.net/se", "ogc": "http://www.opengis.net/ogc"}


def parse(text):
    return ET.fromstring(text.encode("utf-8"))  # noqa: S314 - our own text


@pytest.mark.parametrize("text", [polygon_qml(LEGEND), raster_qml(LEGEND)])
def test_qml_is_a_qgis_document(text):
    assert text.startswith("<!DOCTYPE qgis ")
    assert parse(text).tag == "qgis"


def test_polygon_qml_has_a_category_and_a_fill_for_each_class():
    renderer = parse(polygon_qml(LEGEND)).find("renderer-v2")
    assert renderer.attrib["type"] == "categorizedSymbol"
    assert renderer.attrib["attr"] == "class_id"
    categories = renderer.findall("categories/category")
    assert [c.attrib["value"] for c in categories] == ["0", "7", "200"]
    assert [c.attrib["label"] for c in categories] == NAMES
    fills = {s.attrib["name"]: s for s in renderer.findall("symbols/symbol")}
    colors = []
    for category in categories:
        layer = fills[category.attrib["symbol"]].find("layer")
        option = layer.find("Option/Option[@name='color']").attrib["value"]
        assert layer.find("prop[@k='color']").attrib["v"] == option
        colors.append(option)
    assert colors == ["0,0,255,255", "18,171,52,255", "255,255,255,255"]


def test_raster_qml_has_a_palette_entry_for_each_class():
    renderer = parse(raster_qml(LEGEND)).find("pipe/rasterrenderer")
    assert renderer.attrib["type"] == "paletted"
    entries = [e.attrib for e in renderer.findall("colorPalette/paletteEntry")]
    assert [(e["value"], e["color"], e["label"]) for e in entries] == list(
        zip(["0", "7", "200"], ["#0000ff", "#12ab34", "#ffffff"], NAMES, strict=True)
    )


def test_sld_has_a_rule_for_each_class():
    root = parse(polygon_sld(LEGEND, layer="land & use"))
    rules = root.findall(".//se:Rule", SLD)
    assert [r.find("se:Name", SLD).text for r in rules] == NAMES
    assert [r.find(".//ogc:Literal", SLD).text for r in rules] == ["0", "7", "200"]
    fills = [r.find(".//se:Fill/se:SvgParameter", SLD).text for r in rules]
    assert fills == ["#0000ff", "#12ab34", "#ffffff"]
    assert {r.find(".//ogc:PropertyName", SLD).text for r in rules} == {"class_id"}
