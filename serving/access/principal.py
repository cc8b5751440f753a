"""Principals: who a request comes from, and the scopes that it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import Scope

OPEN, READ, EVENTS, OPS = "open", "read", "events", "ops"
"""What a route asks of a principal: nothing, or one of these scopes; events are of a stream, or of ``ANY_STREAM``."""

ANY_STREAM = "events:*"

PRINCIPAL = "headrace.principal"
"""The principal's place in an ASGI scope."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key."""

    name: str
    scopes: frozenset[str]

    @classmethod
    def of(cls, name: str, scopes: Iterable[str]) -> Principal:
        """The principal of a key's scopes, of which ``events:STREAM`` gives EVENTS, too."""
        given = frozenset(scopes)
        return cls(name, given | {scope.partition(":")[0] for scope in given})

    def has(self, scope: str) -> bool:
        """Whether routes of this scope are for the principal; EVENTS is for some stream."""
        return scope in self.scopes

    @property
    def shown(self) -> list[str]:
        """The scopes as the key has them."""
        return sorted(self.scopes - {EVENTS})

    def may_write(self, stream: str) -> bool:
        """Whether the principal may post events of this stream."""
        return ANY_STREAM in self.scopes or f"{EVENTS}:{stream}" in self.scopes


EVERYBODY = Principal.of("", (READ, OPS, ANY_STREAM))
"""The principal of every request while the service asks for no keys."""

NOBODY = Principal.of("", ())
"""The principal of a request without a key, on a route that is open."""


def principal_of(scope: Scope) -> Principal:
    """The principal of a request that has passed the gate; KeyError for one that has not."""
    principal: Principal = scope[PRINCIPAL]
    return principal
