"""Shared fixtures: one factory of rasters, one legend, the real data when it is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from geoseg.legend import Legend, LegendClass

# Waiting OpenMP threads must sleep: with several test processes they would spin the machine to a halt.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parent.parent
UTM_10M = from_origin(500_000, 5_200_000, 10, 10)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real scenes; tests that need it skip where it is not."""
    folder = Path(os.environ.get("GEOSEG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real scenes are not here: {folder} (set GEOSEG_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def legend() -> Legend:
    """Three classes whose ids are not their indices; id 0 is a class like any other."""
    return Legend(
        classes=(
            LegendClass(id=0, name="water", color="#2b6cb0"),
            LegendClass(id=7, name="forest", color="#276749"),
            LegendClass(id=3, name="field & meadow", color="#d69e2e"),
        )
    )


@pytest.fixture
def make_raster(tmp_path):
    """Writes (bands, height, width) to a GeoTIFF and returns its path."""

    def write(
        values: np.ndarray,
        *,
        name: str = "scene.tif",
        crs: str | None = "EPSG:32631",
        transform: Affine | None = UTM_10M,
        descriptions: tuple[str, ...] | None = None,
        **profile: object,
    ) -> Path:
        path = tmp_path / name
        values = values[None] if values.ndim == 2 else values
        options = {
            "driver": "GTiff",
            "count": values.shape[0],
            "height": values.shape[1],
            "width": values.shape[2],
            "dtype": values.dtype,
            "crs": crs,
            **({"transform": transform} if transform is not None else {}),
            **profile,
        }
        with rasterio.open(path, "w", **options) as dataset:
            dataset.write(values)
            for i, text in enumerate(descriptions or (), start=1):
                dataset.set_band_description(i, text)
        return path

    return write
