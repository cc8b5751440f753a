"""Requests to an ASGI app in this process, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


@dataclass(frozen=True)
class Answered:
    """The app's answer; ``unread`` has the messages of the request that it did not ask for."""

    status: int
    headers: dict[str, str]
    body: bytes
    unread: list[dict] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def asked(  # noqa: PLR0913  (what a request has)
    app: Any,
    path: str,
    parts: Sequence[bytes] = (b"",),
    *,
    method: str = "POST",
    query: str = "",
    content_type: str | None = JSON,
    headers: Sequence[tuple[bytes, bytes]] = (),
    host: str = "localhost",
    gone: bool = False,
) -> Answered:
    """Asks with a body in parts; a client that is ``gone`` sends them and disconnects before the end."""
    given = [] if content_type is None else [(b"content-type", content_type.encode())]
    more = [*[True] * (len(parts) - 1), gone]
    messages = [{"type": "http.request", "body": part, "more_body": m} for part, m in zip(parts, more, strict=True)]
    waiting = [*messages, {"type": "http.disconnect"}]
    sent: list[dict] = []

    async def receive() -> dict:
        return waiting.pop(0)

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", host.encode()), *given, *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    start, *rest = sent
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answered(start["status"], names, b"".join(message.get("body", b"") for message in rest), waiting)


def ask(app: Any, path: str, *parts: bytes, **more: Any) -> Answered:
    """As ``asked``, in an event loop of its own."""
    return asyncio.run(asked(app, path, parts or (b"",), **more))
