"""Areas of interest: which pixels of a scene are asked for, from a box or from polygons."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import geometry_mask

from geoseg.errors import UsageError, explain
from geoseg.windows import Window

if TYPE_CHECKING:
    from pathlib import Path

    from affine import Affine
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from geoseg.raster.scene import Scene

Bounds = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax."""

_BLOCK_PX = 512
"""Masks are made in blocks of a lattice that is the scene's: no window can change a pixel's answer."""
_SNAP_PX = 1e-3
"""An edge this close to a pixel's edge lies on it."""
_STRAIGHT_PX = 0.1
"""Straight edges in the file's CRS are followed to this precision in the scene's."""
_MAX_VERTICES = 2_000_000
_MARGIN = 0.05
"""Of the scene's extent: polygons are cut this far outside it before they are reprojected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aoi:
    """What of a scene is asked for: a window, and in it what the polygons cover. Picklable."""

    extent: Window
    """The pixels the area touches, inside the scene."""
    wkb: bytes | None = None
    """The area in the scene's CRS, if it is not the whole extent."""

    @property
    def digest(self) -> str:
        """SHA-256 of the area, for job ids."""
        return hashlib.sha256(f"{self.extent} ".encode() + (self.wkb or b"")).hexdigest()

    def mask(self, window: Window, geobox: GeoBox) -> NDArray[np.bool_]:
        """(height, width) of `window`: True where the area holds the pixel's centre.

        `geobox` is the scene's. However a scene is split into windows, the answers are the same.
        """
        inside = np.zeros(window.shape, bool)
        shared = window.intersect(self.extent)
        if shared.size and self.wkb is None:
            inside[shared.slices(origin=window)] = True
        elif shared.size:
            area = _area_px(self.wkb or b"", tuple(list(geobox.affine)[:6]))
            for block in _blocks(shared):
                part = block.intersect(shared)
                burnt = _burn(area, block)[part.slices(origin=block)]
                inside[part.slices(origin=window)] = burnt
        return inside


def read_aoi(
    path: str | Path | None,
    bbox: Bounds | None,
    scene: Scene,
    *,
    layer: str | None = None,
    bbox_crs: str | None = None,
) -> Aoi:
    """The area of interest in the pixel plane of `scene`; all of it when neither file nor box is given.

    Args:
        path: a vector file of polygons in any CRS; together they are the area.
        bbox: xmin, ymin, xmax, ymax; every pixel it touches is taken where it is parallel to the grid.
        scene: what is to be cut.
        layer: of the file, where it has several.
        bbox_crs: of the box, for example EPSG:4326; None: the scene's.

    Raises:
        UsageError: both are given, the file or CRS cannot be used, or the area does not meet the scene.
    """
    if path is not None and bbox is not None:
        raise UsageError("the area is given twice: by a file and by a box; leave one out")
    if path is None and bbox is None:
        return Aoi(extent=scene.window)
    if path is not None:
        area, crs = _read_polygons(str(path), layer)
        return _aoi_of(area, crs, scene, str(path))
    box = _checked(bbox or (0, 0, 0, 0))
    crs = _scene_crs(scene) if bbox_crs is None else _crs_of(bbox_crs)
    where = f"box {', '.join(f'{v:.9g}' for v in box)}"
    affine = scene.geobox.affine
    if crs == _scene_crs(scene) and affine.b == 0 == affine.d:
        return Aoi(extent=_extent(_to_px(shapely.box(*box), affine), scene, where))
    return _aoi_of(shapely.box(*box), crs, scene, where)


def _aoi_of(area: Any, crs: CRS, scene: Scene, where: str) -> Aoi:
    near = _near(area, crs, scene, where)
    moved = near if crs == _scene_crs(scene) else _reproject(near, crs, scene, where)
    extent = _extent(_to_px(moved, scene.geobox.affine), scene, where)
    return Aoi(extent=extent, wkb=shapely.to_wkb(shapely.normalize(moved)))


def _extent(area_px: Any, scene: Scene, where: str) -> Window:
    """The scene's pixels that the bounds of the area touch."""
    if not area_px.is_empty:
        left, top, right, bottom = area_px.bounds
        first_row, first_col = math.floor(top + _SNAP_PX), math.floor(left + _SNAP_PX)
        stop_row, stop_col = math.ceil(bottom - _SNAP_PX), math.ceil(right - _SNAP_PX)
        # An area narrower than the tolerance still lies in some pixel.
        height, width = max(1, stop_row - first_row), max(1, stop_col - first_col)
        extent = Window(first_row, first_col, height, width).intersect(scene.window)
        if extent.size:
            return extent
    raise _elsewhere(scene, where)


def _elsewhere(scene: Scene, where: str) -> UsageError:
    ours = ", ".join(f"{v:.9g}" for v in _scene_bounds(scene))
    crs = scene.geobox.crs
    return UsageError(
        explain(
            "the area of interest does not meet the scene",
            at=where,
            expected=f"a part of {scene.name}: {ours} in {f'EPSG:{crs.epsg}' if crs.epsg else crs}",
            found="no common pixel",
            change="Check the area and its CRS, and for a box the order xmin ymin xmax ymax.",
        )
    )


# Files and boxes


def _read_polygons(path: str, layer: str | None) -> tuple[Any, CRS]:
    """The union of the polygons in a file, and their CRS."""
    import pyogrio

    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        if layer is None and len(layers) > 1:
            raise _not_usable(path, "one layer, or --aoi-layer to say which", ", ".join(layers))
        if layer is not None and layer not in layers:
            raise _not_usable(path, f"layer {layer!r}", ", ".join(layers))
        meta, _, geometry, _ = pyogrio.raw.read(path, layer=layer or layers[0], columns=[], force_2d=True)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise _not_usable(path, "a vector file", str(error)) from error
    shapes = shapely.from_wkb(geometry) if geometry is not None else np.empty(0, object)
    shapes = shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))]
    kinds = {g.geom_type for g in shapes} - {"Polygon", "MultiPolygon"}
    if kinds or not len(shapes):
        raise _not_usable(path, "polygons", ", ".join(sorted(kinds)) or "no feature with a geometry")
    if not meta["crs"]:
        raise _not_usable(path, "a CRS", "none")
    return _polygonal(shapely.union_all(shapely.make_valid(shapes))), _crs_of(meta["crs"])


def _polygonal(area: Any) -> Any:
    """What of one geometry or many has an area: repairs and cuts may leave lines and points beside it."""
    parts = shapely.get_parts(shapely.get_parts(area))
    kept: Any = shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
    return kept


def _not_usable(path: str, expected: str, found: str) -> UsageError:
    return UsageError(
        explain(
            "the file cannot be used as area of interest",
            at=path,
            expected=expected,
            found=found,
            change="Correct the file or choose another; ogrinfo shows what is in it.",
        )
    )


def _checked(bbox: Bounds) -> Bounds:
    left, bottom, right, top = bbox
    if not (all(math.isfinite(v) for v in bbox) and left < right and bottom < top):
        raise UsageError(
            explain(
                "the box is empty",
                at=f"xmin {left:g}, ymin {bottom:g}, xmax {right:g}, ymax {top:g}",
                expected="xmin below xmax and ymin below ymax",
                found="the contrary",
                change="Give XMIN YMIN XMAX YMAX, in this order.",
            )
        )
    return bbox


def _crs_of(text: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise UsageError(
            explain(
                "the CRS of the area is not known",
                at=text,
                expected="a code such as EPSG:4326, or WKT",
                found=str(error),
                change="Correct it.",
            )
        ) from error


# Reprojection


def _scene_crs(scene: Scene) -> CRS:
    return CRS.from_wkt(scene.geobox.crs.to_wkt())


def _scene_bounds(scene: Scene) -> Bounds:
    """Of the scene's corners, in its CRS."""
    bounds = scene.geobox.extent.boundingbox
    return tuple(float(v) for v in bounds)  # type: ignore[return-value]


def _near(area: Any, crs: CRS, scene: Scene, where: str) -> Any:
    """What of the area lies around the scene: what is far away may have no place in the scene's CRS."""
    left, bottom, right, top = _scene_bounds(scene)
    dx, dy = _MARGIN * (right - left), _MARGIN * (top - bottom)
    to_area = Transformer.from_crs(_scene_crs(scene), crs, always_xy=True)
    try:
        west, south, east, north = to_area.transform_bounds(
            left - dx, bottom - dy, right + dx, top + dy, densify_pts=41
        )
    except ProjError as error:
        raise _elsewhere(scene, where) from error
    if not all(math.isfinite(v) for v in (west, south, east, north)):
        return area
    boxes = [shapely.box(west, south, east, north)]
    if west > east:  # across the date line
        boxes = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    around = shapely.union_all(boxes)
    cut = area if shapely.covers(around, area) else _polygonal(shapely.intersection(area, around))
    if cut.is_empty:
        raise _elsewhere(scene, where)
    return cut


def _reproject(area: Any, crs: CRS, scene: Scene, where: str) -> Any:
    """The area in the scene's CRS, with as many vertices on its edges as following their curves takes."""
    move = Transformer.from_crs(crs, _scene_crs(scene), always_xy=True)
    left, bottom, right, top = area.bounds
    length = max(right - left, top - bottom)
    while True:
        dense = shapely.segmentize(area, length)
        ends = shapely.get_coordinates(dense)
        moved = _moved(move, ends)
        # A chord strays furthest from its curve near its middle.
        middles = _moved(move, (ends[:-1] + ends[1:]) / 2)
        off = np.hypot(*_px_of((moved[:-1] + moved[1:]) / 2 - middles, scene.geobox.affine).T)
        in_ring = np.hypot(*(ends[1:] - ends[:-1]).T) <= length * (1 + 1e-9)
        if not (off[in_ring] > _STRAIGHT_PX).any() or len(ends) > _MAX_VERTICES:
            break
        length /= 2
    if not np.isfinite(moved).all():
        raise _elsewhere(scene, where)
    return _polygonal(shapely.make_valid(shapely.set_coordinates(dense, moved)))


def _moved(move: Transformer, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(move.transform(xy[:, 0], xy[:, 1]), axis=1)


def _px_of(steps: NDArray[np.float64], affine: Affine) -> NDArray[np.float64]:
    """Differences in the scene's CRS as differences in pixels (column, row)."""
    inverse = ~affine
    x, y = steps.T
    return np.stack([inverse.a * x + inverse.b * y, inverse.d * x + inverse.e * y], axis=1)


# Pixels


def _to_px(area: Any, affine: Affine) -> Any:
    """The area in the pixel plane, (column, row)."""
    origin = np.array([affine.c, affine.f])
    return shapely.transform(area, lambda xy: _px_of(xy - origin, affine))


@lru_cache(maxsize=4)
def _area_px(wkb: bytes, affine: tuple[float, ...]) -> tuple[Any, shapely.STRtree]:
    """Polygons in the pixel plane, and where they lie."""
    from affine import Affine

    parts = shapely.get_parts(_to_px(shapely.from_wkb(wkb), Affine(*affine)))
    return parts, shapely.STRtree(parts)


def _blocks(window: Window) -> list[Window]:
    """The blocks of the scene's lattice that `window` touches."""
    rows = range(window.row // _BLOCK_PX * _BLOCK_PX, window.stop_row, _BLOCK_PX)
    cols = range(window.col // _BLOCK_PX * _BLOCK_PX, window.stop_col, _BLOCK_PX)
    return [Window(row, col, _BLOCK_PX, _BLOCK_PX) for row in rows for col in cols]


def _burn(area: tuple[Any, shapely.STRtree], block: Window) -> NDArray[np.bool_]:
    """(height, width): True where the area holds the pixel's centre."""
    from affine import Affine

    parts, tree = area
    around = Window(block.row - 1, block.col - 1, block.height + 2, block.width + 2)
    box = (around.col, around.row, around.stop_col, around.stop_row)
    touched = parts[np.sort(tree.query(shapely.box(*box)))]
    # Only the block's share of long outlines is handed over: that takes time by the vertex.
    shares = shapely.get_parts(_polygonal(shapely.clip_by_rect(touched, *box)))
    if not len(shares):
        return np.zeros(block.shape, bool)
    inside: NDArray[np.bool_] = geometry_mask(
        shares, block.shape, Affine(1, 0, block.col, 0, 1, block.row), invert=True
    )
    return inside
