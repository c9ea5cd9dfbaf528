"""The server of the page: the standard library's, on this computer only.

Nothing is loaded from elsewhere and nothing is kept: an upload lies in a temporary file while it is heard, and the
folder of these files goes with the server.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sermtl.errors import UserError
from sermtl.inference.inputs import seconds_of
from sermtl.inference.predict import HOP, WHOLE, WINDOW, Result, Segment, Speech2Emotion

HOST = "127.0.0.1"
PAGES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
POLICY = "default-src 'self'; img-src data:; media-src blob:; frame-ancestors 'none'; form-action 'none'"


class Demo(ThreadingHTTPServer):
    """Serves the page and hears what it sends.

    Args:
        model: Used by one request at a time.
        port: 0 takes a free one.
        max_bytes: Largest upload.
        max_seconds: Longest recording.
    """

    daemon_threads = True

    def __init__(self, model: Speech2Emotion, port: int, max_bytes: int, max_seconds: float, about: str = ""):
        self.uploads = tempfile.TemporaryDirectory(prefix="sermtl-demo-")
        super().__init__((HOST, port), Handler)
        self.model, self.max_bytes, self.max_seconds, self.about = model, max_bytes, max_seconds, about
        self.busy = threading.Lock()
        self.names = {f"{host}:{self.server_port}" for host in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def server_close(self) -> None:
        """Answer no more, and delete what is being heard."""
        super().server_close()
        self.uploads.cleanup()

    def hear(self, path: str) -> dict[str, Any]:
        """What is heard in a file, with posteriors over time.

        Raises:
            UserError: The file cannot be read, or is too long.
        """
        if (seconds := seconds_of(path)) > self.max_seconds:
            raise UserError(f"{seconds:.0f} s of audio; this page takes up to {self.max_seconds:.0f} s")
        started = time.monotonic()
        with self.busy:
            result = self._first(path)
            timeline = result.timeline or self._first(path, max(0.5, result.seconds / 4)).timeline
        parts = timeline or (Segment(0.0, result.seconds, result.emotion, result.scores),)
        return {
            "emotion": result.emotion,
            "scores": result.scores,
            "text": result.text,
            "seconds": result.seconds,
            "timeline": [{"start": p.start, "end": p.end, "scores": p.scores} for p in parts],
            "took": time.monotonic() - started,
        }

    def _first(self, path: str, window: float | None = None) -> Result:
        hop = None if window is None else window / 5
        ((_, result),) = self.model.files([path], window, hop)
        if isinstance(result, UserError):
            raise UserError(str(result).removeprefix(f"{path}: "))
        return result


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Demo
    timeout = 60

    def do_GET(self) -> None:
        """The page's files."""
        if not self._from_here():
            return
        if self.path == "/about":
            self._answer(200, {"about": self.server.about})
        elif self.path in PAGES:
            name, kind = PAGES[self.path]
            self._send(200, (Path(__file__).parent / name).read_bytes(), kind)
        else:
            self._answer(404, {"error": "there is nothing of that name"})

    def do_POST(self) -> None:
        """An upload."""
        if not self._from_here():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/hear" or not length.isdigit():
            self._answer(404, {"error": "an upload goes to /hear and tells its length"})
        elif int(length) > self.server.max_bytes:
            most = f"this page takes up to {self.server.max_bytes / 1e6:g} MB"
            self._answer(413, {"error": f"{int(length) / 1e6:.1f} MB; {most}"})
        else:
            self._hear(int(length))

    def _hear(self, length: int) -> None:
        path = Path(self.server.uploads.name, str(threading.get_ident()))
        try:
            self._receive(path, length)
            status, told = 200, self.server.hear(str(path))
        except UserError as error:
            status, told = 422, {"error": str(error)}
        except OSError as error:
            status, told = 500, {"error": f"the upload cannot be kept: {error.strerror or error}"}
        finally:
            path.unlink(missing_ok=True)
        self._answer(status, told)

    def _receive(self, path: Path, length: int) -> None:
        with open(path, "wb") as file:
            while length and (piece := self.rfile.read(min(length, 1 << 16))):
                file.write(piece)
                length -= len(piece)
        if length:
            raise UserError("the upload broke off")

    def _from_here(self) -> bool:
        """Refuse other names of this address and other sites' pages, which could reach it through a browser."""
        origin = self.headers.get("Origin")
        names = self.server.names
        if self.headers.get("Host") in names and (origin is None or origin.removeprefix("http://") in names):
            return True
        self._answer(403, {"error": "only this page may ask"})
        return False

    def _answer(self, status: int, values: dict[str, Any]) -> None:
        self._send(status, json.dumps(values).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.close_connection = True
        self.send_response(status)
        headers = {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store", "Connection": "close",
            "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        """Keep no record of who asked what."""


def about(model: Speech2Emotion) -> str:
    """A sentence on the model."""
    number = len(model.models)
    many = f"{number} models, averaged, tell" if number > 1 else "The model tells"
    return (
        f"{many} {', '.join(model.labels)} apart. Recordings of more than {WHOLE:.0f} s are heard in windows of "
        f"{WINDOW:.0f} s every {HOP:.0f} s."
    )
