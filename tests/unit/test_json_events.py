"""The two ways of reading JSON: what a shape proves, and that no record shows how or with whom it was read."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop_messages import BATCH, GOOD, SHOP, message, records

from features.events.decoded import Decoded, columns_of, from_objects
from features.events.json import messages as json_messages
from features.events.json import shapes as json_shapes
from features.events.parsing import Parsed, parse
from features.events.values import exact_json
from features.events.values.reasons import RefusedError

HOUR = 3_600_000


def decode_exactly(values: pa.Array) -> Decoded:
    """What decode() returns, without its fast path."""
    objects: list[dict[str, Any] | None] = [None] * len(values)
    problems: dict[int, str] = {}
    for row, raw in enumerate(values.to_pylist()):
        try:
            objects[row] = exact_json.read(raw)
        except RefusedError as refused:
            problems[row] = str(refused)
    return from_objects(objects, SHOP, problems)


def outcomes(parsed: Parsed) -> list[tuple[int, str | None, str | None]]:
    """(verdict, reason, event to the bit) of each record, whatever its place."""
    events = dict(zip(parsed.rows.tolist(), parsed.events.drop_columns(["offset"]).to_pylist(), strict=True))
    shown = [repr(events[row]) if row in events else None for row in range(len(parsed.verdicts))]
    return list(zip(parsed.verdicts.tolist(), parsed.reasons.to_pylist(), shown, strict=True))


def proven(messages: list[bytes], samples: list[dict[str, Any]]) -> list[bool]:
    shape = json_shapes.learn(samples, columns_of(SHOP))
    assert shape is not None
    return pl.Series([raw.decode() for raw in messages]).str.contains(shape.pattern).to_list()


def test_a_shape_proves_messages_with_optional_keys_spaces_and_escapes() -> None:
    small = {"event_id": "e", "event_time": 5, "event_type": 'é\u202e\x00"\\ 😀', "user": None, "gift": None}
    spaced = json.dumps(small, separators=(" , ", " : "))
    unescaped = json.dumps({"event_id": "日本"}, ensure_ascii=False, separators=(",", ":"))
    messages = [
        message(),
        spaced.encode(),
        unescaped.encode(),
        b"{}",
        message(quantity=2**63 - 2**62),
        message(price=1e-7),
    ]
    assert proven(messages, [GOOD]) == [True] * 6


def test_a_shape_proves_nothing_that_a_fast_reader_would_change() -> None:
    text = message().decode()
    changed = [
        text.replace('"quantity": 4', f'"quantity": {number}')
        for number in (
            "4.0",
            "1e2",
            "true",
            '"4"',
            "04",
            "+4",
            "4.",
            ".4",
            "-",
            "NaN",
            str(2**63),
            "4 4",
            "[4]",
            "{}",
            "",
        )
    ]
    changed += [
        text.replace('"price": 2.5', f'"price": {number}') for number in ("1e400", "Infinity", '"2.5"', "1e+", "false")
    ]
    changed += [
        text + text,
        text + "}",
        text[:-1],
        f"[{text}]",
        text + "\n",
        text.replace(",", ",\n", 1),
        text.replace(", ", ",, ", 1),
    ]
    changed += [
        text.replace('"gift"', '"price": 1, "gift"'),
        text.replace('"u1"', '"\\ud800"'),
        text.replace('"u1"', '"\t"'),
    ]
    changed += [
        text.replace('"u1"', "1"),
        text.replace('"u1"', '"\\x"'),
        text.replace('"gift"', '"pr\\u0069ce"'),
        "\ufeff" + text,
    ]
    assert proven([raw.encode() for raw in changed], [GOOD]) == [False] * len(changed)


@pytest.mark.parametrize("lines", [['{"a": 1}{"a": 2}', '{"a": 3}'], ['{"a": 1', "}"], ['{"a": 1e400}']])
def test_what_the_fast_reader_takes_for_other_than_an_object_a_line_is_left_to_the_exact_one(lines: list[str]) -> None:
    assert json_messages.read_lines(pl.Series(lines), {("a",): "float64"}) is None


def test_more_keys_than_a_pattern_can_hold_are_read_all_the_same() -> None:
    wide = message(**{f"key_{number}": [number] for number in range(2_000)})
    assert parse(records([wide] * json_messages.FEW_MESSAGES), SHOP).rows.size == json_messages.FEW_MESSAGES


def test_topics_with_several_kinds_of_message_come_out_in_order() -> None:
    other = json.dumps(dict(reversed(GOOD.items())) | {"event_id": 12}).encode()
    batch = [message(event_id=f"e{row}") if row % 2 else other for row in range(BATCH)]
    ids = parse(records(batch), SHOP).events["event_id"].to_pylist()
    assert ids == [f"e{row}" if row % 2 else "12" for row in range(BATCH)]


def floats() -> st.SearchStrategy[str]:
    bits = st.integers(0, 2**64 - 1).map(lambda number: struct.unpack("d", struct.pack("Q", number))[0])
    return (st.floats() | bits).map(json.dumps) | st.from_regex(
        r"-?[0-9]{1,22}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
    )


SCALARS = (
    floats()
    | st.integers(-(2**70), 2**70).map(str)
    | st.text(max_size=8).map(json.dumps)
    | st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.sampled_from(
        [
            "true",
            "null",
            "1.0",
            "-0",
            "-0.0",
            "NaN",
            "1e400",
            '"\\ud800"',
            '"\\ud83d\\ude00"',
            '"a\nb"',
            '"view"',
            "[]",
            "{}",
        ]
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"), max_leaves=3
)
KEYS = [*GOOD, "extra", "pr\\u0069ce", "user"]


@st.composite
def messages_(draw: st.DrawFn) -> bytes | None:
    """A good message with some members changed, moved or repeated, and then perhaps some of its bytes."""
    members = [(key, json.dumps(value)) for key, value in GOOD.items()]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(members)))
        member = (draw(st.sampled_from(KEYS)), draw(VALUES))
        members[place : place + draw(st.integers(0, 1))] = [member]
    text = (
        "{" + draw(st.sampled_from([", ", ",", " ,\n", ",,"])).join(f'"{key}": {value}' for key, value in members) + "}"
    )
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 3))] = draw(
            st.sampled_from([*b'"\\{}[],: 0-.e\n\t\x00', 0xFF, 0xC3])
        ).to_bytes()
    return draw(st.sampled_from([bytes(raw)] * 20 + [None, b"", b"{"]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages_(), min_size=1, max_size=12), st.integers(0, 2**32))
def test_a_record_fares_the_same_alone_in_any_company_and_on_the_exact_path(
    pool: list[bytes | None], seed: int
) -> None:
    chosen = np.random.default_rng(seed).integers(0, len(pool) + 3, BATCH)
    batch = [pool[index] if index < len(pool) else message(event_id=f"e{index}") for index in chosen]
    alone = {raw: outcomes(parse(records([raw]), SHOP, HOUR))[0] for raw in set(batch)}
    assert outcomes(parse(records(batch), SHOP, HOUR)) == [alone[raw] for raw in batch]
    values = records([raw or b"" for raw in batch]).values
    fast, exact = json_messages.decode(values, SHOP), decode_exactly(values)
    good = pa.array([row for row in range(BATCH) if row not in exact.problems], pa.int64())
    assert fast.problems == exact.problems
    assert repr(fast.columns.take(good).to_pylist()) == repr(exact.columns.take(good).to_pylist())
