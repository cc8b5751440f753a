"""The data sets that everyone has: each row becomes the event that it was, and a file that is not one is refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from whole_files import REPO, Read, whole

from features.definitions.windows import UNITS_MS
from features.errors import FormatError
from features.events.parsing import Verdict

ROOT = Path(__file__).parents[2]
RealFile = Callable[[str], Path]


def first(read: Read, stream: str = "activity", row: int = 0) -> dict[str, object]:
    return {
        name: value for name, value in read.events[stream].slice(row, 1).to_pylist()[0].items() if value is not None
    }


def events_of_type(read: Read) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in read.events["activity"]["event_type"].value_counts().to_pylist()}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


# --- what becomes of the rows -------------------------------------------------------------------------------------

ROWS = {
    "online-retail": ("online-retail.parquet", {"activity": 453_843}),
    "online-retail-items": ("online-retail.parquet", {"catalogue": 3_918}),
    "taobao": ("taobao-clicks.parquet", {"activity": 96_168}),
    "rees46": ("rees46-clicks.csv.gz", {"activity": 5_019}),
    "movielens": ("movielens-small", {"catalogue": 9_125, "activity": 100_004}),
    "yoochoose": ("yoochoose-clicks.parquet", {"activity": 70_278}),
    # 46,936 lines: 2,512 items, 7,911 rankings of 24 items each, and 36,513 clicks.
    "ranklens": ("ranklens.jsonl.gz", {"catalogue": 2_512, "activity": 7_911 * 24 + 36_513}),
    "cards": ("card-transactions.parquet", {"transactions": 1_169_723, "fraud_labels": 9_465}),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_row_of_a_real_file_is_a_valid_event_with_an_id_and_a_place_of_its_own(
    kind: str, real_file: RealFile
) -> None:
    name, rows = ROWS[kind]
    read = whole(real_file(name), kind)
    assert read.verdicts == {stream: {Verdict.VALID: count} for stream, count in rows.items()}
    for table in read.events.values():
        assert pc.count_distinct(table["event_id"]).as_py() == table.num_rows
        assert (np.diff(table["offset"]) > 0).all()


def test_online_retail_lines_are_purchases_and_returns_of_known_and_unknown_users(real_file: RealFile) -> None:
    path = real_file("online-retail.parquet")
    read = whole(path, "online-retail")
    assert first(read) == {
        "event_id": f"{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}-0",
        "event_time": 1_291_191_960_000,  # 2010-12-01 08:26:00, taken as UTC
        "known_at": 1_291_191_960_000,
        "partition": 0,
        "offset": 0,
        "event_type": "purchase",
        "user_id": "17850",
        "session_id": "536365",
        "item_id": "85123A",
        "price": 2.55,
        "quantity": 6,
        "amount": 6 * 2.55,
    }
    table = read.events["activity"]
    returns = table.filter(pc.equal(table["event_type"], "return"))
    assert returns.num_rows == 9_418  # 8,221 invoices C…, and the other negative quantities
    assert pc.max(returns["quantity"]).as_py() < 0
    assert table["user_id"].null_count == 112_344


def test_taobao_behaviour_is_ours_by_name(real_file: RealFile) -> None:
    read = whole(real_file("taobao-clicks.parquet"), "taobao")
    assert set(events_of_type(read)) == {"view", "cart", "favorite", "purchase"}
    assert first(read)["event_time"] == 1_511_658_000_000
    assert (first(read)["user_id"], first(read)["item_id"], first(read)["category"]) == ("543462", "1715", "1464116")


def test_rees46_events_keep_session_price_and_one_unit_for_a_purchase(real_file: RealFile) -> None:
    read = whole(real_file("rees46-clicks.csv.gz"), "rees46")
    event = first(read, row=1)
    assert event["event_time"] == 1_569_888_000_000
    assert event["category"] == "appliances.environment.water_heater"
    assert event["session_id"] == "9333dfbd-b87a-4708-9857-6336556b0fcc"
    table = read.events["activity"]
    bought = table.filter(pc.equal(table["event_type"], "purchase"))
    assert bought["amount"].to_pylist() == bought["price"].to_pylist()
    assert table["quantity"].null_count == table.num_rows - bought.num_rows > 0


def test_movielens_films_are_known_from_the_first_rating_on(real_file: RealFile) -> None:
    read = whole(real_file("movielens-small"), "movielens")
    first_ms = pc.min(read.events["activity"]["event_time"]).as_py()
    assert set(read.events["catalogue"]["event_time"].to_pylist()) == {first_ms}
    assert first(read, "catalogue")["title"] == "Toy Story (1995)"
    assert (first(read)["event_type"], first(read)["item_id"], first(read)["rating"]) == ("rating", "31", 2.5)


def test_yoochoose_sessions_have_no_user_and_keep_milliseconds_of_float_seconds(real_file: RealFile) -> None:
    read = whole(real_file("yoochoose-clicks.parquet"), "yoochoose")
    assert read.events["activity"]["user_id"].null_count == 70_278
    assert pc.count_distinct(read.events["activity"]["session_id"]).as_py() == 17_794
    assert first(read)["event_time"] == 1_396_437_466_940


def test_ranklens_clicks_name_a_ranking_whose_impressions_have_positions(real_file: RealFile) -> None:
    read = whole(real_file("ranklens.jsonl.gz"), "ranklens")
    assert events_of_type(read) == {"impression": 7_911 * 24, "click": 36_513}
    table = read.events["activity"]
    shown = table.filter(pc.equal(table["event_type"], "impression"))
    clicked = table.filter(pc.equal(table["event_type"], "click"))
    assert sorted(set(shown["position"].to_pylist())) == list(range(1, 25))
    pairs = set(zip(shown["recommendation_id"].to_pylist(), shown["item_id"].to_pylist(), strict=True))
    assert set(zip(clicked["recommendation_id"].to_pylist(), clicked["item_id"].to_pylist(), strict=True)) <= pairs
    assert first(read, "catalogue")["title"] == "Grumpier Old Men"


def test_frauds_of_cards_become_known_seven_days_after_their_payment(real_file: RealFile) -> None:
    read = whole(real_file("card-transactions.parquet"), "cards")
    labels, payments = read.events["fraud_labels"], read.events["transactions"]
    assert set(pc.subtract(labels["known_at"], labels["event_time"]).to_pylist()) == {7 * UNITS_MS["d"]}
    assert payments["known_at"].equals(payments["event_time"])
    at = pc.index_in(labels["event_id"], value_set=payments["event_id"].combine_chunks())
    assert payments["event_time"].take(at).equals(labels["event_time"])
    assert payments["terminal_id"].take(at).to_pylist() == labels["terminal_id"].to_pylist()


@pytest.mark.parametrize("kind", ["taobao", "rees46", "ranklens"])
def test_how_a_file_is_cut_into_chunks_changes_nothing(kind: str, real_file: RealFile) -> None:
    path = real_file(ROWS[kind][0])
    large, small = whole(path, kind), whole(path, kind, chunk_rows=1_000)
    assert small.chunks > large.chunks
    assert {name: table.equals(small.events[name]) for name, table in large.events.items()} == dict.fromkeys(
        large.events, True
    )


def test_a_stream_that_the_repo_lacks_is_left_out(real_file: RealFile) -> None:
    only = {"catalogue": REPO.streams["catalogue"]}
    assert list(whole(real_file("movielens-small"), "movielens", only).events) == ["catalogue"]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["online-retail", "online-retail-items", "taobao", "yoochoose", "cards"])
def test_a_data_set_without_one_of_its_columns_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"customer": ["x"]}), path)
    with pytest.raises(FormatError, match="requires column") as caught:
        whole(path, kind)
    assert caught.value.got == "customer"


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("{", "truncated"),
        ('{"event": "purchase"}', "purchase"),
        ('{"event": "item", "id": "1", "item": "2", "timestamp": 5}', "timestamp"),
        ('{"event": "item", "id": "1", "item": "2", "timestamp": "noon"}', "noon"),
    ],
)
def test_a_bad_line_of_ranklens_is_refused_alone_with_its_number(tmp_path: Path, line: str, got: str) -> None:
    good = '{"event": "item", "id": "1", "item": "2", "timestamp": "800000000000"}'
    read = whole(written(tmp_path, "a.jsonl", f"{good}\n{line}\n{good}\n"), "ranklens")
    assert (len(read.events["catalogue"]), len(read.events["activity"])) == (2, 0)
    (reason,) = read.reasons["activity"]
    assert "line 2 requires" in str(reason)
    assert got in str(reason)


def test_a_movielens_folder_without_ratings_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "movies.csv", "movieId,title,genres\n1,Toy Story,Comedy\n")
    with pytest.raises(FormatError, match=r"ratings\.csv"):
        whole(tmp_path, "movielens")


def test_a_movielens_folder_with_no_rating_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "movies.csv", "movieId,title,genres\n1,Toy Story,Comedy\n")
    written(tmp_path, "ratings.csv", "userId,movieId,rating,timestamp\n")
    with pytest.raises(FormatError, match="at least one rating"):
        whole(tmp_path, "movielens")


def test_a_data_set_whose_columns_have_other_types_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    names = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
    pq.write_table(pa.table({name: pa.array(["x"]) for name in names}), path)
    with pytest.raises(FormatError, match="the data set's own types"):
        whole(path, "online-retail")
