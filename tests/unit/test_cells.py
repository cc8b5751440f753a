"""Cells that are not of their field's dtype, and rows that are broken: refused alone, with row and column."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sales_files import GOOD, HEADER, SALES, SOLD_AT, read, refused
from whole_files import whole

from features.definitions import Time
from features.errors import FormatError
from features.events.parsing import Verdict
from features.events.values.texts import typed
from features.formats.cells import csv_ms


def csv_text(rows: Sequence[Sequence[str]], **options: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, **options).writerows([HEADER, *rows])
    return text.getvalue().encode()


def with_cell(name: str, cell: str) -> list[str]:
    return [cell if column == name else good for column, good in zip(HEADER, GOOD, strict=True)]


# --- one cell -----------------------------------------------------------------------------------------------------

BAD = {
    "price": ["n/a", "NaN", "nan", "inf", "-Infinity", "1e400", "0x10", "1,5", "1,234.50", "€5", "1_0", "NULL"],
    "price ": ["\\N", "-", ".", "1e", "2.5.1", "٣", " ", "2 5"],
    "quantity": ["2.0", "2.", "1e3", "0x10", "9223372036854775808", "9" * 5_000, "--5", "n/a", "1 000", "", "½"],
    "gift": ["yes", "no", "1", "0", "tRUE", "t", "f", "Y", "NaN", "wahr", " "],
    "sold_at": ["soon", "2024-05-01", "01.05.2024 10:00", "1700000000.0", "1.7E9", "NaN"],
}


@pytest.mark.parametrize(
    ("column", "cell"), [(column.strip(), cell) for column, cells in BAD.items() for cell in cells]
)
def test_a_cell_that_is_no_value_of_its_field_refuses_its_row_alone(tmp_path: Path, column: str, cell: str) -> None:
    got = read(tmp_path, csv_text([GOOD, with_cell(column, cell), GOOD], quoting=csv.QUOTE_ALL))
    assert got.verdicts["sales"] == {Verdict.VALID: 2, Verdict.DEAD_LETTER: 1}
    ((row, reason),) = refused(got).items()
    assert row == 1
    assert reason.endswith(f" (row 2, column '{column}')")
    assert got.events["sales"]["price"].to_pylist() == [2.5, 2.5]
    assert got.events["sales"]["offset"].to_pylist() == [0, 2]


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("price", "1.5E3", 1500.0),
        ("price", " 2.5\t", 2.5),
        ("price", "-0.1", -0.1),
        ("price", "+5", 5.0),
        ("price", ".5", 0.5),
        ("price", "3", 3.0),
        ("quantity", "9223372036854775807", 2**63 - 1),
        ("quantity", "-9223372036854775808", -(2**63)),
        ("quantity", " 7 ", 7),
        ("quantity", "+7", 7),
        ("quantity", "007", 7),
        ("quantity", "9007199254740993", 2**53 + 1),
        ("gift", "TRUE", True),
        ("gift", "False ", False),
        ("customer", " x ", " x "),
        ("customer", "NULL", "NULL"),
        ("customer", 'two\nlines, "quoted"\r\nand more', 'two\nlines, "quoted"\r\nand more'),
        ("customer", '5" screen', '5" screen'),
        ("sold_at", "2023-11-14T22:13:20Z", 1_700_000_000_000),
    ],
)
def test_a_cell_is_the_value_that_it_says(tmp_path: Path, column: str, cell: str, value: object) -> None:
    ours = {"customer": "user_id", "sold_at": "event_time"}.get(column, column)
    for options in ({}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\n"}):
        got = read(tmp_path, csv_text([GOOD, with_cell(column, cell), GOOD], **options))
        assert (refused(got), got.events["sales"][ours][1].as_py()) == ({}, value)


def test_an_empty_cell_is_null_and_a_quoted_one_is_text(tmp_path: Path) -> None:
    got = read(tmp_path, csv_text([with_cell("price", ""), with_cell("quantity", "")]))
    assert (got.events["sales"]["price"].to_pylist(), got.events["sales"]["quantity"].to_pylist()) == (
        [None, 2.5],
        [3, None],
    )


@pytest.mark.parametrize("dtype", ["int64", "float64", "bool"])
def test_quoted_empty_cells_are_refused_also_where_a_column_has_no_others(dtype: str) -> None:
    problems: dict[int, str] = {}
    assert typed(pa.array([b"", None, b""]), dtype, "price", problems).to_pylist() == [None] * 3
    assert {row: reason.partition(":")[0] for row, reason in problems.items()} == {0: "wrong_type", 2: "wrong_type"}


def test_bytes_that_are_not_utf_8_refuse_their_row_alone_also_when_it_is_short(tmp_path: Path) -> None:
    lines = csv_text([GOOD] * 4).splitlines(keepends=True)
    lines[2] = lines[2].replace(b"x", b"M\xfcller")
    lines[3] = b"\xe9,1\r\n"
    got = read(tmp_path, b"".join(lines))
    assert got.verdicts["sales"] == {Verdict.VALID: 2, Verdict.DEAD_LETTER: 2}
    first, second = refused(got).values()
    assert "byte 0xfc at 1" in first
    assert first.endswith("(row 2, column 'customer')")
    assert "requires 6 cells" in second
    assert second.endswith("(row 3)")


# --- one row ------------------------------------------------------------------------------------------------------

LINE = ",".join(GOOD).encode()
BROKEN = {
    "short": b"a,1700000000,x",
    "long": LINE + b",more",
    "trailing separator": LINE + b",",
    "one cell": b"a",
    "quote that never closes": b'a,1700000000,"x,2.5,3,true',
    "quote that closes inside": b'a,1700000000,"x" y,2.5,3,true',
    "quotes inside a quoted cell": b'a,1700000000,"x "y" z",2.5,3,true',
    "quote alone at the end": b'a,1700000000,x,2.5,3,"',
    "header again": ",".join(HEADER).encode(),
    "spaces": b"   ",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_broken_row_is_refused_alone(tmp_path: Path, what: str, end: bytes, place: int) -> None:
    others = [LINE, LINE.replace(b",x,", b',"x, y",'), LINE]
    rows = [*others[:place], BROKEN[what], *others[place:]]
    got = read(tmp_path, end.join([",".join(HEADER).encode(), *rows]))
    assert list(refused(got)) == [place]
    assert f"(row {place + 1}" in refused(got)[place]
    assert got.events["sales"]["user_id"].to_pylist() == ["x", "x, y", "x"]
    assert got.events["sales"]["offset"].to_pylist() == [row for row in range(4) if row != place]


def test_lines_of_nothing_are_no_rows(tmp_path: Path) -> None:
    for end in (b"\n", b"\r\n"):
        got = read(tmp_path, end.join([b"", ",".join(HEADER).encode(), b"", LINE, b"", b"a,1", b"", LINE, b"", b""]))
        assert (list(refused(got)), len(got.events["sales"])) == ([1], 2)


@pytest.mark.parametrize(
    "broken", [BROKEN["short"], BROKEN["quote that never closes"], b'"', LINE.replace(b"x", b'"\n"')]
)
def test_rows_are_whole_wherever_a_block_ends(tmp_path: Path, broken: bytes) -> None:
    rows = [LINE.replace(b"x", b'"%s\n%d"' % (b"x" * (row % 97), row)) for row in range(4_000)]
    rows[1_500] = rows[3_999] = broken
    got = read(tmp_path, b"\n".join([",".join(HEADER).encode(), *rows]), chunk_rows=1)
    good = broken.endswith(b"true") and b"\n" in broken
    assert got.chunks > 4
    assert list(refused(got)) == ([] if good else [1_500, 3_999])
    users = got.events["sales"]["user_id"].to_pylist()
    assert users == [
        ("\n" if row in (1_500, 3_999) else "x" * (row % 97) + f"\n{row}")
        for row in range(4_000)
        if good or row not in (1_500, 3_999)
    ]


LINES = st.one_of(
    st.just(LINE),
    st.sampled_from(sorted(BROKEN.values())),
    st.lists(st.sampled_from([b"a", b'"', b'""', b",", b"\xff", b" ", b"\x00", b"7", b"true"]), max_size=14).map(
        b"".join
    ),
)


@given(st.lists(LINES, max_size=30), st.sampled_from([b"\n", b"\r\n"]))
def test_any_lines_leave_the_rows_beside_them_whole(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes
) -> None:
    got = read(tmp_path_factory.mktemp("any"), end.join([",".join(HEADER).encode(), *lines, LINE, LINE, b""]))
    count = sum(got.verdicts["sales"].values())
    assert len(got.events["sales"]) == got.verdicts["sales"][Verdict.VALID] >= 1
    assert len(got.reasons["sales"]) == count <= len([line for line in lines if line]) + 2
    if b'"' not in b"".join(lines):
        assert count == len([line for line in lines if line]) + 2
        assert got.verdicts["sales"][Verdict.VALID] >= lines.count(LINE) + 2


TEXT = st.text(st.sampled_from('a",\n\r é;'), max_size=6)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=20))
def test_what_a_writer_of_csv_quotes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    rows = [
        [f"id{row}{sale}".translate({10: ".", 13: "."}), "1700000000", f"u{user}", "1", "1", "true"]
        for row, (sale, user) in enumerate(cells)
    ]
    for options in ({}, {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"}):
        got = read(tmp_path_factory.mktemp("any"), csv_text([*rows, GOOD], **options))
        assert refused(got) == {}
        events = got.events["sales"].to_pylist()
        assert [(one["event_id"], one["user_id"]) for one in events] == [
            *((row[0], row[2]) for row in rows),
            ("a", "x"),
        ]


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (csv_text([GOOD]).decode().encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04 sheet", "an Excel workbook"),
        (csv_text([GOOD]).replace(b",", b";"), "sale;sold_at"),
    ],
)
def test_what_is_no_csv_file_is_named(tmp_path: Path, content: bytes, got: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, content)
    assert got in caught.value.got


def test_a_mark_of_byte_order_is_no_part_of_the_first_name_or_line(tmp_path: Path) -> None:
    line = {"sale": "a", "sold_at": SOLD_AT, "customer": "x"}
    assert refused(read(tmp_path, b"\xef\xbb\xbf" + csv_text([GOOD]))) == {}
    assert refused(read(tmp_path, b"\xef\xbb\xbf" + json.dumps(line).encode(), "jsonl")) == {}


# --- the same rows as CSV, JSON lines and Parquet -----------------------------------------------------------------

CELLS: dict[str, st.SearchStrategy[Any]] = {
    "price": st.one_of(
        st.none(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["n/a", "", "1,5"])
    ),
    "quantity": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.sampled_from(["2.0", "n/a", "1e3"])),
    "gift": st.one_of(st.none(), st.booleans(), st.sampled_from(["yes", "1", "tRUE"])),
    "customer": st.one_of(st.none(), st.text(st.sampled_from('aé ",\n1'), min_size=1, max_size=4)),
    "sold_at": st.one_of(st.none(), st.integers(1_600_000_000, 1_700_000_000), st.sampled_from(["soon", "2024-05-01"])),
}


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    def cell(value: object) -> str:
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return "" if value is None else str(value)

    return "\n".join([",".join(HEADER), *(",".join(cell(row[name]) for name in HEADER) for row in rows)]).encode()


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Typed columns; one with a text in it is text throughout, as a writer of such a table has to make it."""

    def column(name: str) -> pa.Array:
        values = [row[name] for row in rows]
        if any(isinstance(value, str) for value in values):
            return pa.array([None if value is None else str(value) for value in values], pa.string())
        return pa.array(values)

    sink = io.BytesIO()
    pq.write_table(pa.table({name: column(name) for name in HEADER}), sink)
    return sink.getvalue()


def as_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


@given(st.lists(st.fixed_dictionaries({**CELLS, "sale": st.uuids().map(str)}), min_size=1, max_size=12))
def test_one_table_has_the_same_columns_and_verdicts_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    files = {"csv": as_csv(rows), "parquet": as_parquet(rows), "jsonl": as_lines(rows)}
    got = {kind: read(folder, content, kind) for kind, content in files.items()}
    places = {kind: {row: text.rpartition(" (")[2] for row, text in refused(one).items()} for kind, one in got.items()}
    assert places["csv"] == places["parquet"] == places["jsonl"]
    codes = {kind: {row: text.partition(":")[0] for row, text in refused(one).items()} for kind, one in got.items()}
    assert codes["csv"] == codes["parquet"] == codes["jsonl"]
    for other in ("parquet", "jsonl"):
        assert got[other].events["sales"].equals(got["csv"].events["sales"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_time_when_a_record_became_known_is_a_cell_like_any_other(tmp_path: Path, kind: str) -> None:
    times = ["1700000000", "2023-11-14T22:13:20Z", "soon"]
    if kind == "csv":
        text = "sale,sold_at,customer,known_at\n" + "".join(f"a,1600000000,x,{time}\n" for time in times)
        got = read(tmp_path, text.encode())
    else:
        sink = io.BytesIO()
        rows = {"sale": ["a"] * 3, "sold_at": [1_600_000_000] * 3, "customer": ["x"] * 3, "known_at": times}
        pq.write_table(pa.table(rows), sink)
        got = read(tmp_path, sink.getvalue(), kind)
    assert got.events["sales"]["known_at"].to_pylist() == [1_700_000_000_000] * 2
    assert refused(got)[2].endswith("(row 3, column 'known_at')")


def test_a_column_with_another_name_is_called_by_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sale,sold_at,customer,Preis\na,1,x,n/a\n")
    got = whole(path, "csv", {"sales": SALES}, columns={"price": "Preis"})
    assert refused(got)[0].endswith("""got string "n/a" (row 1, column 'Preis')""")


@given(
    st.lists(st.none() | st.integers(-(2**64), 2**64).map(str) | st.text("-0123456789", max_size=20), min_size=1),
    st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_a_time_is_the_same_beside_times_of_another_kind(cells: list[str | None], unit: str) -> None:
    beside = csv_ms(pa.array([*cells, "2024-05-01T00:00:00Z", "soon"]), Time(unit))
    assert csv_ms(pa.array(cells, pa.string()), Time(unit)).equals(beside[: len(cells)])
    assert beside[len(cells) :].to_pylist() == [1714521600000, None]


def test_rows_of_many_chunks_are_counted_through(tmp_path: Path) -> None:
    rows = [[f"{row}", "1700000000", "x", "n/a" if row % 1_000 == 7 else "1", "", ""] for row in range(5_000)]
    got = read(tmp_path, csv_text(rows), chunk_rows=1)
    assert got.chunks > 1
    assert [text.rpartition("(")[2] for text in refused(got).values()] == [
        f"row {row + 1:,}, column 'price')" for row in np.arange(7, 5_000, 1_000)
    ]
