"""Renders a GeoPackage in QGIS, without a screen, in the style it brings along, and checks the picture.

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 scripts/check_qgis.py OUT/scene.gpkg picture.png

Runs under the Python that has QGIS (Debian: apt-get install --no-install-recommends qgis python3-qgis), not
under geoseg's. Ends with 1 when QGIS does not open the layer, does not take its style, or when the picture
shows colours that are none of the classes', too much of one of them, or gaps between polygons.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from array import array
from collections import Counter
from contextlib import closing
from pathlib import Path

from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsVectorLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage

_TOLERANCE = 0.02
"""How far the share of a colour may be off the share of its class."""
_SHINE = 0.05
"""Paper that shines through by less than this is not seen."""
_PAPERS = ("#ffffff", "#000000")
"""Behind the polygons: where the picture depends on it, one sees through."""


def main() -> int:
    """Exit code: 0 when the picture is what the file says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--layer", default="landuse")
    parser.add_argument("--size", type=int, default=1000, help="pixels along the longer side")
    parser.add_argument("--centre", type=float, default=1.0, help="share of the extent that is drawn")
    options = parser.parse_args()
    application = QgsApplication([], False)
    application.initQgis()
    problems = checked(options)
    application.exitQgis()  # what QGIS made must be gone by now
    for problem in problems:
        print(f"WRONG  {problem}")
    return 1 if problems else 0


def checked(options: argparse.Namespace) -> list[str]:
    """What is wrong with the file, or with the picture of it."""
    layer = QgsVectorLayer(f"{options.file}|layername={options.layer}", options.layer, "ogr")
    problems = opened(layer, options.file)
    if problems:
        return problems
    pictures = [rendered(layer, options, paper) for paper in _PAPERS]
    pictures[0].save(str(options.picture))
    on_white, on_black = (pixels_of(p) for p in pictures)
    return judged(on_white, on_black, classes_of(options.file), whole=options.centre >= 1)


def classes_of(file: Path) -> dict[str, tuple[str, float]]:
    """Name and share of the area by colour, as the file's own table has them."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT color, class_name, share FROM class_summary").fetchall()
    found: dict[str, tuple[str, float]] = {}
    for color, name, share in rows:  # classes may share a colour
        before = found.get(color.lower(), ("", 0.0))
        found[color.lower()] = (f"{before[0]} {name}".strip(), before[1] + share)
    return found


def opened(layer: QgsVectorLayer, file: Path) -> list[str]:
    """What is wrong with the layer as QGIS opened it."""
    if not layer.isValid():
        return ["QGIS cannot open the layer"]
    renderer = layer.renderer()
    if renderer.type() != "categorizedSymbol":
        return [f"QGIS draws it as {renderer.type()}: the style in the file was not taken"]
    shown = {c.symbol().color().name().lower() for c in renderer.categories()}
    print(
        f"{layer.featureCount()} polygons, {len(renderer.categories())} classes, {layer.crs().description()}"
    )
    return [
        f"no category in {color} for {name}"
        for color, (name, _) in classes_of(file).items()
        if color not in shown
    ]


def rendered(layer: QgsVectorLayer, options: argparse.Namespace, paper: str) -> QImage:
    """The layer as QGIS draws it on paper of this colour."""
    extent = layer.extent()
    extent.scale(options.centre)
    longer = max(extent.width(), extent.height())
    sides = (max(1, round(options.size * side / longer)) for side in (extent.width(), extent.height()))
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(extent)
    settings.setBackgroundColor(QColor(paper))
    settings.setOutputSize(QSize(*sides))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


def pixels_of(image: QImage) -> list[str]:
    """Colours of all pixels, as #rrggbb."""
    plain = image.convertToFormat(QImage.Format_RGB32)
    values = array("I", bytes(plain.constBits().asarray(plain.sizeInBytes())))
    return [f"#{value & 0xFFFFFF:06x}" for value in values]


def shine(on_white: str, on_black: str) -> float:
    """How much of the paper is seen through a pixel, 0 to 1."""
    return (int(on_white[1:3], 16) - int(on_black[1:3], 16)) / 255


def judged(
    on_white: list[str], on_black: list[str], classes: dict[str, tuple[str, float]], *, whole: bool
) -> list[str]:
    """What is wrong with the colours of a picture, drawn on white and on black."""
    pairs = list(zip(on_white, on_black, strict=True))
    empty = sum(pair == _PAPERS for pair in pairs)
    opaque = Counter(a for a, b in pairs if shine(a, b) < _SHINE)
    gaps = len(pairs) - empty - opaque.total()
    drawn = sum(opaque[color] for color in classes)
    problems = [] if drawn > opaque.total() / 4 else ["hardly a pixel has the colour of a class"]
    mixed, total = opaque.total() - drawn, max(opaque.total(), 1)
    for color, (name, share) in classes.items():
        least, most = opaque[color] / total, (opaque[color] + mixed) / total
        print(f"{color}  {name:30} {share:7.2%} of the area, {least:7.2%} to {most:7.2%} of the picture")
        if whole and not least - _TOLERANCE <= share <= most + _TOLERANCE:
            problems.append(f"{name}: {least:.2%} to {most:.2%} of the picture, {share:.2%} of the area")
    print(f"{opaque.total()} pixels drawn, of these {mixed} mixed of several classes,")
    print(f"{empty} without polygons, {gaps} that paper shines through")
    if gaps and not empty:
        problems.append(f"{gaps} pixels of gaps between polygons that cover everything")
    return problems


if __name__ == "__main__":
    sys.exit(main())
