"""A service for load generators: it answers every POST by a function, over connections that stay open."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Mapping[str, str], Mapping[str, Any]]
"""Status, headers and body."""


@contextmanager
def http_stub(answer: Callable[[Any], Answer]) -> Iterator[tuple[str, int]]:
    """The address of the service during the block.

    Args:
        answer: of a request's body; several threads call it.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, headers, content = answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield ("127.0.0.1", http.server_port)
        http.shutdown()
