"""A PMTiles archive without tiles: the map of an empty scene.

Version 3 of the format: https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md
"""

from __future__ import annotations

import gzip
import json
import struct

_HEADER_BYTES = 127
_VERSION = 3
_GZIP, _VECTOR = 2, 1


def empty_pyramid(name: str, description: str) -> bytes:
    """An archive of vector tiles that says what its layer would be, and holds none."""
    about = {
        "name": name,
        "description": description,
        "type": "overlay",
        "vector_layers": [{"id": name, "fields": {}, "minzoom": 0, "maxzoom": 0}],
    }
    directory = gzip.compress(bytes([0]), mtime=0)  # a count of entries, and none
    metadata = gzip.compress(json.dumps(about).encode(), mtime=0)
    at = _HEADER_BYTES + len(directory)
    end = at + len(metadata)
    # Root directory, metadata, leaf directories, tiles: where each is and how long.
    sections = (_HEADER_BYTES, len(directory), at, len(metadata), end, 0, end, 0)
    counts = (0, 0, 0)
    header = struct.pack("<7sB8Q3Q", b"PMTiles", _VERSION, *sections, *counts)
    header += struct.pack("<6B", 1, _GZIP, _GZIP, _VECTOR, 0, 0)  # clustered, compressions, type, zooms
    header += struct.pack("<4iB2i", -180 * 10**7, -85 * 10**7, 180 * 10**7, 85 * 10**7, 0, 0, 0)
    return header + directory + metadata
