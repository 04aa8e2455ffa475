"""Pixels in and out: scenes, windowed reads, tile parts, cloud-optimised GeoTIFFs. Never imports torch."""
