"""How QGIS and others draw the classes: QML for polygons and for the class raster, SLD for polygons."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geoseg.legend import Legend, LegendClass

_QML_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_QML_VERSION = "3.22.0"
_OUTLINE_MM = "0.26"
"""Outlines are drawn in the fill's colour, a screen's pixel wide. Without them renderers that smooth
edges let a third of the paper shine through between neighbours, and with half as wide ones a tenth."""

# What XML 1.0 cannot hold at all, escaped or not.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def polygon_qml(legend: Legend, *, field: str = "class_id", codes: Mapping[int, int] | None = None) -> str:
    """A QGIS style that colours polygons by the class id in `field`, or what `codes` says for it."""
    root = _qgis()
    renderer = _add(
        root,
        "renderer-v2",
        type="categorizedSymbol",
        attr=field,
        symbollevels="0",
        forceraster="0",
        enableorderby="0",
    )
    categories, symbols = _add(renderer, "categories"), _add(renderer, "symbols")
    for place, item in enumerate(legend.classes):
        _add(
            categories,
            "category",
            value=_code(item, codes),
            type="long",
            symbol=str(place),
            label=_text(item.name),
            render="true",
        )
        _add_fill_symbol(symbols, str(place), item)
    _add(root, "layerGeometryType").text = "2"
    return _qml(root)


def raster_qml(legend: Legend) -> str:
    """A QGIS style that paints a class raster with the legend's colours and names."""
    root = _qgis()
    pipe = _add(root, "pipe")
    renderer = _add(
        pipe,
        "rasterrenderer",
        type="paletted",
        band="1",
        opacity="1",
        alphaBand="-1",
        nodataColor="",
    )
    _add(renderer, "rasterTransparency")
    palette = _add(renderer, "colorPalette")
    for item in legend.classes:
        _add(
            palette,
            "paletteEntry",
            value=str(item.id),
            color=item.color.lower(),
            alpha="255",
            label=_text(item.name),
        )
    _add(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    _add(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    _add(pipe, "rasterresampler", maxOversampling="2")
    return _qml(root)


def polygon_sld(
    legend: Legend, *, layer: str, field: str = "class_id", codes: Mapping[int, int] | None = None
) -> str:
    """An OGC Styled Layer Descriptor 1.1 that colours the polygons of `layer` by the class id in `field`.

    Or by what `codes` says for it.
    """
    root = ET.Element(
        "StyledLayerDescriptor",
        {
            "version": "1.1.0",
            "xmlns": "http://www.opengis.net/sld",
            "xmlns:se": "http://www.opengis.net/se",
            "xmlns:ogc": "http://www.opengis.net/ogc",
        },
    )
    named = _add(root, "NamedLayer")
    _add(named, "se:Name").text = _text(layer)
    user_style = _add(named, "UserStyle")
    _add(user_style, "se:Name").text = _text(layer)
    feature_style = _add(user_style, "se:FeatureTypeStyle")
    for item in legend.classes:
        _add_sld_rule(feature_style, item, field, _code(item, codes))
    return _document(root)


def _add_fill_symbol(parent: ET.Element, name: str, item: LegendClass) -> None:
    symbol = _add(parent, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    layer = _add(symbol, "layer", {"class": "SimpleFill"}, enabled="1", locked="0")
    layer.set("pass", "0")
    color = ",".join(map(str, (*item.rgb, 255)))
    properties = {
        "color": color,
        "joinstyle": "bevel",
        "outline_color": color,
        "outline_style": "solid",
        "outline_width": _OUTLINE_MM,
        "outline_width_unit": "MM",
        "style": "solid",
    }
    options = _add(layer, "Option", type="Map")
    for key, value in properties.items():
        _add(options, "Option", type="QString", name=key, value=value)
    for key, value in properties.items():  # the same again: QGIS before 3.22 reads only these
        _add(layer, "prop", k=key, v=value)


def _add_sld_rule(parent: ET.Element, item: LegendClass, field: str, code: str) -> None:
    rule = _add(parent, "se:Rule")
    _add(rule, "se:Name").text = _text(item.name)
    _add(_add(rule, "se:Description"), "se:Title").text = _text(item.name)
    condition = _add(_add(rule, "ogc:Filter"), "ogc:PropertyIsEqualTo")
    _add(condition, "ogc:PropertyName").text = _text(field)
    _add(condition, "ogc:Literal").text = code
    symbol = _add(rule, "se:PolygonSymbolizer")
    color = item.color.lower()
    for element, values in (
        ("se:Fill", {"fill": color}),
        ("se:Stroke", {"stroke": color, "stroke-width": "0.4"}),
    ):
        paint = _add(symbol, element)
        for key, value in values.items():
            _add(paint, "se:SvgParameter", name=key).text = value


def _code(item: LegendClass, codes: Mapping[int, int] | None) -> str:
    """What the layer's table says for the class."""
    return str(item.id if codes is None else codes[item.id])


def _qgis() -> ET.Element:
    return ET.Element("qgis", version=_QML_VERSION, styleCategories="Symbology")


def _add(parent: ET.Element, tag: str, attributes: dict[str, str] | None = None, **more: str) -> ET.Element:
    return ET.SubElement(parent, tag, attributes or {}, **more)


def _text(value: str) -> str:
    """`value` with U+FFFD for the control characters that no XML document may hold."""
    return _NOT_XML.sub("\ufffd", value)


def _qml(root: ET.Element) -> str:
    ET.indent(root)
    return _QML_DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"


def _document(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
