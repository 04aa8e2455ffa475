"""Polygons: tracing class rasters, merging across tiles, true areas, GeoPackages. Never imports torch."""
