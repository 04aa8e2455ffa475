"""Scenes from STAC items: the bands wanted are found among the item's assets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from geoseg.errors import SceneError, explain
from geoseg.matching import suggest
from geoseg.raster.remote import is_remote
from geoseg.raster.scene import Resample, Scene, stack_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_BYTES = 16 << 20
"""Of an item: what is longer is something else."""
_DATA_ROLES = {"data", "reflectance"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """One band of one asset."""

    names: tuple[str, ...]
    """What it may be asked for by: the asset's key, if it has but one band, its name, its common name."""
    href: str
    index: int | None
    """Band number in the asset; None: the first that is data."""
    is_data: bool
    """Whether it is one of those taken when nobody says which."""


def is_item(path: str) -> bool:
    """True when the file at `path` is a STAC item, told from its beginning; URLs are not looked at."""
    file = Path(path)
    if file.suffix not in (".json", ".geojson") or not file.is_file():
        return False
    document = _parsed(file)
    return (
        isinstance(document, dict) and "stac_version" in document and isinstance(document.get("assets"), dict)
    )


def _parsed(file: Path) -> Any:
    """The JSON of a file that nobody vouches for; None where it is none, or too large, or too deep."""
    try:
        with file.open("rb") as stream:
            return json.loads(stream.read(_MAX_BYTES))
    except (ValueError, RecursionError):
        return None


def open_item(
    path: str | Path,
    *,
    bands: Sequence[str] | None = None,
    name: str | None = None,
    nodata: float | None = None,
    resampling: Resample = "bilinear",
) -> Scene:
    """The scene of a STAC item in a local file; its assets lie beside it or at URLs.

    Args:
        path: the item's JSON.
        bands: asset keys, band names or common names; None: the bands of all assets with role data or
            reflectance, by asset key.
        name: stem of output file names; None: the item's id.
        nodata: as for `open_scene`.
        resampling: as for `open_stack`.

    Raises:
        SceneError: this is not an item, or it does not have the bands.
    """
    item = _load(Path(path))
    found = _bands(item, Path(path))
    wanted = list(bands) if bands is not None else [b.names[0] for b in found if b.is_data]
    by_name: dict[str, _Band] = {}
    for rank in range(3):  # keys before names before common names
        for band in found:
            if rank < len(band.names):
                by_name.setdefault(band.names[rank], band)
    missing = [w for w in wanted if w not in by_name]
    if missing or not wanted:
        raise SceneError(
            explain(
                "the STAC item does not have the bands",
                at=path,
                expected=", ".join(wanted) or "assets with the role data or reflectance",
                found=", ".join(sorted(by_name)) or "no raster assets",
                change=suggest(wanted, list(by_name))
                + "Name the bands with --bands, by asset key, band name or common name.",
            )
        )
    files: dict[str, tuple[str | Path, int | None]] = {w: (by_name[w].href, by_name[w].index) for w in wanted}
    return stack_of(files, name or str(item.get("id") or Path(path).stem), nodata, resampling)


def _load(path: Path) -> dict[str, Any]:
    if not is_item(str(path)):
        raise SceneError(
            explain(
                "this is not a STAC item",
                at=path,
                expected="JSON with stac_version and assets",
                found="something else" if path.exists() else "nothing there",
                change="Check the path.",
            )
        )
    document: dict[str, Any] = _parsed(path)
    return document


def _bands(item: dict[str, Any], path: Path) -> list[_Band]:
    """All bands of all raster assets, in the item's order."""
    found: list[_Band] = []
    for key, asset in item["assets"].items():
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            continue
        kind = str(asset.get("type", "image/tiff"))
        if not kind.startswith("image/") or kind in ("image/png", "image/jpeg"):
            continue
        href = _resolved(asset["href"], path)
        named = asset.get("bands") or asset.get("eo:bands")
        said = [b for b in (named if isinstance(named, list) else []) if isinstance(b, dict)]
        roles = asset.get("roles")
        is_data = bool(_DATA_ROLES & set(map(str, roles if isinstance(roles, list) else ())))
        if len(said) <= 1:
            names = [key, *(n for b in said for n in _names(b))]
            found.append(_Band(names=tuple(dict.fromkeys(names)), href=href, index=None, is_data=is_data))
            continue
        for index, band in enumerate(said, start=1):
            names = _names(band) or [f"{key}_{index}"]
            # A picture of several bands stands beside the bands it is made of: only asked for by name.
            found.append(_Band(names=tuple(dict.fromkeys(names)), href=href, index=index, is_data=False))
    return found


def _names(band: dict[str, Any]) -> list[str]:
    names = [band.get("name"), band.get("eo:common_name") or band.get("common_name")]
    return [str(n) for n in names if n]


def _resolved(href: str, item: Path) -> str:
    """Relative ones lie beside the item."""
    if is_remote(href) or href.startswith("/"):
        return href
    return str(Path(urljoin(str(item.absolute().parent) + "/", href)))
