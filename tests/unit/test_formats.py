"""Files as events: mapped CSV, Parquet and JSON lines, and what is refused, and how."""

import gzip
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sales_files import SALES
from whole_files import REPO, Read, whole

from features.definitions import Field
from features.errors import FormatError, UsageError
from features.events.parsing import Verdict
from features.formats.reading import FORMATS, read_events

ROOT = Path(__file__).parents[2]


def sales(path: Path, kind: str, **options: Any) -> list[dict[str, object]]:
    return whole(path, kind, {"sales": SALES}, **options).events["sales"].to_pylist()


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def first(read: Read, stream: str = "activity", row: int = 0) -> dict[str, object]:
    return {
        name: value for name, value in read.events[stream].slice(row, 1).to_pylist()[0].items() if value is not None
    }


# --- any file, mapped by its stream -------------------------------------------------------------------------------

CSV = "sale,sold_at,customer,price,quantity,gift,till\na,1700000000,0017,2.5,3,true,1\nb,1700000001,é ü,,,,2\n"
EXPECTED = [
    {"event_id": "a", "event_time": 1_700_000_000_000, "user_id": "0017", "price": 2.5, "quantity": 3, "gift": True},
    {"event_id": "b", "event_time": 1_700_000_001_000, "user_id": "é ü", "price": None, "quantity": None, "gift": None},
]


def expected(*, ids: list[str] | None = None) -> list[dict[str, object]]:
    rows = [one | {"known_at": one["event_time"], "partition": 0, "offset": row} for row, one in enumerate(EXPECTED)]
    return [one | {"event_id": name} for one, name in zip(rows, ids, strict=True)] if ids else rows


def as_parquet(folder: Path, **columns: pa.Array) -> Path:
    path = folder / "sales.parquet"
    table = {
        "sale": pa.array(["a", "b"]),
        "sold_at": pa.array([1_700_000_000, 1_700_000_001]),
        "customer": pa.array(["0017", "é ü"]),
        "price": pa.array([2.5, None]),
        "quantity": pa.array([3, None]),
        "gift": pa.array([True, None]),
    }
    pq.write_table(pa.table({name: array for name, array in (table | columns).items() if array is not None}), path)
    return path


def test_a_streams_own_paths_map_a_csv_file(tmp_path: Path) -> None:
    assert sales(written(tmp_path, "sales.csv", CSV), "csv") == expected()
    assert sales(written(tmp_path, "bom.csv", b"\xef\xbb\xbf" + CSV.encode()), "csv") == expected()
    assert sales(written(tmp_path, "sales.csv.gz", gzip.compress(CSV.encode())), "csv") == expected()


def test_a_streams_own_paths_map_a_parquet_file(tmp_path: Path) -> None:
    assert sales(as_parquet(tmp_path), "parquet") == expected()


def test_lines_of_json_are_messages_of_the_stream(tmp_path: Path) -> None:
    lines = [
        {"sale": "a", "sold_at": 1_700_000_000, "customer": "0017", "price": 2.5, "quantity": 3, "gift": True},
        {"sale": "b", "sold_at": 1_700_000_001, "customer": "é ü"},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    assert sales(written(tmp_path, "sales.jsonl", text), "jsonl") == expected()
    assert sales(written(tmp_path, "sales.jsonl.gz", gzip.compress(f"{text}\n".encode())), "jsonl") == expected()


def test_columns_name_the_files_own_where_the_stream_does_not(tmp_path: Path) -> None:
    path = written(tmp_path, "sales.csv", CSV.replace("customer", "Kunde Nr.").replace("sold_at", "Zeit"))
    assert sales(path, "csv", columns={"user_id": "Kunde Nr.", "event_time": "Zeit"}) == expected()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_ids_has_its_digest_and_row_for_them(tmp_path: Path, kind: str) -> None:
    text = "".join(line.split(",", 1)[1] for line in CSV.splitlines(keepends=True))
    path = written(tmp_path, "sales.csv", text) if kind == "csv" else as_parquet(tmp_path, sale=None)
    assert sales(path, kind) == expected(ids=[f"{digest(path)}-0", f"{digest(path)}-1"])


def test_lines_of_a_stream_without_ids_have_digest_and_line_for_them(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "a.jsonl",
        '{"sold_at": 1700000000, "customer": "x"}\nnot json\n{"sold_at": 1700000000, "customer": "y"}\n',
    )
    ((_, parsed),) = read_events(path, "jsonl", {"sales": replace(SALES, event_id=None)})
    assert parsed.events["event_id"].to_pylist() == [f"{digest(path)}-0", f"{digest(path)}-2"]


def test_a_bad_line_of_json_is_a_dead_letter_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    lines = [
        b'{"sale": "a", "sold_at": 1700000000, "customer": "x"}',
        b"{",
        b"\xff\xfe",
        b"",
        b'{"sale": "b", "sold_at": 1700000000}',
    ]
    path = written(tmp_path, "a.jsonl", b"\n".join([*lines, lines[0].replace(b'"a"', b'"c"')]))
    read = whole(path, "jsonl", {"sales": SALES})
    assert read.events["sales"]["event_id"].to_pylist() == ["a", "c"]
    assert read.verdicts["sales"] == {Verdict.VALID: 2, Verdict.DEAD_LETTER: 4}
    assert [reason is None for reason in read.reasons["sales"]] == [True, False, False, False, False, True]


def test_what_a_file_tells_of_the_past_was_known_when_it_happened(tmp_path: Path) -> None:
    times = (631_152_000, int(time.time()))
    lines = "".join(f'{{"sale": "{at}", "sold_at": {at}, "customer": "x"}}\n' for at in times)
    table = "sale,sold_at,customer\n" + "".join(f"{at},{at},x\n" for at in times)
    for kind, text in (("jsonl", lines), ("csv", table)):
        events = sales(written(tmp_path, f"a.{kind}", text), kind)
        for name in ("known_at", "event_time"):
            assert [one[name] for one in events] == [at * 1_000 for at in times]


@pytest.mark.parametrize(
    ("unit", "number"),
    [("s", 1_700_000_000), ("ms", 1_700_000_000_000), ("us", 1_700_000_000_000_000), ("ns", 1_700_000_000_000_000_000)],
)
def test_times_are_numbers_of_the_streams_unit_in_every_format(tmp_path: Path, unit: str, number: int) -> None:
    stream = replace(SALES, time_unit=unit)
    line = written(tmp_path, "a.jsonl", json.dumps({"sale": "a", "sold_at": number, "customer": "x"}))
    row = written(tmp_path, "a.csv", f"sale,sold_at,customer\na,{number},x\n")
    column = as_parquet(tmp_path, sold_at=pa.array([number, number]))
    for path, kind in ((line, "jsonl"), (row, "csv"), (column, "parquet")):
        assert first(whole(path, kind, {"sales": stream}), "sales")["event_time"] == 1_700_000_000_000


def test_times_in_one_csv_column_are_read_cell_by_cell(tmp_path: Path) -> None:
    times = ["1700000000", "2023-11-14T22:13:20Z", "2023-11-15T00:13:20.000+02:00", "", "soon", "99999999999999999999"]
    text = "sale,sold_at,customer\n" + "".join(f"{row},{time},x\n" for row, time in enumerate(times))
    read = whole(written(tmp_path, "a.csv", text), "csv", {"sales": SALES})
    assert read.events["sales"]["event_time"].to_pylist() == [1_700_000_000_000] * 3
    assert read.verdicts["sales"] == {Verdict.VALID: 3, Verdict.DEAD_LETTER: 3}


@pytest.mark.parametrize(
    "times",
    [
        pa.array([1_700_000_000_000_000_000, 1_700_000_001_000_000_000], pa.timestamp("ns")),
        pa.array([1_700_000_000_000, 1_700_000_001_000], pa.timestamp("ms", "Europe/Rome")),
        pa.array([1_700_000_000, 1_700_000_001], pa.int32()),
        pa.array(["2023-11-14T22:13:20Z", "2023-11-14T22:13:21Z"], pa.large_string()),
    ],
    ids=lambda times: str(times.type),
)
def test_times_in_parquet_may_be_numbers_timestamps_or_text(tmp_path: Path, times: pa.Array) -> None:
    assert sales(as_parquet(tmp_path, sold_at=times), "parquet") == expected()


@pytest.mark.parametrize(
    "columns",
    [
        {"quantity": pa.array([3, None], pa.int16())},
        {"quantity": pa.array([3, None], pa.uint64())},
        {"price": pa.array([2.5, None], pa.float32())},
        {"customer": pa.array(["0017", "é ü"]).dictionary_encode()},
        {"customer": pa.array(["0017", "é ü"], pa.large_string())},
    ],
    ids=lambda columns: str({name: str(array.type) for name, array in columns.items()}),
)
def test_a_parquet_column_of_a_neighbouring_type_is_taken_where_nothing_is_lost(
    tmp_path: Path, columns: dict[str, pa.Array]
) -> None:
    assert sales(as_parquet(tmp_path, **columns), "parquet") == expected()


def test_integer_ids_become_their_decimal_text(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, customer=pa.array([17, 2**53 + 1]), sale=pa.array([1, 2]))
    assert [(one["event_id"], one["user_id"]) for one in sales(path, "parquet")] == [("1", "17"), ("2", str(2**53 + 1))]


def test_only_an_empty_cell_of_csv_is_null(tmp_path: Path) -> None:
    text = 'sale,sold_at,customer\na,1e9,NA\nb,1e9,null\nc,1e9,"two\nlines, quoted"\nd,1e9,\n'.replace(
        "1e9", "1700000000"
    )
    read = whole(written(tmp_path, "a.csv", text), "csv", {"sales": SALES})
    assert read.events["sales"]["user_id"].to_pylist() == ["NA", "null", "two\nlines, quoted"]
    assert (read.reasons["sales"][3] or "").startswith("missing_field")


def test_an_empty_table_is_no_events(tmp_path: Path) -> None:
    assert not whole(written(tmp_path, "a.csv", CSV.splitlines()[0] + "\n"), "csv", {"sales": SALES}).events
    assert not whole(written(tmp_path, "a.jsonl", ""), "jsonl", {"sales": SALES}).events


# --- what is refused -----------------------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[str, str | bytes, str]] = {
    "empty CSV": ("csv", "", "no columns"),
    "CSV without a required column": ("csv", "sale,sold_at,price\na,1,2\n", "sale, sold_at, price"),
    "CSV with a column twice": ("csv", "sale,sold_at,customer,customer\na,1,x,y\n", "2 of that name"),
    "CSV without a time": ("csv", "sale,customer\na,x\n", "sale, customer"),
    "CSV.gz cut short": ("csv.gz", gzip.compress(CSV.encode())[:-12], "Error"),
    "CSV.gz that is none": ("csv.gz", CSV, "Error"),
    "Parquet that is text": ("parquet", CSV, "ArrowInvalid"),
    "empty Parquet": ("parquet", "", "ArrowInvalid"),
    "JSON lines cut short": ("jsonl.gz", gzip.compress(b'{"sale": "a"}\n' * 1_000)[:-12], "Error"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_file_is_named_with_what_is_required_and_what_came(tmp_path: Path, what: str) -> None:
    suffix, content, got = MALFORMED[what]
    path = written(tmp_path, f"file.{suffix}", content)
    with pytest.raises(FormatError) as caught:
        sales(path, suffix.removesuffix(".gz"))
    error = caught.value
    assert f"file '{path}'" in error.where
    assert got in error.got
    assert error.required
    assert error.next_step


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = as_parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FormatError, match="a whole Parquet file"):
        sales(path, "parquet")


@pytest.mark.parametrize(
    ("path", "kind", "options", "got"),
    [
        ("a.csv", "xml", {}, "'xml'"),
        ("missing.csv", "csv", {"stream": "activity"}, "nothing there"),
        (".", "csv", {"stream": "activity"}, "a folder"),
        ("a.csv", "movielens", {}, "a file"),
        ("a.csv", "csv", {}, "none"),
        ("a.csv", "csv", {"stream": "sales"}, "'sales'"),
    ],
)
def test_what_is_not_there_is_a_usage_error_before_anything_is_read(
    tmp_path: Path, path: str, kind: str, options: dict[str, Any], got: str
) -> None:
    written(tmp_path, "a.csv", CSV)
    with pytest.raises(UsageError) as caught:
        read_events(tmp_path / path, kind, REPO.streams, **options)
    assert got in caught.value.got


def test_a_format_whose_streams_the_repo_lacks_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a stream called 'activity' in the feature repo"):
        read_events(written(tmp_path, "a.csv", CSV), "rees46", {"sales": SALES})


def test_columns_that_are_not_ours_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="user_id"):
        sales(written(tmp_path, "a.csv", CSV), "csv", columns={"customer_id": "customer"})


KEYED = replace(SALES, fields={"user_id": Field("string", path="customer"), "shop": "int64", "price": "float64"})


def keyed(path: Path, kind: str, **options: Any) -> None:
    for _ in read_events(path, kind, {"sales": KEYED}, keys=lambda _: {"user_id", "shop"}, **options):
        pass


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Customer,shop", "'Customer' is nearly 'customer'"),
        ("custmer,shop", "'custmer' is nearly 'customer'"),
        ("customer_,shop", "'customer_' is nearly 'customer'"),
        ("customer,Shop", "'Shop' is nearly 'shop'"),
        ("customer,PRICE", "'PRICE' is nearly 'price'"),
        ("till,note", "column 'shop', 'customer' (our user_id)"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_key_that_is_missing_or_misspelt_is_an_error_with_the_names_there(
    tmp_path: Path, kind: str, header: str, said: str
) -> None:
    names = ["sale", "sold_at", *header.split(",")]
    row = ["a", 1_700_000_000, "1", "1"]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text(",".join(names) + "\n" + ",".join(map(str, row)))
    elif kind == "parquet":
        pq.write_table(pa.table({name: [value] for name, value in zip(names, row, strict=True)}), path)
    else:
        path.write_text(json.dumps(dict(zip(names, row, strict=True)) | ({"shop": 1} if "shop" in names else {})))
        if "PRICE" in names:
            return  # a field that is no key may be missing from a message
    with pytest.raises(FormatError) as caught:
        keyed(path, kind)
    assert said in str(caught.value)
    assert names[2] in caught.value.got
    if kind != "jsonl" and "till" not in header:
        theirs, ours = said.split("'")[1], {"customer": "user_id"}.get(said.split("'")[3], said.split("'")[3])
        keyed(path, kind, columns={ours: theirs})


def test_a_file_may_have_one_of_several_keys_and_lines_of_no_event_say_nothing_of_keys(tmp_path: Path) -> None:
    keyed(written(tmp_path, "a.csv", "sale,sold_at,customer\na,1700000000,x\n"), "csv")
    read = whole(written(tmp_path, "a.jsonl", '{"sale": "a", "till": 1}\n{"x": 2}\n'), "jsonl", {"sales": KEYED})
    assert read.verdicts["sales"] == {Verdict.DEAD_LETTER: 2}


def test_the_formats_are_those_that_the_command_line_promises() -> None:
    promised = ["online-retail", "taobao", "rees46", "movielens", "yoochoose", "ranklens", "cards", "jsonl"]
    more = [promised[0], "online-retail-items", *promised[1:4], "movielens-100k", *promised[4:7]]
    more += ["nab", "mentions", "green-taxi", "jsonl", "csv", "parquet"]
    assert list(FORMATS) == more
