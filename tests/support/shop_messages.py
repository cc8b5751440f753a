"""A valid message of a shop in the form of its topic, and records made of messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features.definitions import Field, Stream, product
from features.events.json import messages as json_messages
from features.events.parsing import Records

NOW = 1_780_000_000_000
SHOP = Stream(
    "shop",
    topic="shop.activity",
    fields={
        "event_type": Field("string", enum=("view", "cart", "purchase")),
        "user_id": Field("string", path="user.id", required=True),
        "price": "float64",
        "quantity": "int64",
        "gift": "bool",
    },
    computed={"amount": product("price", "quantity")},
)
GOOD: dict[str, Any] = {
    "event_id": "e1",
    "event_time": NOW,
    "event_type": "view",
    "user": {"id": "u1", "name": "Ann"},
    "price": 2.5,
    "quantity": 4,
    "gift": True,
}
BATCH = 2 * json_messages.FEW_MESSAGES
"""Enough messages for the fast path."""


def records(messages: Sequence[bytes | None], known_at: int = NOW) -> Records:
    n = len(messages)
    values = pa.array(messages, pa.binary())
    return Records(values, np.full(n, known_at), np.zeros(n, np.int32), np.arange(n, dtype=np.int64))


def message(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()
