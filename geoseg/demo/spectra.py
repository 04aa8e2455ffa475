"""Reflectance of the materials the demo scene is painted with, and where each number comes from.

Six bands: blue (490 nm), green (560), red (665), near infrared (842), short-wave infrared 1 (1610) and 2
(2190), the centres of Sentinel-2's B2, B3, B4, B8, B11 and B12. Values are surface reflectance, 0 to 1.

What is measured and what is representative:

- [S2] Measured for this file: means over hand-made polygons in a Sentinel-2 surface reflectance scene of
  2021-05-27, Wales, rounded to 0.001. Scene and polygons are test data of rsgislib; contains modified
  Copernicus Sentinel data 2021.
- [U7] Kokaly et al. 2017, USGS Spectral Library Version 7, Data Series 1035, doi:10.3133/ds1035. The
  visible values of asphalt (record GDS376, old black road) are a published resampling of that record.
  Everything else marked so, the infrared of asphalt included, has the level and shape of the named kind of
  record, not its digits.
- [SO] Souza et al. 2005, Remote Sensing of Environment 98, 329-343: Landsat endmembers for green vegetation
  (0.05, 0.09, 0.04, 0.61, 0.30, 0.10), dry vegetation (0.14, 0.17, 0.22, 0.30, 0.55, 0.30) and bare soil
  (0.20, 0.30, 0.34, 0.58, 0.60, 0.58), as distributed with the change detection software CODED. These are
  pure; a satellite sees them mixed with shade, so the values here are lower, by a factor of 0.5 to 0.8.
- [EC] Meerdink et al. 2019, ECOSTRESS spectral library 1.0, Remote Sensing of Environment 230, 111196.
  Level and shape only.
- [SB] Stoner & Baumgardner 1981, Soil Science Society of America Journal 45, 1161-1165: forms of soil
  curves, and how moisture darkens them. Level and shape only.
- [JE] Jensen 2007, Remote Sensing of the Environment, 2nd edition: clear water. Level and shape only.

So the numbers are plausible, not a calibration: nothing learned from this scene transfers to a real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoseg.legend import Legend, LegendClass

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")
"""Band names in the order of the image's bands."""

WATER, FOREST, CROPLAND, GRASSLAND, SETTLEMENT, ROAD, BARE = range(1, 8)

LEGEND = Legend(
    classes=(
        LegendClass(id=WATER, name="water", color="#3a7bc8"),
        LegendClass(id=FOREST, name="forest", color="#1f6f3a"),
        LegendClass(id=CROPLAND, name="cropland", color="#e8c95a"),
        LegendClass(id=GRASSLAND, name="grassland", color="#9ccc65"),
        LegendClass(id=SETTLEMENT, name="settlement", color="#c8443c"),
        LegendClass(id=ROAD, name="road", color="#4d4d4d"),
        LegendClass(id=BARE, name="bare", color="#b79b80"),
    )
)
"""The seven classes of the demo scene's truth."""

Spectrum = tuple[float, float, float, float, float, float]

CLEAR_WATER: Spectrum = (0.024, 0.026, 0.016, 0.009, 0.005, 0.004)  # [JE]
TURBID_WATER: Spectrum = (0.070, 0.076, 0.049, 0.037, 0.023, 0.022)  # [S2] water
BROADLEAF: Spectrum = (0.034, 0.065, 0.032, 0.415, 0.165, 0.079)  # [S2] forest
CONIFER: Spectrum = (0.022, 0.038, 0.024, 0.24, 0.10, 0.05)  # [U7] Douglas-fir and lodgepole stands
LUSH_GRASS: Spectrum = (0.039, 0.075, 0.035, 0.50, 0.230, 0.107)  # [S2] grass; nir 0.60 there, less in summer
DRY_GRASS: Spectrum = (0.07, 0.10, 0.12, 0.25, 0.30, 0.20)  # [EC] dry grass, [SO] dry vegetation with shade
GREEN_CROP: Spectrum = (
    0.035,
    0.070,
    0.035,
    0.46,
    0.21,
    0.09,
)  # [SO] green vegetation with a quarter of shade
STUBBLE: Spectrum = (0.10, 0.14, 0.18, 0.27, 0.36, 0.26)  # [SO] two thirds dry vegetation, soil and shade
MOIST_SOIL: Spectrum = (0.06, 0.08, 0.11, 0.17, 0.23, 0.19)  # [SB] organic-dominated form, moist
DRY_SOIL: Spectrum = (0.10, 0.14, 0.18, 0.25, 0.32, 0.28)  # [SB] minimally altered form; [SO] soil with shade
ASPHALT: Spectrum = (0.069, 0.086, 0.103, 0.13, 0.16, 0.15)  # [U7] Asphalt GDS376, infrared rounded
CONCRETE: Spectrum = (0.20, 0.24, 0.27, 0.30, 0.34, 0.31)  # [U7] Concrete GDS375, light grey road
RED_TILE: Spectrum = (0.08, 0.11, 0.20, 0.28, 0.32, 0.27)  # [U7] Brick GDS350; [EC] terracotta roofing tile
SLATE: Spectrum = (0.06, 0.065, 0.07, 0.09, 0.11, 0.10)  # [EC] roofing slate
WHITE_ROOF: Spectrum = (0.34, 0.38, 0.40, 0.41, 0.38, 0.34)  # visible: [S2] urban mean + 2.5 deviations
LIMESTONE: Spectrum = (0.27, 0.32, 0.35, 0.39, 0.41, 0.36)  # [EC] limestone, quarried faces with shade
GRAVEL: Spectrum = (0.18, 0.21, 0.24, 0.28, 0.32, 0.29)  # [EC] grey sand and gravel


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What a pixel is covered with: a mixture of two materials and how much it varies.

    Reflectance = ((1 - f) a + f b) (1 + g), with f = share + patch_spread p + pixel_spread n and
    g = texture m; p is one number in -1..1 per field or stand, n and m are noise of unit variance per pixel.
    """

    class_id: int
    """Class in `LEGEND`."""
    a: Spectrum
    """First material."""
    b: Spectrum
    """Second material."""
    share: float
    """Mean fraction of `b`."""
    patch_spread: float
    """Half the range of that fraction between fields or stands."""
    pixel_spread: float
    """Standard deviation of that fraction within them."""
    texture: float
    """Standard deviation of brightness from pixel to pixel."""


def _surface(class_id: int, a: Spectrum, b: Spectrum, *variation: float) -> Surface:
    share, patch, pixel, texture = variation
    return Surface(
        class_id=class_id, a=a, b=b, share=share, patch_spread=patch, pixel_spread=pixel, texture=texture
    )


SURFACES: dict[str, Surface] = {
    "lake": _surface(WATER, CLEAR_WATER, TURBID_WATER, 0.15, 0.15, 0.04, 0.03),
    "river": _surface(WATER, CLEAR_WATER, TURBID_WATER, 0.65, 0.10, 0.08, 0.04),
    "broadleaf": _surface(FOREST, BROADLEAF, CONIFER, 0.20, 0.20, 0.12, 0.10),
    "conifer": _surface(FOREST, BROADLEAF, CONIFER, 0.85, 0.12, 0.10, 0.10),
    "young_trees": _surface(FOREST, BROADLEAF, DRY_GRASS, 0.35, 0.20, 0.12, 0.09),
    "green_crop": _surface(CROPLAND, GREEN_CROP, DRY_SOIL, 0.16, 0.18, 0.06, 0.04),
    "stubble": _surface(CROPLAND, STUBBLE, MOIST_SOIL, 0.22, 0.22, 0.08, 0.05),
    "ploughed": _surface(CROPLAND, MOIST_SOIL, DRY_SOIL, 0.45, 0.45, 0.10, 0.05),
    "meadow": _surface(GRASSLAND, LUSH_GRASS, DRY_GRASS, 0.36, 0.30, 0.10, 0.06),
    "rough_grass": _surface(GRASSLAND, LUSH_GRASS, DRY_GRASS, 0.60, 0.25, 0.12, 0.07),
    "margin": _surface(CROPLAND, DRY_GRASS, LUSH_GRASS, 0.45, 0.25, 0.15, 0.08),
    "track": _surface(CROPLAND, DRY_SOIL, DRY_GRASS, 0.40, 0.20, 0.15, 0.06),
    "red_roof": _surface(SETTLEMENT, RED_TILE, SLATE, 0.25, 0.25, 0.15, 0.15),
    "dark_roof": _surface(SETTLEMENT, SLATE, CONCRETE, 0.15, 0.15, 0.10, 0.12),
    "hall": _surface(SETTLEMENT, CONCRETE, WHITE_ROOF, 0.40, 0.40, 0.08, 0.10),
    "street": _surface(SETTLEMENT, ASPHALT, CONCRETE, 0.20, 0.15, 0.12, 0.08),
    "garden": _surface(SETTLEMENT, LUSH_GRASS, CONCRETE, 0.30, 0.10, 0.18, 0.12),
    "town_tree": _surface(SETTLEMENT, BROADLEAF, ASPHALT, 0.30, 0.10, 0.15, 0.12),
    "road": _surface(ROAD, ASPHALT, CONCRETE, 0.10, 0.10, 0.06, 0.05),
    "quarry_face": _surface(BARE, LIMESTONE, GRAVEL, 0.35, 0.35, 0.18, 0.09),
    "quarry_floor": _surface(BARE, GRAVEL, DRY_SOIL, 0.30, 0.30, 0.15, 0.09),
    "gravel_bar": _surface(BARE, GRAVEL, DRY_GRASS, 0.25, 0.15, 0.15, 0.08),
    "rock": _surface(BARE, GRAVEL, DRY_GRASS, 0.40, 0.20, 0.18, 0.10),
}
"""Every surface by name; the order gives the codes used while painting."""

CODES: dict[str, int] = {name: code for code, name in enumerate(SURFACES)}
"""Code of each surface in the painter's map."""

CLASS_OF = np.array([s.class_id for s in SURFACES.values()], dtype=np.uint8)
"""Class id by surface code."""
