"""Benchmarks of geoseg against the bare network and other tools: `python -m benchmarks.engine`."""
