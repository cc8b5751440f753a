"""Requests of other sites' pages are refused before anything else; answers have an id, and headers for browsers."""

from __future__ import annotations

from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.counting import counter_of
from serving.http.hosts import AllowedHosts
from serving.http.limits import Headers, header_problem, values_of
from serving.http.request_ids import ID_HEADER, REQUEST_ID, id_of
from serving.metrics import Metrics

POLICY = b"content-security-policy"

STRICT: Headers = [
    (POLICY, b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]
"""Headers of every answer: a browser runs nothing of it, guesses no type, and shows it in no frame."""


class SameSite:
    """Refuses requests for other hosts and of other origins.

    Args:
        answers_id: whether answers have the header X-Request-ID; not where the server adds it.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, metrics: Metrics, *, answers_id: bool = True) -> None:
        self._app, self._hosts, self._metrics, self._answers_id = app, hosts, metrics, answers_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_of(scope)
        REQUEST_ID.set(request_id)
        send = _with_headers(send, [(ID_HEADER, request_id.encode())] if self._answers_id else [])
        refusal = self._refusal(scope["headers"])
        if refusal is None:
            await self._app(scope, receive, send)
            return
        counter_of(self._metrics, scope["method"], "none", refusal.status_code).inc()
        await refusal(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        """The problem of a request that is not for this service, or of another site's page; None for any other."""
        hosts = values_of(headers, b"host")
        if len(hosts) != 1 or not self._hosts.allows(hosts[0]):
            return header_problem(421, "host", "one name of this service (setting serving.hosts)", ", ".join(hosts))
        for origin in values_of(headers, b"origin"):
            if not self._hosts.allows_origin(origin, hosts[0]):
                return header_problem(403, "origin", f"none, or that of this service, {hosts[0]}", origin)
        return None


def _with_headers(send: Send, own: Headers) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", ())
            has_policy = any(name == POLICY for name, _ in given)
            message = {**message, "headers": [*given, *own, *(STRICT[1:] if has_policy else STRICT)]}
        await send(message)

    return sent
