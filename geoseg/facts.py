"""What a scene, a plan and this machine are, in plain values: for matching, manifests, cards and people."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.matching import SceneFacts
from geoseg.vector.area import pixel_areas
from geoseg.windows import Window

if TYPE_CHECKING:
    from geoseg.raster.scene import Scene
    from geoseg.tiling import TilePlan


def facts_of(scene: Scene) -> SceneFacts:
    """What a scene offers to a package: bands, type, ground sampling distance at its centre."""
    height, width = scene.window.shape
    centre = pixel_areas(scene.geobox, Window(height // 2, width // 2, 1, 1))
    return SceneFacts(
        name=scene.name,
        band_names=scene.band_names,
        dtype=scene.dtype,
        gsd_m=float(np.sqrt(centre.mean())),
    )


def plan_facts(plan: TilePlan) -> dict[str, Any]:
    """The plan in numbers, for manifests and people."""
    window = plan.window
    return {
        "patch_px": plan.lattice.rows.patch_px,
        "overlap_px": plan.lattice.rows.overlap_px,
        "stride_px": plan.lattice.rows.stride_px,
        "tile_px": plan.tile_px,
        "blend": plan.blend,
        "window": [window.row, window.col, window.height, window.width],
        "tiles": len(plan),
        "patches": plan.patches,
        "duplication": round(plan.duplication, 4),
    }


def scene_facts(scene: Scene) -> dict[str, Any]:
    """The scene in words, for manifests."""
    height, width = scene.window.shape
    return {
        "name": scene.name,
        "files": list(scene.paths),
        "bands": list(scene.band_names),
        "shape": [height, width],
        "transform": [float(v) for v in list(scene.geobox.affine)[:6]],
        "crs": str(scene.geobox.crs),
        "dtype": scene.dtype,
        "fingerprint": scene.fingerprint,
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, geoseg and the packages named."""
    found = {name: version(name) for name in ("geoseg", *packages)}
    return {"python": platform.python_version(), **found}


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or the limit of its control group."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    except (OSError, ValueError):  # another system, or "max"
        return total


def peak_rss_mb() -> int:
    """Largest resident memory of this process so far, in MB; worker processes are not counted."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
