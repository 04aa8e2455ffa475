"""A web server that knows ranges, counts what it is asked for, and can be told to misbehave.

It is a process of its own: GDAL sometimes waits for an answer while it holds Python's lock, which a server in
the same process needs to give it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote
from urllib.request import urlopen

_CONTROL = "/-/"


@dataclass
class _State:
    etag: str = '"first"'
    """Sent with every file."""
    cut: int = 0
    """So many of the next answers break off in the middle."""
    busy: int = 0
    """So many of the next answers are 503."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each, in order."""
    sent_bytes: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    state = _State()
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        """Nothing: the tests count."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self.path.startswith(_CONTROL):
            self._control(json.loads(unquote(self.path.removeprefix(_CONTROL))))
        else:
            self._answer()

    def _control(self, wanted: dict | None) -> None:
        with self.lock:
            if wanted is not None:
                type(self).state = _State(**wanted)
            body = json.dumps(asdict(self.state)).encode()
        self._head(200, len(body))
        self.wfile.write(body)

    def _answer(self) -> None:
        path = self.folder / self.path.lstrip("/")
        with self.lock:
            state = self.state
            state.requests.append(f"{self.command} {self.path}")
            busy, state.busy = state.busy > 0, max(0, state.busy - 1)
            cut, state.cut = state.cut > 0, max(0, state.cut - 1)
        if busy or not path.is_file():
            self._head(503 if busy else 404, 0)
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1 if asked and asked[2] else len(content), len(content))
        headers = {"Accept-Ranges": "bytes", "ETag": state.etag}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._head(206 if asked else 200, stop - start, headers)
        if self.command == "GET":
            self._send(content[start:stop], cut=cut)

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes, *, cut: bool) -> None:
        if cut:
            body, self.close_connection = body[: len(body) // 2], True
        try:
            self.wfile.write(body)
        except ConnectionError:  # the client has seen enough
            return
        with self.lock:
            self.state.sent_bytes += len(body)


@dataclass(frozen=True)
class Served:
    """What a test sees of the server."""

    folder: Path
    url: str

    def set(self, **wanted: object) -> None:
        """Starts counting anew, behaving as wanted."""
        self._ask(wanted)

    @property
    def requests(self) -> list[str]:
        return self._ask(None)["requests"]

    @property
    def sent_bytes(self) -> int:
        return self._ask(None)["sent_bytes"]

    def _ask(self, wanted: dict | None) -> dict:
        with urlopen(f"{self.url}{_CONTROL}{quote(json.dumps(wanted))}", timeout=5) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serves the files of `folder` on a free port until the block ends."""
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        yield Served(folder=folder, url=f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    _Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
