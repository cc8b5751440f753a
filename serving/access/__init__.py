"""Who may ask the service for what: keys with scopes, a tenant and a rate; the streams that HTTP may write.

In: a request's headers and path. Out: the principal it comes from, or a problem: 401, 403, 429.
"""

from serving.access.binding import check_access, is_loopback
from serving.access.gate import AccessGate, guarded
from serving.access.key_file import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_TENANT,
    NAME,
    SCOPE,
    Key,
    NewKey,
    added,
    read_keys,
    revoked,
)
from serving.access.key_ring import KeyRing
from serving.access.principal import EVENTS, OPEN, OPS, READ, Principal, principal_of
from serving.access.rates import Rates
from serving.access.routes import ROUTES, declare_access, scope_of
from serving.access.writable import writable_streams

__all__ = [
    "EVENTS",
    "HIGHEST_RATE",
    "LOWEST_RATE",
    "MOST_TENANT",
    "NAME",
    "OPEN",
    "OPS",
    "READ",
    "ROUTES",
    "SCOPE",
    "AccessGate",
    "Principal",
    "Key",
    "KeyRing",
    "NewKey",
    "Rates",
    "added",
    "principal_of",
    "check_access",
    "declare_access",
    "guarded",
    "is_loopback",
    "read_keys",
    "revoked",
    "scope_of",
    "writable_streams",
]
