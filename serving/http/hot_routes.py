"""The routes of most requests, as plain ASGI before FastAPI: a fiftieth of its time, for the same answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from prometheus_client import Counter
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http.counting import counter_of
from serving.http.limits import Headers, replayed
from serving.http.problems import PlainText, ProblemError, field_error, problem_of, shown, unforeseen
from serving.http.request_ids import REQUEST_ID
from serving.http.structs import Fault, decoder_of, encoded, fault_of
from serving.metrics import Metrics

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

Answer = tuple[int, bytes]
"""A status and a JSON body."""

MOST_WORDED_BYTES = 4_096
"""The largest body whose problems FastAPI tells."""

JSON = (b"content-type", b"application/json")

HotRoute = Callable[[Scope, bytes], Awaitable[Answer | None]]
"""Answers a request by its scope and body; None, before it does anything, for one that FastAPI shall answer."""


def json_route(model: type[M], answer: Callable[[M], Awaitable[object]]) -> HotRoute:
    """The route of a POST whose body is this model.

    FastAPI answers what it refuses, and has the words for it, but for a large body, of which it would read all.
    """
    decoded = decoder_of(model)

    async def route(_: Scope, body: bytes) -> Answer | None:
        request = decoded(body)
        if request is None:
            fault = fault_of(model, body) if len(body) > MOST_WORDED_BYTES else None
            if fault is None:
                return None
            raise _problem(fault)
        return 200, encoded(await answer(request))

    return route


def _problem(fault: Fault) -> ProblemError:
    field, got = shown(fault.field)[1:-1], PlainText(shown(fault.got)[1:-1])
    status = 422 if fault.is_json else 400
    detail = f"'{field}' requires {fault.required}; got {got}"
    return ProblemError(status, detail, [field_error(field, fault.required, got)])


class HotRoutes:
    """Answers POST requests of ``routes`` (by path), and leaves the others, and those in doubt, to ``app``.

    Bodies come whole, within the limits (WholeBodies).
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, HotRoute], metrics: Metrics) -> None:
        self._app, self._routes, self._metrics = app, routes, metrics
        self._counts: dict[tuple[str, int], Counter] = {}
        self._seconds: dict[str, Any] = {path: metrics.http_seconds.labels(path) for path in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        message = await receive()
        answer = await self._answer(route, scope, message["body"])
        if answer is None:
            await self._app(scope, replayed(message, receive), send)
            return
        status, content, headers = answer
        await send({"type": "http.response.start", "status": status, "headers": headers})
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

    def _count(self, path: str, status: int) -> None:
        count = self._counts.get((path, status))
        if count is None:  # to find a counter by its labels takes longer than all the rest
            count = self._counts[path, status] = counter_of(self._metrics, "POST", path, status)
        count.inc()
