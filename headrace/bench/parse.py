"""`headrace bench parse`: small JSON events to typed columns on one processor, by other readers and by our parser."""

from __future__ import annotations

import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from features.definitions import Field, Stream, product
from headrace.bench.report import bench_report, write_report
from headrace.console import JSON

if TYPE_CHECKING:
    import pyarrow as pa

    from features.events import Records

NOW = 1_780_000_000_000

DAY_MS = 86_400_000

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

COLUMNS = {
    "event_id": "string",
    "event_time": "int64",
    "event_type": "string",
    "user_id": "string",
    "item_id": "string",
    "price": "float64",
    "quantity": "int64",
    "in_stock": "bool",
}
"""Field of a message → its Arrow type."""

FAULTS = [b"", b"{", b"[1]", b"\xff", b'{"event_id": 1}', b'{"event_id": "e", "event_id": "e"}', b'{"price": NaN}']


@click.command("parse")
@click.option(
    "--events", default=100_000, show_default=True, type=click.IntRange(1), help="Messages of about 200 bytes."
)
@JSON
def parse_bench(events: int, as_json: bool) -> None:
    """Parse JSON events into typed columns, beside polars, pyarrow, msgspec and json.loads.

    The peers only decode, and get good messages only; ours proves, decodes and judges: good messages, messages of which
    one percent is bad, and messages that all take the exact path. Runs on one processor; the best of five runs counts.

    \b
    Examples:
      headrace bench parse
      headrace bench parse --events 10000 --json
    """
    from headrace.bench.core import on_one_processor

    on_one_processor()
    write_report(measure(events), as_json, details)


def measure(events: int) -> dict[str, Any]:
    """The whole report, as --json prints it."""
    from features.events import parse

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
    ours = {name: per_s(partial(parse, batch, STREAM, DAY_MS), events) for name, batch in batches.items()}
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    sizes = {"events": events, "bytes_per_event": len(lines) // events}
    ratio = round(ours["good"] / max(peers.values()), 2)
    return bench_report("parse", {"per_s": ours}, {"per_s": peers}, ratio, machine=machine, **sizes)


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
    import polars as pl

    types = {"string": pl.String, "int64": pl.Int64, "float64": pl.Float64, "bool": pl.Boolean}
    return pl.read_ndjson(lines, schema={name: types[kind] for name, kind in COLUMNS.items()})


def with_pyarrow(lines: bytes) -> object:
    """pyarrow.json with a schema, on one thread."""
    import pyarrow as pa
    from pyarrow import json as pyarrow_json

    options = pyarrow_json.ParseOptions(explicit_schema=pa.schema(_arrow_types()), unexpected_field_behavior="ignore")
    return pyarrow_json.read_json(pa.BufferReader(lines), pyarrow_json.ReadOptions(use_threads=False), options)


def with_msgspec(good: list[bytes]) -> object:
    """Typed structs, then columns."""
    import msgspec
    import pyarrow as pa

    types = {"string": str, "int64": int, "float64": float, "bool": bool}
    decoder = msgspec.json.Decoder(msgspec.defstruct("Event", [(name, types[kind]) for name, kind in COLUMNS.items()]))
    rows = [decoder.decode(message) for message in good]
    return [pa.array([getattr(row, name) for row in rows], kind) for name, kind in _arrow_types()]


def _arrow_types() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]


def records(batch: list[bytes]) -> Records:
    """The messages as records of one partition."""
    import numpy as np
    import pyarrow as pa

    from features.events import Records

    count = len(batch)
    return Records(pa.array(batch, pa.binary()), np.full(count, NOW), np.zeros(count, np.int32), np.arange(count))


def per_s(run: Callable[[], object], events: int) -> int:
    """Events per second of the best of five runs."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return round(events / best)


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    rates = [(side, name, per_s) for side in ("ours", "peer") for name, per_s in report[side]["per_s"].items()]
    return [
        ("messages", f"{report['events']:,} of {report['bytes_per_event']} bytes"),
        *((side, f"{name:20} {per_s:>10,} events/s") for side, name, per_s in rates),
        ("ratio", f"{report['ratio']} of the fastest peer, with good messages"),
    ]
