"""How fast small JSON events become typed columns on one core: each library alone, and features.events.parse().

The libraries' figures are for decoding only, and for good messages only: none of them is exact without more. Ours is
the whole of parse(): proof, decoding, judgement. Prints JSON; run it with `python benchmarks/parse.py [events]`.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.json

from features.definitions import Field, Stream, product
from features.events import Records, parse

os.environ["POLARS_MAX_THREADS"] = "1"  # read when polars is imported

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NOW = 1_780_000_000_000

STREAM = Stream(
    "activity",
    topic="shop.activity",
    fields={
        "event_type": Field("string", enum=("view", "cart", "purchase")),
        "user_id": Field("string", required=True),
        "item_id": "string",
        "price": "float64",
        "quantity": "int64",
        "in_stock": "bool",
    },
    computed={"amount": product("price", "quantity")},
)

FAULTS = [b"", b"{", b"[1]", b"\xff", b'{"event_id": 1}', b'{"event_id": "e", "event_id": "e"}', b'{"price": NaN}']


class Event(msgspec.Struct):
    """The event as msgspec decodes it."""

    event_id: str
    event_time: int
    event_type: str
    user_id: str
    item_id: str
    price: float
    quantity: int
    in_stock: bool


NAMES = Event.__struct_fields__

POLARS = [pl.String, pl.Int64, pl.String, pl.String, pl.String, pl.Float64, pl.Int64, pl.Boolean]

ARROW = [pa.string(), pa.int64(), pa.string(), pa.string(), pa.string(), pa.float64(), pa.int64(), pa.bool_()]


def messages(events: int) -> list[bytes]:
    """Good events of about 200 bytes and 8 fields."""
    draw = random.Random(1)
    return [
        json.dumps(
            {
                "event_id": f"{draw.getrandbits(128):032x}",
                "event_time": NOW - 10 * row,
                "event_type": draw.choice(["view", "cart", "purchase"]),
                "user_id": f"user-{draw.randrange(10**6)}",
                "item_id": f"item-{draw.randrange(10**5)}",
                "price": round(draw.random() * 100, 2),
                "quantity": draw.randrange(1, 9),
                "in_stock": draw.random() < 1 / 2,
            }
        ).encode()
        for row in range(events)
    ]


def with_polars(lines: bytes) -> object:
    """polars.read_ndjson with a schema."""
    return pl.read_ndjson(lines, schema=dict(zip(NAMES, POLARS, strict=True)))


def with_pyarrow(lines: bytes) -> object:
    """pyarrow.json with a schema."""
    schema = pa.schema(list(zip(NAMES, ARROW, strict=True)))
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return pyarrow.json.read_json(pa.BufferReader(lines), pyarrow.json.ReadOptions(use_threads=False), options)


def with_msgspec(good: list[bytes]) -> object:
    """Typed structs, then columns."""
    decoder = msgspec.json.Decoder(Event)
    rows = [decoder.decode(message) for message in good]
    return [pa.array([getattr(row, name) for row in rows], kind) for name, kind in zip(NAMES, ARROW, strict=True)]


def records(batch: list[bytes]) -> Records:
    """The messages as they come from a topic."""
    n = len(batch)
    return Records(pa.array(batch, pa.binary()), np.full(n, NOW), np.zeros(n, np.int32), np.arange(n))


def per_s(run: Callable[[], object], events: int) -> int:
    """Events per second of the best of five runs."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return round(events / best)


def main(events: int) -> None:
    """Print what each way manages."""
    good = messages(events)
    lines = b"\n".join(good)
    mixed = [FAULTS[row % len(FAULTS)] if row % 100 == 0 else message for row, message in enumerate(good)]
    nothing_proven = [message + b"\n" for message in good]
    peers = {
        "polars.read_ndjson": per_s(lambda: with_polars(lines), events),
        "pyarrow.json": per_s(lambda: with_pyarrow(lines), events),
        "msgspec": per_s(lambda: with_msgspec(good), events),
        "json.loads": per_s(lambda: [json.loads(message) for message in good], events),
    }
    batches = {"good": records(good), "one_percent_bad": records(mixed), "exact_path_only": records(nothing_proven)}
    ours = {name: per_s(partial(parse, batch, STREAM, 86_400_000), events) for name, batch in batches.items()}
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    answer = {"bench": "parse", "machine": machine, "events": events, "bytes_per_event": len(lines) // events}
    fastest = max(peers.values())
    rates = {"ours": {"per_s": ours}, "peer": {"per_s": peers}, "ratio": round(ours["good"] / fastest, 2)}
    click.echo(json.dumps(answer | rates, indent=2))


if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
