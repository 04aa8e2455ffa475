"""The files of one product under one name, and when they may be replaced."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from geoseg.errors import OutputError, UsageError, explain
from geoseg.files import require_writable, sha256, sweep, write_text
from geoseg.manifest import Manifest, Output, read_manifest
from geoseg.raster.parts import PartStore

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["classes", "names", "style", "confidence", "probabilities", "polygons"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
_SIDECARS = ("names", "style")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Where the files of one scene's map go."""

    folder: Path
    stem: str
    """Scene name: the start of every file's name."""
    job: str
    """Id of the job that makes it."""
    attempt: str = ""
    """Id of the job, the version of geoseg and how the network is run: what parts must share to be mixed."""

    def __post_init__(self) -> None:
        if not self.stem or self.stem.startswith(".") or {"/", "\\"} & set(self.stem):
            raise UsageError(
                explain(
                    "the scene's name cannot be the start of file names",
                    at=repr(self.stem),
                    expected="a name without slashes that does not begin with a dot",
                    found=repr(self.stem),
                    change="Give another with --name, or rename the file.",
                )
            )

    def path(self, kind: Kind) -> Path:
        """The file of that kind."""
        ending = {
            "classes": "_classes.tif",
            "names": "_classes.tif.aux.xml",
            "style": "_classes.qml",
            "confidence": "_confidence.tif",
            "probabilities": "_probabilities.tif",
            "polygons": ".gpkg",
        }[kind]
        return self.folder / f"{self.stem}{ending}"

    @property
    def manifest(self) -> Path:
        """Written last: where it stands, the product is complete."""
        return self.folder / f"{self.stem}_manifest.json"

    @property
    def work(self) -> Path:
        """Parts of the running job, named so that nothing made otherwise is ever resumed."""
        return self.folder / f".{self.stem}-{self.attempt[:16]}.work"

    @property
    def parts(self) -> PartStore:
        """The store of the job's parts."""
        return PartStore(folder=self.work / "parts")

    def finished(self) -> Manifest | None:
        """The manifest if this very job is complete.

        Raises:
            OutputError: the product of another job stands here.
        """
        if not self.manifest.exists():
            return None
        manifest = read_manifest(self.manifest)
        if manifest.job != self.job:
            raise self._in_the_way(self.manifest, f"the product of another job ({manifest.job[:12]})")
        return manifest if self._is_there(manifest) else None

    def begin(self, *, overwrite: bool) -> Manifest | None:
        """The manifest if this very job is complete; otherwise makes the folder ready and returns None.

        Raises:
            OutputError: files of another job, or of nobody we know, are in the way and `overwrite` is False.
        """
        require_writable(self.folder)
        if overwrite:
            return None  # parts, if any, are this very job's, of a run that was cut off: they are used
        if self.manifest.exists():
            return self.finished()
        if not self.work.exists():
            for kind in _KINDS:
                if kind not in _SIDECARS and self.path(kind).exists():
                    raise self._in_the_way(self.path(kind), "a file without a manifest")
        return None

    def reopen(self) -> None:
        """Takes the old manifest away: from here on files are replaced. Until here the old product stands."""
        self.manifest.unlink(missing_ok=True)
        for path in (self.manifest, *(self.path(kind) for kind in _KINDS)):
            sweep(path)

    def complete(self, manifest: Manifest) -> None:
        """Writes the manifest, which makes the product complete, and forgets the parts."""
        write_text(self.manifest, manifest.to_json())
        self.forget_parts()

    def forget_parts(self) -> None:
        """Removes the job's parts."""
        shutil.rmtree(self.work, ignore_errors=True)

    def outputs(self) -> tuple[Output, ...]:
        """The files that are there, with size and checksum."""
        return tuple(
            Output(kind=kind, path=path.name, bytes=path.stat().st_size, sha256=sha256(path))
            for kind in _KINDS
            if (path := self.path(kind)).exists()
        )

    def discard(self, kind: Kind) -> None:
        """Removes a file of an earlier product that this one does not have."""
        self.path(kind).unlink(missing_ok=True)

    def _is_there(self, manifest: Manifest) -> bool:
        files = ((self.folder / o.path, o.bytes) for o in manifest.outputs)
        return all(path.is_file() and path.stat().st_size == size for path, size in files)

    def _in_the_way(self, path: Path, found: str) -> OutputError:
        return OutputError(
            explain(
                "there is something already",
                at=path,
                expected="a free name, or the product of this very job",
                found=found,
                change="Give --overwrite to replace it, or another -o.",
            )
        )
