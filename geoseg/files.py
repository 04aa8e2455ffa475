"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from geoseg.errors import OutputError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block ends without an error.

    The content is on disk before the name is: a power cut leaves the old file or the new, never half.

    Raises:
        OutputError: when the folder cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            explain(
                "the result cannot be written",
                at=path,
                expected="a folder that can be written to, with room left",
                found=error.strerror or str(error),
                change="Check permissions and free space, or choose another output folder.",
            )
        ) from error
    finally:
        with suppress(OSError):  # never hide the error above
            temporary.unlink()


def sweep(path: Path) -> None:
    """Removes what writers of `path` that were killed have left beside it under temporary names."""
    token = "[0-9a-f]" * 8
    for left in path.parent.glob(f".{glob.escape(path.stem)}.{token}.*"):
        left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8 at `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def require_writable(folder: Path) -> None:
    """Creates `folder` and proves that a file can be made in it, before any work is done.

    Raises:
        OutputError: saying why not.
    """
    probe = folder / f".probe.{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            explain(
                "the output folder cannot be written",
                at=folder,
                expected="a folder where files can be made",
                found=error.strerror or str(error),
                change="Check the path and its permissions, or choose another with -o.",
            )
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
