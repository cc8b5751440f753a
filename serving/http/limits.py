"""ASGI middleware: a limit of the body's size, and a count of the answers. Plain ASGI costs next to nothing."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.problems import NOTHING, PlainText, field_error, problem
from serving.metrics import Metrics


class BodyTooLargeError(Exception):
    """Raised to the reader of a body that is larger than allowed."""


class RequestLimits:
    """Refuses a large body, by its announced length before it is read or by the bytes read; counts every answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int) -> None:
        self._app, self._metrics, self._max_body_bytes = app, metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._answered(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.http_seconds.labels(route).observe(time.perf_counter() - began)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            await self._refused(announced.decode(), scope, receive, send)
            return
        read = 0
        started = False

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body_bytes:
                raise BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, limited, watched)
        except BodyTooLargeError:
            if started:
                raise
            await self._refused(f"more than {self._max_body_bytes}", scope, receive, send)

    async def _refused(self, got: str, scope: Scope, receive: Receive, send: Send) -> None:
        required = f"at most {self._max_body_bytes} bytes"
        errors: list[dict[str, Any]] = [field_error("body", required, PlainText(f"{got} bytes") if got else NOTHING)]
        await problem(413, f"the body requires {required}; got {got}", errors)(scope, receive, send)
