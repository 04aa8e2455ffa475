"""Scenes: where pixels are and what to expect of them, read from file headers only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from affine import Affine
from odc.geo.geobox import GeoBox

from geoseg.errors import SceneError, UsageError, explain
from geoseg.matching import suggest
from geoseg.raster.header import band_names, read_header, read_headers
from geoseg.raster.placement import Placement, is_finer, place
from geoseg.raster.remote import is_remote
from geoseg.windows import Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geoseg.raster.header import Header

Resample = Literal["nearest", "bilinear", "cubic"]
"""How the values of coarser files become values of the scene's pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSource:
    """One band of a scene: a name and the place its pixels are read from."""

    name: str
    """Name used to match the scene with a model package."""
    path: str
    """File path or anything else GDAL opens; of a mosaic, its first file."""
    index: int
    """Band number in the file, from 1."""
    placed: Placement | None = None
    """Where the file's pixels lie in the scene's plane; None: they are the scene's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One file of a mosaic."""

    path: str
    window: Window
    """Its place in the scene's pixel plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picklable description of a scene. Holds no open handle."""

    name: str
    """Stem of output file names."""
    bands: tuple[BandSource, ...]
    """All bands that carry data (alpha is part of the mask), at least one."""
    geobox: GeoBox
    """Shape, affine and CRS shared by all bands."""
    dtype: str
    """Numpy type name shared by all bands."""
    nodata: float | None = None
    """Declared by the caller in addition to what the files declare; None: trust the files."""
    files: tuple[str, ...] = ()
    """Every file the pixels depend on: the bands' own, the sources of a VRT, masks and other sidecars."""
    states: tuple[tuple[str, str], ...] = ()
    """Remote files among them, and what identified their content when the scene was opened."""
    masks: tuple[str, ...] = ()
    """How the files say where there is no data, in words; empty: they do not."""
    alpha_is_data: bool = False
    """True: the caller has named the band that the file calls alpha; it is data like the others."""
    resampling: Resample = "bilinear"
    """How bands with larger pixels than the scene's are brought to its grid."""
    pieces: tuple[Piece, ...] | None = None
    """The files of a mosaic, each with all bands, the last on top; None: not a mosaic."""

    @property
    def window(self) -> Window:
        """The whole pixel plane."""
        height, width = self.geobox.shape
        return Window(0, 0, int(height), int(width))

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in file order."""
        return tuple(b.name for b in self.bands)

    @property
    def paths(self) -> tuple[str, ...]:
        """The distinct files, in order of first use."""
        sources = self.bands if self.pieces is None else self.pieces
        return tuple(dict.fromkeys(s.path for s in sources))

    def select(self, names: Sequence[str]) -> Scene:
        """The same scene with the bands `names`, in that order.

        Raises:
            SceneError: naming the bands that are missing and those there are.
        """
        by_name = {b.name: b for b in self.bands}
        missing = [n for n in names if n not in by_name]
        if missing:
            raise SceneError(
                explain(
                    "bands are missing",
                    at=self.name,
                    expected=f"bands {', '.join(names)}",
                    found=f"bands {', '.join(self.band_names)}",
                    change=suggest(names, self.band_names)
                    + "Name its bands in order ('_' skips one): --bands, or `bands:` of the scene.",
                )
            )
        return replace(self, bands=tuple(by_name[n] for n in names))

    def near(self, window: Window) -> Scene:
        """The same scene for reads inside `window` only: a mosaic without the files that do not touch it.

        Small enough to travel with a task, however many files there are. Its fingerprint is another.
        """
        if self.pieces is None:
            return self
        pieces = tuple(p for p in self.pieces if p.window.intersect(window).size)
        beside = {f for p in pieces if is_remote(p.path) for f in self.files if f.startswith(p.path)}
        return replace(self, pieces=pieces, files=tuple(sorted(beside)), states=())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the description and of each file's state.

        That is size and modification time, and of remote files what their server said when the scene was
        opened.
        """
        states = dict(self.states)
        state = {
            "bands": [
                (b.name, b.path if self.pieces is None else "", b.index, b.placed and asdict(b.placed))
                for b in self.bands
            ],
            "shape": self.window.shape,
            "transform": list(self.geobox.affine)[:6],
            "crs": self.geobox.crs.to_wkt() if self.geobox.crs else None,
            "dtype": self.dtype,
            "nodata": repr(self.nodata),
            "alpha_is_data": self.alpha_is_data,
            "resampling": self.resampling if any(b.placed for b in self.bands) else None,
            "pieces": None if self.pieces is None else [(p.path, str(p.window)) for p in self.pieces],
            "files": [_file_state(p, states) for p in sorted({*self.paths, *self.files})],
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def open_scene(path: str | Path, *, bands: Sequence[str] | None = None, nodata: float | None = None) -> Scene:
    """The scene in one file (GeoTIFF, COG, VRT, any GDAL raster).

    Args:
        path: the file.
        bands: names for the file's bands in order, "_" to leave one out; a band that the file calls alpha
            may be named too, and is data then. None takes band descriptions,
            else red/green/blue colour interpretation, else `band_N`.
        nodata: a value that marks pixels without data where the file itself does not say so.

    Raises:
        SceneError: the file is missing or unreadable, or has no CRS or no transform.
    """
    return scene_of(read_header(path), bands=bands, nodata=nodata)


def scene_of(header: Header, *, bands: Sequence[str] | None, nodata: float | None) -> Scene:
    """The scene in one file whose header has been read; arguments as for `open_scene`."""
    # GDAL calls the fourth of four 8-bit bands alpha; in red, green, blue, near infrared it is data.
    alpha_is_data = bands is not None and len(bands) == header.count > len(header.data_bands)
    numbers = tuple(range(1, header.count + 1)) if alpha_is_data else header.data_bands
    names = band_names(header, bands, numbers)
    sources = tuple(
        BandSource(name=name, path=header.path, index=index)
        for index, name in zip(numbers, names, strict=True)
        if name != "_"
    )
    return Scene(
        name=Path(header.path.partition("?")[0]).stem,
        bands=sources,
        geobox=header.geobox,
        dtype=header.dtype,
        nodata=nodata,
        files=header.files,
        states=header.states,
        masks=tuple(m for m in header.masks if not (alpha_is_data and m == "alpha")),
        alpha_is_data=alpha_is_data,
    )


def open_stack(
    files: Mapping[str, str | Path],
    *,
    name: str,
    nodata: float | None = None,
    resampling: Resample = "bilinear",
) -> Scene:
    """The scene whose bands lie in separate files: `files` maps band name to path, first band of each.

    The file with the smallest pixels gives the grid, the first of several. The others have the same CRS and
    reach at least as far; where their pixels are larger or lie elsewhere, values come from the pixels around,
    by `resampling`. A pixel has data where the file's pixel that holds its centre has, and pixels without
    data have no part in its value.

    Raises:
        SceneError: a file cannot be opened, does not cover the grid, or has another CRS or data type.
    """
    return stack_of({band: (path, None) for band, path in files.items()}, name, nodata, resampling)


def stack_of(
    files: Mapping[str, tuple[str | Path, int | None]], name: str, nodata: float | None, resampling: Resample
) -> Scene:
    """As `open_stack`, from path and band number in the file by band name; number None: the first."""
    if not files:
        raise UsageError("a scene of band files needs at least one file")
    paths = list(dict.fromkeys(str(path) for path, _ in files.values()))
    by_path = dict(zip(paths, read_headers(paths), strict=True))
    headers = list(by_path.values())
    finest = headers[0]
    for header in headers:
        if is_finer(header.geobox, finest.geobox):
            finest = header
    places = {path: _placed(header, finest) for path, header in by_path.items()}
    sources = tuple(
        BandSource(
            name=band,
            path=by_path[str(path)].path,
            index=by_path[str(path)].data_bands[0] if index is None else index,
            placed=places[str(path)],
        )
        for band, (path, index) in files.items()
    )
    return Scene(
        name=name,
        bands=sources,
        geobox=finest.geobox,
        dtype=finest.dtype,
        nodata=nodata,
        files=tuple(dict.fromkeys(f for header in headers for f in header.files)),
        states=tuple(dict.fromkeys(s for header in headers for s in header.states)),
        masks=tuple(dict.fromkeys(m for header in headers for m in header.masks)),
        resampling=resampling,
    )


def _placed(header: Header, finest: Header) -> Placement | None:
    """Where the file lies in the plane of the finest; None when their grids are one."""
    if header.dtype != finest.dtype:
        raise _unlike("data type", finest.dtype, header.dtype, header, finest)
    whole = Window(0, 0, *(int(n) for n in finest.geobox.shape))
    placed = place(header.geobox, finest.geobox)
    if placed is None or placed.is_finer or not placed.covers(whole):
        what = "extent" if placed and not placed.is_finer else "grid"
        raise _unlike(what, describe_grid(finest.geobox), describe_grid(header.geobox), header, finest)
    return None if placed.is_aligned and placed.window == whole else placed


def _unlike(what: str, expected: str, found: str, header: Header, finest: Header) -> SceneError:
    needs = {"grid": "one CRS and parallel axes, as ", "extent": "a file that covers ", "data type": ""}[what]
    return SceneError(
        explain(
            f"band files differ in their {what}",
            at=header.path,
            expected=f"{needs}{expected}, as in {finest.path}",
            found=found,
            change="Bring all bands to one grid and type first (for example with gdalwarp).",
        )
    )


def describe_grid(geobox: GeoBox) -> str:
    """Size, transform and CRS in words."""
    height, width = geobox.shape
    numbers = ", ".join(f"{v:.9g}" for v in list(geobox.affine)[:6])
    crs = geobox.crs
    return f"{height} x {width} px, transform ({numbers}), {f'EPSG:{crs.epsg}' if crs.epsg else crs}"


def _file_state(path: str, states: dict[str, str]) -> tuple[str, int, int] | tuple[str, str]:
    try:
        stat = Path(path).stat()
    except OSError:
        return path, states.get(path, "remote")
    return path, stat.st_size, stat.st_mtime_ns


def geobox_of(geobox: GeoBox, window: Window) -> GeoBox:
    """The grid of a window of a grid, in arithmetic that affine 2 and 3 agree on."""
    a, b, c, d, e, f = list(geobox.affine)[:6]
    corner = (c + a * window.col + b * window.row, f + d * window.col + e * window.row)
    return GeoBox(window.shape, Affine(a, b, corner[0], d, e, corner[1]), geobox.crs)
