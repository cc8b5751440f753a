"""Values of fields with a cast or a map as we write them, and what cannot be declared."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from declared_fields import AT, GERMAN, SETTINGS, stream_of
from every_path import ANYTHING, Row, by_http
from hypothesis import given
from hypothesis import strategies as st
from whole_files import whole

from features.definitions import (
    Base64Decimal,
    Count,
    Entity,
    FeatureSet,
    FeatureView,
    Field,
    NumberText,
    Time,
    views_of_text,
    views_text,
)
from features.errors import DefinitionError
from features.events import Records, event_schema, parse
from streaming.kafka import messages

# --- what is written is read back ---------------------------------------------------------------------------------

WRITTEN = {
    "price": Field("float64", cast=GERMAN),
    "cents": Field("float64", cast=Base64Decimal(2)),
    "kind": Field("string", map={"addtocart": "cart", "add": "cart", "pageview": "view"}),
    "code": Field("string", map={1: "a"}, others="keep"),
    "flag": Field("bool", map={"Y": True, "N": False}),
    "size": Field("float64", cast=GERMAN, map={"free": 0.0}, others="keep"),
    "ref": Field("string", cast="text"),
}
AVRO = {
    "id": "string",
    "at": "long",
    "price": ["null", "string"],
    "cents": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
    **dict.fromkeys(["kind", "code", "flag", "size"], ANYTHING),
    "ref": ["null", "long"],
}


@SETTINGS
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "price": st.none() | st.floats(-1e6, 1e6),
                "cents": st.none() | st.integers(-99_999, 99_999).map(lambda cents: cents / 100),
                "kind": st.sampled_from([None, "cart", "view"]),
                "code": st.sampled_from([None, "a", "b"]),
                "flag": st.none() | st.booleans(),
                "size": st.none() | st.sampled_from([0.0, 1.5, 1e22]),
                "ref": st.none() | st.integers(-(2**63), 2**63 - 1).map(str),
            }
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_our_values_are_written_as_messages_that_are_read_as_them(rows: list[Row], is_avro: bool) -> None:
    fields = [{"name": name, "type": kind} for name, kind in AVRO.items()]
    schema = json.dumps({"type": "record", "name": "Sale", "fields": fields})
    stream = stream_of(**WRITTEN)
    stream = replace(stream, format="avro", schema=schema) if is_avro else stream
    full = [
        {"event_id": f"e{n}", "event_time": AT, "known_at": AT, "partition": 0, "offset": n, **row}
        for n, row in enumerate(rows)
    ]
    events = pa.Table.from_pylist(full, schema=event_schema(stream))
    values = pa.array([value for _, value, _ in messages(events, stream)], pa.binary())
    known_at, partition = np.full(len(rows), AT), np.zeros(len(rows), np.int32)
    again = parse(Records(values, known_at, partition, np.arange(len(rows))), stream)
    assert again.reasons.to_pylist() == [None] * len(rows)
    assert again.events.to_pylist() == events.to_pylist()


def test_posted_values_may_be_theirs_and_numbers_ours() -> None:
    stream = stream_of(price=WRITTEN["price"], kind=WRITTEN["kind"])
    got = by_http(
        stream, [{"id": "e", "at": AT, "price": "1.234,5 €", "kind": "add"}, {"id": "f", "at": AT, "price": 2}]
    )
    assert [(event["price"], event["kind"]) for event in got.events] == [(1234.5, "cart"), (2.0, None)]


def test_typed_columns_of_parquet_are_as_numbers_of_messages(tmp_path: Path) -> None:
    table = {
        "id": ["e"],
        "at": [AT],
        "price": [4.5],
        "ref": pa.array([2**64 - 1], pa.uint64()),
        "cents": [Decimal("4.50")],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    fields = {name: WRITTEN[name] for name in ("price", "ref", "cents")}
    (event,) = whole(tmp_path / "a.parquet", "parquet", {"sales": stream_of(**fields)}).events["sales"].to_pylist()
    assert (event["price"], event["ref"], event["cents"]) == (4.5, str(2**64 - 1), 4.5)


# --- definitions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Field("float64", cast="number"), "'text' or NumberText"),
        (lambda: Field("string", cast=GERMAN), "'text' for dtype 'string'"),
        (lambda: Field("int64", cast=Base64Decimal(2)), "'text' or NumberText"),
        (lambda: Field("string", cast=Time()), "'text' for dtype 'string'"),
        (lambda: Field("int64", cast=Time(), map={"x": 1}), "no map beside a Time"),
        (lambda: Field("string", map={}), "a mapping of their text to our string"),
        (lambda: Field("string", map=["a"]), "a mapping of their text to our string"),
        (lambda: Field("string", map={"a": 1}), "values of string or None"),
        (lambda: Field("int64", map={"a": 1.5}), "values of int64 or None"),
        (lambda: Field("bool", map={"a": 1}), "values of bool or None"),
        (lambda: Field("float64", map={"a": float("nan")}), "values of float64 or None"),
        (lambda: Field("string", map={1: "a", "1": "b"}), "keys that differ"),
        (lambda: Field("string", map={1.5: "a"}), "keys that differ"),
        (lambda: Field("string", others="keep"), "beside a map"),
        (lambda: Field("string", map={"a": "b"}, others="drop"), "'refuse', 'null', 'keep'"),
        (lambda: NumberText(decimal=";"), "decimal '.' or ','"),
        (lambda: NumberText(thousands="."), "not the decimal separator"),
        (lambda: NumberText(currency="4"), "as currency a sign"),
        (lambda: Base64Decimal(-1), "a scale of 0 to 22"),
        (lambda: Base64Decimal("2"), "a scale of 0 to 22"),
    ],
)
def test_what_cannot_be_declared_says_what_could_be(make: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        make()


def test_casts_and_maps_come_back_as_they_were() -> None:
    counted = FeatureSet(Entity("user", {"ref": "string"}), stream_of(**WRITTEN), [Count()], ["1h"])
    view = FeatureView("v", sets=[counted])
    (again,) = views_of_text(views_text([view]))
    assert (again, again.schema_hash) == (view, view.schema_hash)
