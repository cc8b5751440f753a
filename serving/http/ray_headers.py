"""Headers by which clients could steer Ray Serve, taken from every request before Ray reads them."""

from __future__ import annotations

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http.request_ids import ID_HEADER, is_valid_id

STEERING = re.compile(
    rb"x[-_]request[-_](timeout[-_]seconds|disconnect[-_]disabled)|serve[-_]multiplexed[-_]model[-_]id"
    rb"|x[-_]session[-_]id|x[-_]serve[-_]router[-_].*"
)
"""Time limits, and the choice of a replica."""


class WithoutSteering:
    """Gives the app no header that switches a time limit off or chooses a replica, and no invalid X-Request-ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if "headers" in scope:
            scope["headers"] = kept(scope["headers"])
        await self._app(scope, receive, send)


def kept(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that Ray and the app may read; a request with several ids has none."""
    ids = [value for name, value in headers if name == ID_HEADER]
    valid = len(ids) == 1 and is_valid_id(ids[0])
    return [one for one in headers if (valid if one[0] == ID_HEADER else STEERING.fullmatch(one[0]) is None)]


def middlewares() -> list[Middleware]:
    """Ray's callback (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), for its proxy and its replicas."""
    return [Middleware(WithoutSteering)]
