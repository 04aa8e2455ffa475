"""The ONNX graph of any package: its own, or one exported from its weights and kept for the next time.

Imports no torch: that takes seconds and memory, and the graph is all ONNX Runtime and OpenVINO need. An
export happens in a process of its own, once per package and version of what makes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.cache import cache_dir
from geoseg.errors import GeosegError, OutputError, PackageError, UsageError, explain
from geoseg.files import require_writable
from geoseg.manifest import digest
from geoseg.models.weights import verified_weights
from geoseg.package import Graph, read_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geoseg.package import Card

EXPORTED = Graph(input="image", output="logits")
"""Names in graphs we export."""
EXPORT_VERSION = 1
"""Raised when an export of the same network comes to differ."""
_KEPT = 16
"""Exports that stay, of those used last."""
_MADE_WITH = ("torch", "onnx", "onnxscript")


@contextmanager
def graph_of(package: Path, card: Card) -> Iterator[tuple[Path, Graph]]:
    """A verified ONNX file for the package and the names in it, there while the block runs.

    A package with PyTorch weights is exported the first time, which takes some ten seconds, and the result is
    kept in the user's cache folder.

    Raises:
        PackageError: the package cannot be trusted, or exported. UsageError: what exports is not installed.
    """
    if card.graph is not None:
        yield verified_weights(package, card), card.graph
        return
    verified_weights(package, card)
    kept = cache_dir() / "onnx" / f"{_key(card)}.onnx"
    try:
        require_writable(kept.parent)
    except OutputError:
        with tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True) as folder:
            yield _exported(package, Path(folder) / kept.name), EXPORTED
        return
    with _alone(kept):
        if not _intact(kept):
            _exported(package, kept)
            _forget_old(kept.parent)
    with suppress(OSError):
        os.utime(kept)
    yield kept, EXPORTED


def _key(card: Card) -> str:
    versions = {name: _version(name) for name in _MADE_WITH}
    return digest({"card": card.fingerprint, "export": EXPORT_VERSION, "versions": versions})[:32]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _intact(kept: Path) -> bool:
    """Whether a whole export lies there."""
    try:
        verified_weights(kept, read_card(kept))
    except (GeosegError, OSError):
        return False
    return True


def _exported(package: Path, out: Path) -> Path:
    """`out`, with the package's graph in it."""
    # A process of its own: torch and what traces it would stay in this one's memory for good.
    arguments = ["export", str(package), "-o", str(out), "--overwrite", "--json"]
    command = [sys.executable, "-P", "-m", "geoseg", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if done.returncode:
        raise _failure(package, done.stdout, done.stderr)
    return out


def _failure(package: Path, out: str, err: str) -> GeosegError:
    """What the export said before it failed, as the error it was."""
    kinds = {kind.__name__: kind for kind in (UsageError, OutputError, PackageError)}
    try:
        told = json.loads(out)["error"]
        return kinds.get(told["kind"], PackageError)(told["message"])
    except (ValueError, KeyError, TypeError):
        return PackageError(
            explain(
                "the network cannot be exported to ONNX",
                at=package,
                expected="an answer of the exporting process",
                found=err.strip()[-500:] or "none",
                change="Use --runtime torch.",
            )
        )


def _forget_old(folder: Path) -> None:
    """Deletes all but the exports used last."""

    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:  # another process was faster
            return 0.0

    for old in sorted(folder.glob("[!.]*.onnx"), key=used, reverse=True)[_KEPT:]:
        old.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process at a time work on `path`, where the system can; elsewhere they do the same work twice.

    Nothing but time depends on it: files appear whole under their names.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.with_suffix(".lock").open("w") as lock:
        with suppress(OSError):  # a network folder without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
