"""Ids of requests: the client's own X-Request-ID, or one that was made."""

from __future__ import annotations

import uuid
from contextvars import ContextVar

from starlette.types import Scope

ID_HEADER, MOST_ID_CHARACTERS = b"x-request-id", 128

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered."""


def is_valid_id(value: bytes) -> bool:
    """True for printable ASCII of up to 128 characters."""
    return 0 < len(value) <= MOST_ID_CHARACTERS and value.isascii() and value.decode().isprintable()


def id_of(scope: Scope) -> str:
    """The request's X-Request-ID if it is a valid one, else a new one."""
    for name, value in scope["headers"]:
        if name == ID_HEADER and is_valid_id(value):
            return str(value.decode())
    return uuid.uuid4().hex
