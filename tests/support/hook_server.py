"""A webhook server for tests: records requests and gives prepared answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request, the status of its answer, and its time (monotonic seconds)."""

    key: str
    headers: dict[str, str]
    body: dict[str, Any]
    status: int
    at_s: float


class Hook:
    """Requests in their order. The next of ``answers`` (status, headers) is given to each; then 200."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[Request] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.refused: dict[str, int] = {}
        """Idempotency-Key → status of every answer to it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/secret-path"

    def taken(self) -> list[str]:
        """The keys of the requests that were answered 200."""
        return [request.key for request in self.requests if request.status == 200]

    def answer(self, key: str) -> tuple[int, dict[str, str]]:
        if key in self.refused:
            return self.refused[key], {}
        return self.answers.pop(0) if self.answers else (200, {})


@contextmanager
def running_hook(port: int = 0) -> Iterator[Hook]:
    """The server answers in a thread until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers["Idempotency-Key"]
            status, headers = hook.answer(key)
            hook.requests.append(Request(key, dict(self.headers), body, status, time.monotonic()))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    hook = Hook(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
