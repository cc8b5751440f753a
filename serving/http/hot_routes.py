"""The routes of most requests, as plain ASGI before FastAPI: a fiftieth of its time, for the same answers."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.problems import problem_of, unforeseen
from serving.http.structs import decoder_of, encoded
from serving.metrics import Metrics

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

Answer = tuple[int, bytes]
"""A status and a JSON body."""

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")

HotRoute = Callable[[Scope, bytes], Awaitable[Answer | None]]
"""Answers a request by its scope and body; None, before it does anything, for one that FastAPI shall answer."""


ID_HEADER, MOST_ID_CHARACTERS = b"x-request-id", 128

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered: the client's own, or one that was made."""


def id_of(scope: Scope) -> str:
    """The request's X-Request-ID if it is printable ASCII of up to 128 characters, else a new one."""
    for name, value in scope["headers"]:
        if name == ID_HEADER:
            text = str(value.decode("latin-1"))
            if 0 < len(text) <= MOST_ID_CHARACTERS and text.isascii() and text.isprintable():
                return text
    return uuid.uuid4().hex


def with_headers(send: Send, headers: Headers) -> Send:
    """Sends with these headers in the answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sent


def json_route(model: type[M], answer: Callable[[M], Awaitable[object]]) -> HotRoute:
    """The route of a POST whose body is this model. FastAPI answers what it refuses, and has the words for it."""
    decoded = decoder_of(model)

    async def route(scope: Scope, body: bytes) -> Answer | None:
        request = decoded(body) if says_json(scope) else None
        return None if request is None else (200, encoded(await answer(request)))

    return route


def says_json(scope: Scope) -> bool:
    """True if the first content type of the request is application/json, spelled as clients do."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            return bool(value == b"application/json" or value.startswith(b"application/json;"))
    return False


class HotRoutes:
    """Answers POST requests of ``routes`` (by path), and leaves the others, and those in doubt, to ``app``.

    Args:
        answers_id: whether answers have the header X-Request-ID; not where the server adds it.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, HotRoute],
        metrics: Metrics,
        max_body_bytes: int,
        *,
        answers_id: bool = True,
    ) -> None:
        self._app, self._routes, self._metrics, self._max_body_bytes = app, routes, metrics, max_body_bytes
        self._answers_id = answers_id
        self._counts: dict[tuple[str, int], Any] = {}
        self._seconds: dict[str, Any] = {path: metrics.http_seconds.labels(path) for path in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_of(scope)
        REQUEST_ID.set(request_id)
        own = [(ID_HEADER, request_id.encode())] if self._answers_id else []
        route = self._routes.get(scope["path"]) if scope["method"] == "POST" else None
        if route is None or self._announces_too_much(scope):
            await self._app(scope, receive, with_headers(send, own))
            return
        began = time.perf_counter()
        messages: list[Message] = []
        body = await self._body(receive, messages)
        answer = None if body is None else await self._answer(route, scope, body)
        if answer is None:
            await self._app(scope, replayed(messages, receive), with_headers(send, own))
            return
        status, content, headers = answer
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
        await send({"type": "http.response.body", "body": content})
        self._count(scope["path"], status)
        self._seconds[scope["path"]].observe(time.perf_counter() - began)

    async def _answer(self, route: HotRoute, scope: Scope, body: bytes) -> tuple[int, bytes, Headers] | None:
        try:
            answer = await route(scope, body)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                logger.exception("request_failed path=%s request=%s", scope["path"], REQUEST_ID.get())
                problem = unforeseen(error)
            return problem.status_code, bytes(problem.body), problem.raw_headers
        if answer is None:
            return None
        status, content = answer
        return status, content, [JSON, (b"content-length", b"%d" % len(content))]

    async def _body(self, receive: Receive, messages: list[Message]) -> bytes | None:
        """The whole body; None if it is too large or the client has gone. ``messages`` gets what was received."""
        parts, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if message["type"] != "http.request" or size > self._max_body_bytes:
                return None
            if not message.get("more_body", False):
                return part if len(parts) == 1 else b"".join(parts)

    def _announces_too_much(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"content-length":
                return not value.isdigit() or int(value) > self._max_body_bytes
        return False

    def _count(self, path: str, status: int) -> None:
        count = self._counts.get((path, status))
        if count is None:  # to find a counter by its labels takes longer than all the rest
            count = self._counts[path, status] = self._metrics.requests.labels("POST", path, str(status))
        count.inc()


def replayed(messages: list[Message], receive: Receive) -> Receive:
    """Receives the messages again, and then what else comes."""
    again = iter(messages)

    async def received() -> Message:
        for message in again:
            return message
        return await receive()

    return received
