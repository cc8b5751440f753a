"""The scope that each route asks of a principal, and their words in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

from serving.access.principal import EVENTS, OPEN, OPS, READ
from serving.http import problems

ROUTES = {
    "/healthz": OPEN,
    "/readyz": OPEN,
    "/v1/recommend": READ,
    "/v1/rank": READ,
    "/v1/similar": READ,
    "/v1/score": READ,
    "/v1/features/{entity}/{entity_id}": READ,
    "/v1/events": EVENTS,
    "/v1/models": OPS,
    "/metrics": OPS,
    "/openapi.json": READ,
    "/docs": READ,
    "/docs/start.js": READ,
    "/docs/assets/{name}": READ,
}
"""Path of a route → its scope. A route that is not here asks for OPS."""

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `headrace keys add`, where there are keys"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, beside a proxy's own"},
}

PROBLEMS = {
    "401": "No key, or one that is not valid (any more)",
    "403": "A key without the scope, of another tenant, or for another stream",
    "429": "More requests than the key's rate, or than the service has room for; Retry-After says when there is",
}


def path_of(route: BaseRoute) -> str:
    """The path of a route, as the document has it."""
    return str(route.path) if isinstance(route, Mount) else str(getattr(route, "path_format", ""))


def scope_of(path: str) -> str:
    """What the route of this path asks for."""
    return ROUTES.get(path, OPS)


class RouteScopes:
    """Finds the scope of a request as the app finds its route: by the same patterns, in the same order."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes
        self._exact: dict[str, str] = {}
        for route in reversed(routes):  # the first of a path answers it
            path = path_of(route)
            if path and "{" not in path and not isinstance(route, Mount):
                self._exact[path] = scope_of(path)

    def of(self, scope: Scope) -> str | None:
        """The scope of this request's route; None where no route has its path."""
        found = None if scope.get("root_path") else self._exact.get(scope["path"])
        return found or self._matched(scope)

    def _matched(self, scope: Scope) -> str | None:
        for route in self._routes:
            if route.matches(scope)[0] != Match.NONE:
                return scope_of(path_of(route))
        return None


def declare_access(app: FastAPI) -> None:
    """The app's document says which key each operation asks for, and its answers without one."""
    document: Callable[[], dict[str, Any]] = app.openapi

    def declared() -> dict[str, Any]:
        whole = document()
        whole.setdefault("components", {}).setdefault("securitySchemes", SCHEMES)
        for path, operations in whole.get("paths", {}).items():
            for operation in operations.values():
                _declare(operation, scope_of(path))
        return whole

    app.openapi = declared  # type: ignore[method-assign]  # as FastAPI has it done


def _declare(operation: dict[str, Any], scope: str) -> None:
    names = [] if scope == OPEN else [scope]
    operation["security"] = [*([{}] if scope == OPEN else []), *({scheme: names} for scheme in SCHEMES)]
    for status, description in PROBLEMS.items():
        operation["responses"].setdefault(status, {"description": description, "content": {problems.MEDIA_TYPE: {}}})
