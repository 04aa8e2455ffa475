"""The files of one product under one name, and when they may be replaced."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from geoseg.errors import OutputError, UsageError, explain
from geoseg.files import require_writable, sha256, sweep, write_text
from geoseg.manifest import SIDECARS, Kind, Manifest, Output, differences, read_manifest
from geoseg.outlining import CleanStores
from geoseg.raster.parts import PartStore
from geoseg.scratch import PARTS, at_work, forget, forget_abandoned, scratch_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from geoseg.vector.options import Format

_KINDS: tuple[Kind, ...] = get_args(Kind)
_ENDINGS: dict[Kind, str] = {
    "classes": "_classes.tif",
    "names": "_classes.tif.aux.xml",
    "style": "_classes.qml",
    "cleaned": "_classes_mmu.tif",
    "cleaned_names": "_classes_mmu.tif.aux.xml",
    "cleaned_style": "_classes_mmu.qml",
    "confidence": "_confidence.tif",
    "probabilities": "_probabilities.tif",
    "polygons": ".gpkg",
    "parquet": ".parquet",
    "fgb": ".fgb",
    "geojson": ".geojson",
    "pmtiles": ".pmtiles",
}
_COMMON: frozenset[Kind] = frozenset({"parquet", "fgb", "geojson", "pmtiles"})
"""Their names, STEM.geojson and the like, may as well be somebody else's."""


def kind_of(format_: Format) -> Kind:
    """What a file of polygons in that format is called in a manifest."""
    return "polygons" if format_ == "gpkg" else format_


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
    facts: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)
    """`scene`, `package`, `plan` and `options` as the manifest will have them; without them, nobody can be
    told in what the job differs from the one whose product is in the way."""

    kinds: Collection[Kind] = _KINDS
    """The files the job makes; sidecars follow."""

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
        return self.folder / f"{self.stem}{_ENDINGS[kind]}"

    @property
    def manifest(self) -> Path:
        """Written last: where it stands, the product is complete."""
        return self.folder / f"{self.stem}_manifest.json"

    @property
    def work(self) -> Path:
        """Parts of the running job, named so that nothing made otherwise is ever resumed."""
        return scratch_of(self.folder, self.stem, self.attempt)

    @property
    def parts(self) -> PartStore:
        """The store of the job's parts."""
        return PartStore(folder=self.work / PARTS)

    @property
    def clean_stores(self) -> CleanStores:
        """The stores of both passes of a minimum mapping unit."""
        return CleanStores.within(self.work, raw=self.parts)

    def finished(self) -> Manifest | None:
        """The manifest if this very job is complete.

        Raises:
            OutputError: the product of another job stands here.
        """
        if not self.manifest.exists():
            return None
        manifest = read_manifest(self.manifest)
        if manifest.job != self.job:
            raise self._in_the_way(self.manifest, self._other_job(manifest))
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
                ours = kind not in SIDECARS and (kind not in _COMMON or kind in self.kinds)
                if ours and self.path(kind).exists():
                    raise self._in_the_way(self.path(kind), "a file without a manifest")
        return None

    def reopen(self) -> None:
        """Takes the old manifest away: from here on files are replaced. Until here the old product stands.

        Also files of the old product that this job does not make.
        """
        stale = (*(kind for kind in _KINDS if kind not in _COMMON), *self._listed())
        self.manifest.unlink(missing_ok=True)
        for kind in stale:
            if kind not in self._made:
                self.path(kind).unlink(missing_ok=True)
        for path in (self.manifest, *(self.path(kind) for kind in _KINDS)):
            sweep(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """While the block runs, no other run takes the parts of this one for abandoned."""
        with at_work(self.work):
            yield

    def complete(self, manifest: Manifest) -> None:
        """Writes the manifest, which makes the product complete, and forgets the parts.

        Also those that interrupted runs of other jobs have left under this name, unless they may be in use.
        """
        write_text(self.manifest, manifest.to_json())
        self.forget_parts()
        forget_abandoned(self.folder, self.stem)

    def forget_parts(self) -> None:
        """Removes the job's parts."""
        forget(self.work)

    def outputs(self) -> tuple[Output, ...]:
        """The files that are there, with size and checksum."""
        return tuple(
            Output(kind=kind, path=path.name, bytes=path.stat().st_size, sha256=sha256(path))
            for kind in _KINDS
            if kind in self._made and (path := self.path(kind)).exists()
        )

    @property
    def _made(self) -> set[Kind]:
        """Everything the job makes."""
        return {*self.kinds, *(sidecar for sidecar, kind in SIDECARS.items() if kind in self.kinds)}

    def _listed(self) -> tuple[Kind, ...]:
        """What the manifest that stands here says there is; one that cannot be read says nothing."""
        try:
            return tuple(output.kind for output in read_manifest(self.manifest).outputs)
        except OutputError:
            return ()

    def _is_there(self, manifest: Manifest) -> bool:
        files = ((self.folder / o.path, o.bytes) for o in manifest.outputs)
        return all(path.is_file() and path.stat().st_size == size for path, size in files)

    def _other_job(self, manifest: Manifest) -> str:
        other = f"the product of another job, {manifest.job[:12]} of {manifest.created}"
        if not self.facts:
            return other
        return f"{other}, which differs in {'; '.join(differences(manifest, self.facts))}"

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
