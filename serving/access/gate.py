"""The gate before all routes: no request reaches the app without the key, scope and tenant that its route asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastapi.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from features.redaction import HIDDEN
from features.times import now_ms
from serving.access.binding import is_loopback
from serving.access.key_ring import HeldKey, KeyRing
from serving.access.principal import EVERYBODY, NOBODY, OPEN, PRINCIPAL
from serving.access.rates import SECOND_NS, Rates
from serving.access.routes import RouteScopes
from serving.config import ServiceConfig
from serving.http import NOTHING, PlainText, field_error, problem
from serving.metrics import Metrics

BEARER = b"bearer "

REALM = 'Bearer realm="headrace"'

A_KEY = f"a key in the header Authorization: Bearer {HIDDEN}, or X-API-Key: {HIDDEN}"

RATES = "rates"
"""The file of the run's folder that has the buckets of all replicas."""

NEXT = "'headrace keys add' makes one."


class AccessGate:
    """Lets the requests through that may be answered, with their principal in the scope, and answers the others.

    Args:
        routes: of the app, by which it finds a request's route.
        keys: asked for wherever they are required.
        tenant: the only one whose keys are for this service.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[BaseRoute],
        keys: KeyRing,
        rates: Rates,
        tenant: str,
        metrics: Metrics,
    ) -> None:
        self._app, self._scopes = app, RouteScopes(routes)
        self._keys, self._rates, self._tenant, self._metrics = keys, rates, tenant, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        kind = scope["type"]
        if kind != "lifespan" and self._keys.is_required():
            refusal = self._refusal(scope) if kind == "http" else None
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            if kind != "http":  # there are no websockets; nobody opens one without a key
                await send({"type": "websocket.close", "code": 1008})
                return
        else:
            scope[PRINCIPAL] = EVERYBODY
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """The problem of a request that is not let through; None for one that is, whose principal is in the scope."""
        texts, asked = presented(scope), self._scopes.of(scope)
        if not texts:
            if asked == OPEN:
                scope[PRINCIPAL] = NOBODY
                return None
            return self._unauthenticated("none", A_KEY, NOTHING)
        if texts.count(texts[0]) < len(texts):
            return self._unauthenticated("several", "one key", PlainText("several that differ"))
        held = self._keys.holder(texts[0])
        if held is None:
            return self._unauthenticated("unknown", "a key that is valid", PlainText("another"))
        if held.expires_at is not None and now_ms() >= held.expires_at:
            return self._unauthenticated("expired", "a key that is valid", PlainText("one that has expired"))
        return self._forbidden(held, asked) or self._limited(scope, held, asked)

    def _unauthenticated(self, reason: str, required: str, got: PlainText) -> Response:
        challenge = REALM if reason == "none" else f'{REALM}, error="invalid_token"'
        detail = f"this service requires {required}; got {got}. {NEXT}"
        return self._problem(401, reason, detail, [field_error("Authorization", required, got)], challenge)

    def _forbidden(self, held: HeldKey, asked: str | None) -> Response | None:
        if held.tenant != self._tenant:
            required, got = "a key of this service's tenant", PlainText("one of another tenant")
            detail = f"this service requires {required}; got {got}"
            errors = [field_error("Authorization", required, got)]
            return self._problem(403, "tenant", detail, errors, f'{REALM}, error="insufficient_scope"')
        if asked is None or asked == OPEN or held.principal.has(asked):
            return None
        required, got = f"a key with the scope {asked}", PlainText(", ".join(held.principal.shown))
        detail = f"this route requires {required}; got one with {got}"
        challenge = f'{REALM}, error="insufficient_scope", scope="{asked}"'
        return self._problem(403, "scope", detail, [field_error("Authorization", required, got)], challenge)

    def _limited(self, scope: Scope, held: HeldKey, asked: str | None) -> Response | None:
        wait = 0 if asked == OPEN else self._rates.wait_ns(held.id, held.rate)
        if not wait:
            scope[PRINCIPAL] = held.principal
            return None
        seconds = max(math.ceil(wait / SECOND_NS), 1)
        detail = f"this key requires at most {held.rate:g} requests a second; got more. Ask again in {seconds} s."
        answer = self._problem(429, "rate", detail, more={"retry_after_s": seconds})
        answer.headers["Retry-After"] = str(seconds)
        return answer

    def _problem(
        self,
        status: int,
        reason: str,
        detail: str,
        errors: Sequence[dict[str, str]] = (),
        challenge: str = "",
        more: dict[str, int] | None = None,
    ) -> Response:
        self._metrics.access_refused.labels(reason).inc()
        answer = problem(status, detail, errors, more)
        if challenge:
            answer.headers["WWW-Authenticate"] = challenge
        return answer


def guarded(app: ASGIApp, routes: Sequence[BaseRoute], settings: ServiceConfig, metrics: Metrics) -> ASGIApp:
    """The app behind a gate by these settings."""
    keys, failed = Path(settings.keys) if settings.keys else None, partial(metrics.failed, "keys")
    required = not is_loopback(settings.host)
    ring = KeyRing(keys, required=required, failed=failed)
    rates = Rates(Path(settings.run_folder) / RATES if settings.run_folder else None, failed)
    tenant = settings.tenant or settings.store.project
    return AccessGate(app, routes, ring, rates, tenant, metrics)


def presented(scope: Scope) -> list[bytes]:
    """The texts of the keys in a request's headers."""
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            if value[: len(BEARER)].lower() == BEARER:
                found.append(value[len(BEARER) :].strip())
        elif name == b"x-api-key":
            found.append(value.strip())
    return found
