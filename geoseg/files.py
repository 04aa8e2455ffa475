"""Files that appear whole or not at all, and files that say that somebody is at work beside them."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import platform
import secrets
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from geoseg.errors import OutputError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block ends without an error.

    The content is on disk before the name is: a power cut leaves the old file or the new, never half. Files
    whose readers notice damage, and can do without them, need not be `durable`: they cost no wait.

    Raises:
        OutputError: when the folder cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
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


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Claims `path`, a file made for that, until the block ends or the process dies; several may at once."""
    with _shared(path) as file:
        file.truncate(0)
        file.write(_kernel())
        file.flush()
        yield


@contextmanager
def unclaimed(path: Path) -> Iterator[bool | None]:
    """Whether nobody claims `path`: True, and nobody will while the block runs; False; None: cannot be known.

    It can be known where the last claim was made under this very kernel: locks of other machines may not be
    seen, and after a restart they cannot be told from this one.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("r+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True if file.read() == _kernel() else None
        except BlockingIOError:
            free = False
        except OSError:  # no such file, or a file system without locks
            free = None
        yield free


def _shared(path: Path) -> TextIO:
    """The file, open and locked for sharing where the file system has locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        # Who held it alone may have removed it meanwhile: then this is a lock on nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()


def _kernel() -> str:
    """What tells the running system from others, and from itself after a restart, where it says so."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return platform.node()
