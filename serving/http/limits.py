"""What a body meets before any route sees it: it is JSON, whole and not too large."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.counting import counter_of
from serving.http.problems import NOTHING, SHOWN_CHARACTERS, PlainText, field_error, problem
from serving.metrics import Metrics

Headers = list[tuple[bytes, bytes]]

BODY_WITHIN_S, MOST_UNFINISHED = 5.0, 64
"""The time for a body, and the most that are waited for: of more, the first of them is refused."""

JSON_TYPE = b"application/json"

CLOSES: Headers = [(b"connection", b"close")]
"""Ends the connection, as a body may still be coming."""

WITHOUT_BODY = ("GET", "HEAD", "OPTIONS", "TRACE")


@dataclass(frozen=True)
class BodyLimits:
    """The most of a body."""

    max_body_bytes: int
    larger: Mapping[str, int] = field(default_factory=dict)
    """The most bytes of bodies of other paths."""
    body_within_s: float = BODY_WITHIN_S
    most_unfinished: int = MOST_UNFINISHED


class BodyError(Exception):
    """Raised for a request that is refused."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class WholeBodies:
    """Gives the app bodies that are JSON, whole and within the limits, and refuses all others."""

    def __init__(self, app: ASGIApp, limits: BodyLimits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._unfinished: dict[int, asyncio.Timeout] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] not in WITHOUT_BODY:
            try:
                whole = await self._whole(scope["path"], scope["headers"], receive)
            except BodyError as refused:
                counter_of(self._metrics, scope["method"], "none", refused.response.status_code).inc()
                await refused.response(scope, receive, send)
                return
            if whole is None:
                return  # the client has gone
            receive = replayed(whole, receive)
        await self._app(scope, receive, send)

    async def _whole(self, path: str, headers: Headers, receive: Receive) -> Message | None:
        """The whole body as one message; None if the client has gone. Raises BodyError."""
        most = self._limits.larger.get(path, self._limits.max_body_bytes)
        announced = values_of(headers, b"content-length")
        if announced and not (announced[0].isdecimal() and int(announced[0]) <= most):
            raise _too_large(most, announced[0])
        parts = Parts()
        try:
            async with asyncio.timeout(self._limits.body_within_s) as limit:
                self._wait_for(limit)
                try:
                    while parts.unfinished:
                        message = await receive()
                        if message["type"] != "http.request":
                            return None
                        parts.add(message)
                        if parts.size > most:
                            raise _too_large(most, f"more than {most}")
                finally:
                    self._unfinished.pop(id(limit), None)
        except TimeoutError:
            of_all = f"with at most {self._limits.most_unfinished} that are waited for"
            required = f"to be whole within {self._limits.body_within_s:g} s, {of_all}"
            raise _refused(408, "body", required, f"{parts.size} bytes by then", CLOSES) from None
        if parts.size and not says_json(headers):
            given = ", ".join(values_of(headers, b"content-type"))
            raise _refused(415, "content-type", JSON_TYPE.decode(), given, [(b"accept", JSON_TYPE)])
        return {"type": "http.request", "body": b"".join(parts.parts), "more_body": False}

    def _wait_for(self, limit: asyncio.Timeout) -> None:
        """Counts a body that is waited for; the first of too many is waited for no longer."""
        self._unfinished[id(limit)] = limit
        if len(self._unfinished) > self._limits.most_unfinished:
            longest = self._unfinished.pop(next(iter(self._unfinished)))
            longest.reschedule(asyncio.get_running_loop().time())


@dataclass
class Parts:
    """A body as far as it has come."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    unfinished: bool = True

    def add(self, message: Message) -> None:
        """One more part."""
        part = message.get("body", b"")
        self.parts.append(part)
        self.size += len(part)
        self.unfinished = message.get("more_body", False)


def says_json(headers: Headers) -> bool:
    """True if the one content type is application/json, with any parameters."""
    types = [value for name, value in headers if name == b"content-type"]
    return len(types) == 1 and types[0].partition(b";")[0].strip().lower() == JSON_TYPE


def replayed(first: Message, receive: Receive) -> Receive:
    """Receives the message, and then what else comes."""
    waiting = [first]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


def values_of(headers: Headers, name: bytes) -> list[str]:
    """The values of a header."""
    return [value.decode("latin-1") for given, value in headers if given == name]


def _too_large(most: int, got: str) -> BodyError:
    return _refused(413, "body", f"at most {most} bytes", f"{got} bytes", CLOSES)


def _refused(status: int, name: str, required: str, got: str, more: Headers) -> BodyError:
    response = header_problem(status, name, required, got)
    response.raw_headers += more
    return BodyError(response)


def header_problem(status: int, name: str, required: str, got: str) -> Response:
    """The problem of a header, or of a body; what came is shown cut short."""
    error = field_error(name, required, PlainText(ascii(got[:SHOWN_CHARACTERS])[1:-1]) if got else NOTHING)
    return problem(status, f"'{name}' requires {required}; got {error['got']}", [error])
