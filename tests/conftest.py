"""Shared fixtures: factories of rasters and scenes, a legend, a package, the real data when it is there."""

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


def pytest_configure(config: pytest.Config) -> None:
    """rasterio.features.shapes hides this warning with `catch_warnings`, which fails between threads."""
    config.addinivalue_line("filterwarnings", "ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> None:
    """What is remembered between runs lies apart from what the user's runs remember."""
    os.environ["GEOSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


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


@pytest.fixture
def make_scene(make_raster):
    """Writes a scene the `package` takes, coloured patches with a nodata corner (0), and returns its path."""

    def write(
        shape: tuple[int, int] = (150, 130),
        *,
        seed: int = 0,
        hole: bool = True,
        name: str = "scene.tif",
        **options: object,
    ) -> Path:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(1, 200, (3, -(-shape[0] // 12), -(-shape[1] // 12)))
        values = coarse.repeat(12, 1).repeat(12, 2)[:, : shape[0], : shape[1]]
        values = values + rng.integers(0, 40, values.shape)
        if hole:
            rows, cols = np.indices(shape)
            values[:, rows + 2 * cols < min(shape)] = 0
        named = {"nodata": 0, "descriptions": ("red", "green", "blue"), **options}
        return make_raster(values.astype(np.uint8), name=name, **named)

    return write


@pytest.fixture(scope="session")
def package(tmp_path_factory, legend) -> Path:
    """A small untrained U-Net for red, green and blue in uint8: patches of 64 px on a stride of 32."""
    import torch

    from geoseg.models.registry import build
    from geoseg.models.store import save_package
    from geoseg.package import Architecture, Band

    architecture = Architecture(
        name="unet", encoder="mobilenet_v2", options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    )
    folder = tmp_path_factory.mktemp("package") / "model"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build(architecture, bands=3, classes=len(legend)).eval()
        head = model.get_submodule("network.segmentation_head.0")
        head.weight *= 40  # so that it is sure of itself in places, and every class occurs
    save_package(
        folder,
        model=model,
        architecture=architecture,
        # Powers of two: normalisation is exact in float32, however it is written down.
        bands=[Band(name=name, mean=112, std=64) for name in ("red", "green", "blue")],
        dtype="uint8",
        legend=legend,
        patch_px=64,
        overlap_px=32,
    )
    return folder
