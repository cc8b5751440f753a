"""A Schema Registry for tests: the requests of Confluent's REST API that readers and writers of schemas make.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

NO_SUBJECT = (404, {"error_code": 40401, "message": "Subject not found."})
NO_SCHEMA = (404, {"error_code": 40403, "message": "Schema not found"})
INCOMPATIBLE = (409, {"error_code": 409, "message": "Schema being registered is incompatible with an earlier schema"})
Answer = tuple[int, dict[str, Any]]


class Registry:
    """Schemas by id and by subject, which are kept while the server is down; ``asked`` counts requests by path."""

    def __init__(self) -> None:
        self.schemas: dict[int, str] = {}
        self.subjects: dict[str, list[int]] = {}
        self.closed: set[str] = set()
        """Subjects that refuse further versions."""
        self.asked: Counter[str] = Counter()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def register(self, subject: str, schema: str) -> int:
        schema_ids = {text: schema_id for schema_id, text in self.schemas.items()}
        number = schema_ids.get(schema, 100 + len(self.schemas))
        self.schemas[number] = schema
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    @contextmanager
    def running(self) -> Iterator[str]:
        """Answers at ``url``, on the same port each time."""
        server = ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, path: list[str], body: dict[str, Any]) -> Answer:
        match method, path:
            case "GET", ["schemas", "ids", number]:
                text = self.schemas.get(int(number))
                return NO_SCHEMA if text is None else (200, {"schema": text})
            case "GET", ["subjects", subject, "versions", "latest"]:
                return self._version(subject, self.subjects[subject][-1]) if subject in self.subjects else NO_SUBJECT
            case "POST", ["subjects", subject, "versions"]:
                return INCOMPATIBLE if subject in self.closed else (200, {"id": self.register(subject, body["schema"])})
            case "POST", ["subjects", subject]:
                versions = self.subjects.get(subject, [])
                number = next((number for number in versions if self.schemas[number] == body["schema"]), None)
                return self._version(subject, number) if number else NO_SCHEMA if versions else NO_SUBJECT
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _version(self, subject: str, number: int) -> Answer:
        version = self.subjects[subject].index(number) + 1
        return 200, {"subject": subject, "id": number, "version": version, "schema": self.schemas[number]}


def handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, Any]) -> None:
            path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            registry.asked["/".join(path)] += 1
            status, answer = registry.answer(self.command, path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    return Handler
