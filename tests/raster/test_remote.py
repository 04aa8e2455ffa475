from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from geoseg.errors import SceneError
from geoseg.raster.mosaic import open_mosaic
from geoseg.raster.read import read_window
from geoseg.raster.scene import open_scene, open_stack
from geoseg.windows import Window

sys.path.insert(0, str(Path(__file__).parent))
from server import Served, serving


@pytest.fixture
def cog(make_raster, tmp_path):
    """A COG of 6 MB that does not compress, and what is in it."""
    values = np.random.default_rng(0).integers(0, 60_000, (1, 1536, 2048), dtype=np.uint16)
    plain = make_raster(values, name="plain.tif")
    rasterio.shutil.copy(plain, tmp_path / "cog.tif", driver="COG", compress="deflate", blocksize=256)
    return values


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as served:
        yield served


def test_a_window_costs_its_own_bytes_and_a_handful_of_requests(cog, server: Served, tmp_path) -> None:
    scene = open_scene(f"{server.url}/cog.tif")
    assert scene.name == "cog"
    assert scene.fingerprint == scene.fingerprint  # asks nobody
    opening = server.requests
    assert len(opening) <= 5, opening
    window = Window(512, 1024, 512, 512)
    pixels = read_window(scene, window)
    assert np.array_equal(pixels.values, cog[(slice(None), *window.slices())])
    assert pixels.valid.all()
    whole = (tmp_path / "cog.tif").stat().st_size
    assert whole > 6_000_000
    assert server.sent_bytes < 1_000_000, "more than the four blocks and the header"
    assert len(server.requests) - len(opening) <= 4, server.requests
    # The header is known by now, and no sibling is asked for again.
    server.set()
    read_window(scene, Window(0, 0, 256, 256))
    assert server.requests == ["GET /cog.tif"]


def test_a_wrong_address_is_named_within_seconds(server: Served) -> None:
    begun = time.monotonic()
    with pytest.raises(SceneError, match=r"cannot be opened: http://127.*/none\.tif.*404"):
        open_scene(f"{server.url}/none.tif")
    with pytest.raises(SceneError, match=r"cannot be opened: http://127\.0\.0\.1:1/x\.tif.*connect"):
        open_scene("http://127.0.0.1:1/x.tif")
    with pytest.raises(SceneError, match=r"cannot be opened: http://no\.such\.host\.invalid/x\.tif"):
        open_scene("http://no.such.host.invalid/x.tif")
    (server.folder / "page.tif").write_text("<html>Sign in</html>")
    with pytest.raises(SceneError, match=r"page\.tif.*Check the address"):
        open_scene(f"{server.url}/page.tif")
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("name", ["cog.tif", "plain.tif"])
def test_a_connection_that_breaks_is_tried_again_and_then_told(cog, server: Served, name) -> None:
    """Also without tiles: there GDAL would keep what had come for all there is, and never ask again."""
    scene = open_scene(f"{server.url}/{name}")
    window = Window(0, 0, 512, 512)
    server.set(cut=2)
    assert np.array_equal(read_window(scene, window).values, cog[(slice(None), *window.slices())])

    server.set(cut=10_000)
    begun = time.monotonic()
    with pytest.raises(SceneError, match=r"reading failed: http.*\.tif, rows 1024:1536, columns 0:256"):
        read_window(scene, Window(1024, 0, 512, 256))
    assert time.monotonic() - begun < 8
    server.set()
    assert np.array_equal(read_window(scene, scene.window).values, cog)


def test_a_server_that_is_busy_for_a_moment_is_waited_for(cog, server: Served) -> None:
    server.set(busy=5)
    scene = open_scene(f"{server.url}/cog.tif")
    server.set(busy=2)
    window = Window(768, 0, 256, 256)
    assert np.array_equal(read_window(scene, window).values, cog[(slice(None), *window.slices())])


def test_the_fingerprint_knows_the_content_by_what_the_server_says(cog, server: Served) -> None:
    url = f"{server.url}/cog.tif"
    first = open_scene(url).fingerprint
    assert open_scene(url).fingerprint == first
    server.set(etag='"second"')
    assert open_scene(url).fingerprint != first


def test_where_the_server_says_nothing_the_layout_of_the_file_does(make_raster, server: Served) -> None:
    """Its size is all that is left of the answer; of equal sizes, the compressed blocks tell."""
    from geoseg.raster.remote import layout_state

    def state(values: np.ndarray) -> str:
        with rasterio.open(
            make_raster(values, compress="deflate", tiled=True, blockxsize=16, blockysize=16)
        ) as d:
            return layout_state(d)

    noise = np.random.default_rng(1).integers(0, 9, (1, 64, 64), dtype=np.uint8)
    calm = noise.copy()
    calm[0, 20:30, 20:30] = 0
    assert state(noise) == state(noise)
    assert state(noise) != state(calm)


def test_a_mask_beside_a_remote_file_counts(make_raster, server: Served) -> None:
    path = make_raster(np.full((1, 64, 64), 5, np.uint8), name="masked.tif")
    shown = np.full((64, 64), 255, np.uint8)
    shown[:20, :30] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(shown)
    scene = open_scene(f"{server.url}/masked.tif")
    assert scene.masks == ("mask",)
    assert np.array_equal(read_window(scene, scene.window).valid, shown > 0)
    mosaic = open_mosaic([f"{server.url}/masked.tif"], name="m").near(Window(0, 0, 9, 9))
    assert np.array_equal(read_window(mosaic, scene.window).valid, shown > 0)


def test_stacks_and_mosaics_of_remote_files(make_raster, server: Served) -> None:
    a = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    urls = []
    for n in range(3):
        make_raster(a + n, name=f"r{n}.tif")
        urls.append(f"{server.url}/r{n}.tif")
    stack = open_stack({"a": urls[0], "b": urls[2]}, name="s")
    assert np.array_equal(read_window(stack, stack.window).values, np.concatenate([a, a + 2]))
    mosaic = open_mosaic(urls, name="m")
    assert [path for path, _ in mosaic.states] == urls
    assert np.array_equal(read_window(mosaic, mosaic.window).values, a + 2)
