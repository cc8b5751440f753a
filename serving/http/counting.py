"""Counts of answers by route and status, with labels that no client can add to."""

from __future__ import annotations

import time

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


def counter_of(metrics: Metrics, method: str, route: str, status: int) -> Counter:
    """The counter of these answers; methods that HTTP does not define are one."""
    return metrics.requests.labels(method if method in METHODS else "other", route, str(status))


class CountedAnswers:
    """ASGI middleware: every answer is counted, with the time that it took. Plain ASGI costs next to nothing."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            counter_of(self._metrics, scope["method"], route, status).inc()
            self._metrics.http_seconds.labels(route).observe(time.perf_counter() - began)
