"""The names by which a service is asked: pages of other sites are refused, also those that rebind their name to it."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from features.machine import EVERY

LOOPBACK = "localhost"

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

ORIGIN = re.compile(r"https?://(?P<host>(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?)")


class AllowedHosts:
    """The hosts of requests that are answered, with any port.

    Loopback names and addresses; the address that is listened on, or any address where that is every one, as an address
    cannot be rebound; and ``more``.
    """

    def __init__(self, bound: str, more: Collection[str] = ()) -> None:
        self._every = bound in EVERY
        self._own = frozenset(name.lower() for name in more)
        self._names = self._own | {LOOPBACK, bound.lower()}

    def allows(self, host: str) -> bool:
        """Whether a header Host has an allowed host."""
        found = HOST.fullmatch(host)
        return found is not None and self._has(_plain(found["name"]))

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a header Origin is of the page's own service: the request's host and port, or one of ``more``."""
        found = ORIGIN.fullmatch(origin)
        return found is not None and (found["host"].lower() == host.lower() or _plain(found["name"]) in self._own)

    def _has(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self._every or address.is_loopback


def _plain(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")
