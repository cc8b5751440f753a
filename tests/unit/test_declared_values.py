"""Fields whose messages have them otherwise than we do: casts and maps, the same by every path."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from declared_fields import AT, GERMAN, SETTINGS, rows_of, stream_of
from every_path import by_avro, by_every_path, by_json
from hypothesis import example, given
from hypothesis import strategies as st

from features.definitions import (
    Base64Decimal,
    Field,
    NumberText,
    Time,
)
from features.events.decoded import columns_of
from features.events.json import messages as json_messages


def values_by_every_path(field: Field, values: list[Any], folder: Path) -> dict[str, list[Any]]:
    """Path → the value of each event, or the code of the reason for which there is no event."""
    found = {}
    for path, fared in by_every_path(stream_of(value=field), rows_of(values), folder).items():
        events = {row["event_id"]: row["value"] for row in fared.events}
        found[path] = [events.get(f"e{n}", code) for n, code in enumerate(fared.codes)]
    return found


def agreed(field: Field, values: list[Any], folder: Path) -> list[Any]:
    """What all paths say."""
    got = values_by_every_path(field, values, folder)
    first = got["json"]
    assert {path: repr(one) for path, one in got.items()} == {path: repr(first) for path in got}
    return first


# --- numbers in text ----------------------------------------------------------------------------------------------

NUMBERS = {
    "4.50": 4.5,
    " 4.5\t": 4.5,
    "-1E3": -1000.0,
    "": "wrong_type",
    "4,50": "wrong_type",
    "€4": "wrong_type",
    "NaN": "wrong_type",
    "1e999": "not_finite",
    "0.1": 0.1,
    "99999999999999999999": 1e20,
}


def test_a_number_in_text_is_cast_where_that_is_declared(tmp_path: Path) -> None:
    assert agreed(Field("float64", cast="text"), list(NUMBERS), tmp_path) == list(NUMBERS.values())
    assert by_json(stream_of(value=Field("float64")), rows_of(["4.50"])).codes == ["wrong_type"]


@SETTINGS
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_a_number_and_its_text_are_the_same_float(tmp_path: Path, numbers: list[float | None]) -> None:
    texts = [None if number is None else repr(number) for number in numbers]
    field = Field("float64", cast="text")
    assert repr(agreed(field, texts, tmp_path)) == repr(agreed(field, numbers, tmp_path)) == repr(numbers)


@SETTINGS
@given(st.lists(st.integers(-(2**65), 2**65), min_size=1, max_size=5))
def test_an_integer_in_text_is_exact_or_out_of_range(tmp_path: Path, numbers: list[int]) -> None:
    expected = [number if -(2**63) <= number < 2**63 else "out_of_range" for number in numbers]
    assert agreed(Field("int64", cast="text"), [str(number) for number in numbers], tmp_path) == expected


def test_a_truth_in_text_is_cast(tmp_path: Path) -> None:
    got = agreed(Field("bool", cast="text"), ["true", "FALSE", "yes", "1", None], tmp_path)
    assert got == [True, False, "wrong_type", "wrong_type", None]


GERMAN_NUMBERS = {
    "4,50": 4.5,
    "€ 1.234,50": 1234.5,
    "1.234.567,5 €": 1234567.5,
    "-4,5€": -4.5,
    "€-4,5": -4.5,
    "+\u00a012\u202f€": 12.0,
    ",5": 0.5,
    "1234,5": 1234.5,
    "4.50": "wrong_type",
    "1.23": "wrong_type",
    "12.34.567": "wrong_type",
    "€4€": "wrong_type",
    "-€-4": "wrong_type",
    "$4": "wrong_type",
    "4,5,6": "wrong_type",
    "": "wrong_type",
}


def test_numbers_as_people_write_them_are_read_as_declared(tmp_path: Path) -> None:
    got = agreed(Field("float64", cast=GERMAN), list(GERMAN_NUMBERS), tmp_path)
    assert dict(zip(GERMAN_NUMBERS, got, strict=True)) == GERMAN_NUMBERS


@SETTINGS
@given(
    st.lists(st.decimals(-(10**9), 10**9, places=2), min_size=1, max_size=5),
    st.sampled_from([(",", "."), (".", ","), (",", " "), (".", "'"), (".", None)]),
    st.sampled_from([None, "€", "USD", "CHF"]),
    st.booleans(),
)
def test_a_number_with_separators_is_the_float_of_its_digits(
    tmp_path: Path, numbers: list[Decimal], marks: tuple[str, str | None], sign: str | None, is_before: bool
) -> None:
    decimal, thousands = marks

    def text_of(number: Decimal) -> str:
        digits = f"{abs(number):,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands or "")
        marked = digits if sign is None else f"{sign} {digits}" if is_before else f"{digits} {sign}"
        return f"-{marked}" if number < 0 else marked

    field = Field("float64", cast=NumberText(decimal, thousands, sign))
    got = agreed(field, [text_of(number) for number in numbers], tmp_path)
    assert got == [float(number) for number in numbers]


def test_whole_numbers_with_separators_may_be_integers(tmp_path: Path) -> None:
    field = Field("int64", cast=NumberText(thousands=","))
    assert agreed(field, ["9,007,199,254,740,993", "12", "1.5", "1,23"], tmp_path) == [
        *(2**53 + 1, 12),
        *("wrong_type", "wrong_type"),
    ]


# --- Debezium's decimals ------------------------------------------------------------------------------------------


def base64_of(number: int) -> str:
    return base64.b64encode(number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)).decode()


@SETTINGS
@given(st.lists(st.integers(-(2**90), 2**90) | st.integers(-300, 300), min_size=1, max_size=6), st.integers(0, 22))
@example([0, -1, 127, 128, -128, -129, 2**46, 2**47 - 1, -(2**47), 2**47, 2**63, -(2**63)], 2)
def test_a_decimal_in_base64_is_the_nearest_float(tmp_path: Path, numbers: list[int], scale: int) -> None:
    got = agreed(Field("float64", cast=Base64Decimal(scale)), [base64_of(number) for number in numbers], tmp_path)
    assert repr(got) == repr([float(Decimal(f"{number}e-{scale}")) for number in numbers])


def test_what_is_no_decimal_in_base64_is_refused_and_numbers_are_numbers(tmp_path: Path) -> None:
    field = Field("float64", cast=Base64Decimal(2))
    assert agreed(field, ["AfQ=", "AfQ", "4.5", "", "a b="], tmp_path) == [5.0, *["wrong_type"] * 4]
    assert by_json(stream_of(value=field), rows_of([4.5, 3])).events[0]["value"] == 4.5


def test_a_decimal_of_avro_is_the_nearest_float_with_and_without_a_cast() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
    for field in (Field("float64"), Field("float64", cast=Base64Decimal(2)), Field("float64", cast="text")):
        got = by_avro(stream_of(value=field), rows_of([Decimal("1234567890.12")]), {"value": kind})
        assert [event["value"] for event in got.events] == [1234567890.12]


# --- ids ----------------------------------------------------------------------------------------------------------


@SETTINGS
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
@example([2**53 + 1, 9_223_372_036_854_775_807])
def test_a_whole_number_is_the_text_of_its_digits_where_that_is_declared(tmp_path: Path, ids: list[int]) -> None:
    assert agreed(Field("string", cast="text"), ids, tmp_path) == [str(one) for one in ids]
    assert agreed(Field("string", cast="text"), [str(one) for one in ids], tmp_path) == [str(one) for one in ids]


def test_only_whole_numbers_and_texts_are_ids() -> None:
    got = by_json(stream_of(value=Field("string", cast="text")), rows_of([2**70, "007", 1.5, True, {}, None]))
    assert got.codes == [None, None, "wrong_type", "wrong_type", "wrong_type", None]
    assert [event["value"] for event in got.events] == [str(2**70), "007", None]
    assert by_json(stream_of(value=Field("string")), rows_of([7])).codes == ["wrong_type"]


# --- maps ---------------------------------------------------------------------------------------------------------

KINDS = {"addtocart": "cart", "pageview": "view", "test": None}


@pytest.mark.parametrize(
    ("others", "left"),
    [
        *((None, ["unknown_value"] * 2), ("refuse", ["unknown_value"] * 2)),
        *(("null", [None, None]), ("keep", ["purchase", "cart"])),
    ],
)
def test_a_map_gives_our_words_for_theirs(tmp_path: Path, others: str | None, left: list[str | None]) -> None:
    field = Field("string", map=KINDS, others=others)
    got = agreed(field, ["addtocart", "pageview", "test", None, "purchase", "cart"], tmp_path)
    assert got == ["cart", "view", None, None, *left]


def test_whole_numbers_and_truths_are_mapped_by_their_digits_and_words(tmp_path: Path) -> None:
    assert agreed(Field("string", map={1: "view", 2: "cart"}), [1, 2, 3], tmp_path) == ["view", "cart", "unknown_value"]
    assert agreed(Field("bool", map={"Y": True, "N": False}), ["Y", "N", "y"], tmp_path) == [
        True,
        False,
        "unknown_value",
    ]
    assert agreed(Field("int64", map={"true": 1, "false": 0}), [True, False, None], tmp_path) == [1, 0, None]
    assert agreed(Field("float64", map={"low": 1, "high": 2.5}), ["low", "high"], tmp_path) == [1.0, 2.5]


def test_a_required_field_refuses_what_its_map_makes_null(tmp_path: Path) -> None:
    got = agreed(Field("string", required=True, map=KINDS, enum=["cart"]), ["addtocart", "pageview", "test"], tmp_path)
    assert got == ["cart", "unknown_value", "missing_field"]


def test_what_a_map_keeps_is_cast(tmp_path: Path) -> None:
    field = Field("float64", cast=GERMAN, map={"": None, "gratis": 0}, others="keep")
    assert agreed(field, ["", "gratis", "4,50 €", "soon", None], tmp_path) == [None, 0.0, 4.5, "wrong_type", None]


@SETTINGS
@given(
    st.lists(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["a", "1", "true", "4.5", "4,5 €", "", "\ud800"]),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(
        [
            *(Field("string", cast="text"), Field("float64", cast="text"), Field("int64", cast="text")),
            *(Field("bool", cast="text"), Field("float64", cast=GERMAN), Field("string", map={"a": "b", 1: "one"})),
            *(Field("float64", cast="text", map={"a": 1}, others="keep"), Field("int64", cast=Time(format="epoch"))),
            Field("string", map={True: "yes"}, others="null"),
        ]
    ),
)  # fmt: skip
def test_a_message_of_any_values_fares_the_same_alone_and_among_many(values: list[Any], field: Field) -> None:
    stream = stream_of(value=field)
    several = by_json(stream, rows_of(values), json_messages.FEW_MESSAGES)
    alone = [by_json(stream, [row]) for row in rows_of(values)]
    assert several.codes == [one.codes[0] for one in alone]
    assert repr(several.events) == repr([event for one in alone for event in one.events])


def test_many_messages_with_casts_are_read_by_a_shape() -> None:
    stream = stream_of(
        price=Field("float64", cast=GERMAN),
        kind=Field("string", map={1: "a", 2: "b"}),
        id_=Field("string", cast="text"),
    )
    rows = [{"id": "e", "at": AT, "price": "4,50 €", "kind": 1, "id_": n} for n in range(json_messages.FEW_MESSAGES)]
    rest, _ = json_messages._fast(pa.array([json.dumps(row).encode() for row in rows]), stream)
    assert rest.size == 0
    assert [column.taken for column in columns_of(stream)][2:] == [
        ("string", "float64"),
        ("string", "int64", "fraction", "bool"),
        ("string", "int64"),
    ]


# --- times in fields ----------------------------------------------------------------------------------------------


def test_a_time_in_a_field_is_epoch_ms(tmp_path: Path) -> None:
    field = Field("int64", cast=Time(zone="Europe/Berlin", format="%d.%m.%Y"))
    got = agreed(field, ["01.05.2024", "2024-05-01T10:00:00Z", "2024-05-01 10:00:00", "x", None], tmp_path)
    assert got == [1714514400000, 1714557600000, 1714550400000, "bad_time", None]
