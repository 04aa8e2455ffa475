"""ONNX files as far as a package needs them: metadata and the graph's hash, without loading the graph.

An ONNX file is one protocol buffer (https://protobuf.dev/programming-guides/encoding/) of type ModelProto. Of
its fields, 7 is the graph and 14 the metadata: repeated pairs of key (1) and value (2). The rest is skipped.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from geoseg.errors import PackageError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_GRAPH, _METADATA = 7, 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_METADATA_BYTES = 4 * 1024 * 1024
_MAX_VARINT_BYTES = 10
_MAX_FIELD = 2**29 - 1
_MAX_DEPTH = 64
"""Messages within messages; graphs in branches and loops nest a few deep."""
_EXTERNAL_DATA = 13
"""The field of a tensor that names another file as the place of its values."""
_TENSORS_IN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""By kind of message: the fields, and the kinds of message in them, that lead to tensors."""
_CHUNK = 1 << 20


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value pairs an ONNX file carries.

    Raises:
        PackageError: it is not an ONNX file, or cut off.
    """
    with _opened(path) as file:
        return {key: value for key, value, _ in _entries(file, path)}


def write_metadata(source: Path, target: Path, key: str, value: str) -> None:
    """Copy an ONNX file byte for byte, but for the metadata under `key`, which becomes `value`.

    Raises:
        PackageError: `source` is not an ONNX file, or cut off.
    """
    with _opened(source) as file, target.open("wb") as copy:
        gone = [span for name, _, span in _entries(file, source) if name == key]
        size, position = source.stat().st_size, 0
        for start, stop in [*gone, (size, size)]:
            file.seek(position)
            copy.write(file.read(start - position))
            position = stop
        pair = _field(_KEY, key.encode()) + _field(_VALUE, value.encode())
        copy.write(_field(_METADATA, pair))


def graph_sha256(path: Path) -> str:
    """SHA-256 of all that decides what the network answers: every byte of the file but the metadata.

    Raises:
        PackageError: it is not an ONNX file, or cut off, or has no graph.
    """
    digest = hashlib.sha256()
    with _opened(path) as file:
        graphs = sum(field == _GRAPH for field, length in _fields(file, path) if file.seek(length, 1))
        if graphs != 1:
            raise _broken(path, f"{graphs} graphs")
        file.seek(0)
        position = 0
        for start, stop in [*(span for _, _, span in _entries(file, path)), (path.stat().st_size, 0)]:
            file.seek(position)
            while position < start:
                chunk = file.read(min(_CHUNK, start - position))
                digest.update(chunk)
                position += len(chunk)
            position = stop
            file.seek(stop)
    return digest.hexdigest()


def require_self_contained(path: Path) -> None:
    """Returns when all weights are in the file itself.

    Raises:
        PackageError: some lie in another file, wherever the graph says; or it is no whole ONNX file.
    """
    with _opened(path) as file:
        if _refers_elsewhere(file, path, "model", path.stat().st_size, depth=0):
            raise PackageError(
                explain(
                    "the ONNX file keeps weights in another file",
                    at=path,
                    expected="all weights inside, where the package's hash covers them",
                    found="external data: a file name in the graph, which could lead anywhere",
                    change="Join them: onnx.save(onnx.load(FILE), NEW) writes one file.",
                )
            )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise PackageError(
            explain(
                "the ONNX file cannot be read",
                at=path,
                expected="a file",
                found=error.strerror,
                change="Check the path.",
            )
        ) from error


def _refers_elsewhere(file: BinaryIO, path: Path, kind: str, stop: int, *, depth: int) -> bool:
    """Whether a tensor in the message that ends at `stop` has external data; leaves the reader anywhere."""
    if depth > _MAX_DEPTH:
        raise _broken(path, f"messages more than {_MAX_DEPTH} deep")
    for field, length in _fields(file, path, stop):
        end = file.tell() + length
        if kind == "tensor" and field == _EXTERNAL_DATA:
            return True
        inner = _TENSORS_IN[kind].get(field)
        if inner is not None and _refers_elsewhere(file, path, inner, end, depth=depth + 1):
            return True
        file.seek(end)
    return False


def _fields(file: BinaryIO, path: Path, stop: int | None = None) -> Iterator[tuple[int, int]]:
    """Number and length of each field with bytes; the reader stands at them and must move past them."""
    size = path.stat().st_size if stop is None else stop
    while file.tell() < size:
        tag = _varint(file, path)
        field, kind = tag >> 3, tag & 7
        if not 0 < field <= _MAX_FIELD:  # other readers would take its lower bits for another field
            raise _broken(path, f"a field with the number {field}")
        if kind == _BYTES:
            length = _varint(file, path)
            if file.tell() + length > size:
                raise _broken(path, f"field {field} ends {file.tell() + length - size} bytes too late")
            yield field, length
        elif kind == _VARINT:
            _varint(file, path)
        elif kind in (_FIXED32, _FIXED64):
            file.seek(4 if kind == _FIXED32 else 8, 1)
        else:
            raise _broken(path, f"a field of unknown kind {kind}")
        if file.tell() > size:
            raise _broken(path, f"field {field} ends too late")


def _entries(file: BinaryIO, path: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, value and place in the file of each piece of metadata."""
    for field, length in _fields(file, path):
        if field != _METADATA:
            file.seek(length, 1)
            continue
        if length > _MAX_METADATA_BYTES:
            raise _broken(path, f"metadata of {length} bytes")
        start = file.tell() - len(_number(field << 3 | _BYTES)) - len(_number(length))
        key, value = _pair(file, length, path)
        yield key, value, (start, file.tell())


def _field(number: int, content: bytes) -> bytes:
    """A field with bytes as it stands in the file: tag, length, content."""
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    """A varint: seven bits a byte, the lowest first."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F)
    return bytes(d | 0x80 for d in digits[:-1]) + bytes(digits[-1:])


def _pair(file: BinaryIO, length: int, path: Path) -> tuple[str, str]:
    end = file.tell() + length
    texts = {_KEY: "", _VALUE: ""}
    while file.tell() < end:
        tag = _varint(file, path)
        if tag & 7 != _BYTES or tag >> 3 > _MAX_FIELD:
            raise _broken(path, "metadata that is no text")
        size = _varint(file, path)
        if file.tell() + size > end:
            raise _broken(path, "metadata that is cut off")
        texts[tag >> 3] = file.read(size).decode("utf-8", "replace")
    return texts[_KEY], texts[_VALUE]


def _varint(file: BinaryIO, path: Path) -> int:
    value = 0
    for i in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * i)
        if byte[0] < 0x80:  # noqa: PLR2004 - the last byte has its highest bit clear
            return value
    raise _broken(path, "a number that is cut off")


def _broken(path: Path, found: str) -> PackageError:
    return PackageError(
        explain(
            "this is not a whole ONNX file",
            at=path,
            expected="an ONNX model with one graph",
            found=found,
            change="Copy it again, or export it again.",
        )
    )
