"""Public data sets as events of the shop and cards domains: the mapping of their columns to ours.

Each reader yields (stream name, table of our columns) in the file's order. ``docs/data.md`` describes the same mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import UNITS_MS
from features.errors import FormatError
from features.formats.csv_rows import read_csv
from features.formats.files import PROBLEM, Columns, InputFile, cast, format_errors, numbered, read_parquet, to_ms

Tables = Iterator[tuple[str, pa.Table]]
Shape = Callable[[pa.Table], list[tuple[str, pa.Table]]]

LABEL_DELAY_MS = 7 * UNITS_MS["d"]
"""The time from a card payment until its label is known: the Fraud Detection Handbook's delay."""
TAOBAO_TYPES = {"pv": "view", "cart": "cart", "fav": "favorite", "buy": "purchase"}


def events_of(rows: pa.Table, **columns: Columns) -> pa.Table:
    """A table of our columns with the rows' offset and problems, and their event_id unless ``columns`` has one."""
    about = {name: rows[name] for name in ("offset", "event_id", PROBLEM) if name in rows.column_names}
    return pa.table({**about, **columns})


def _constant(rows: pa.Table, value: str | float) -> Columns:
    return pa.repeat(pa.scalar(value), rows.num_rows)


def text(column: Columns) -> Columns:
    """The column as text: ids that may be numbers in the file."""
    return cast(column, "string", "an id")


def _renamed(column: Columns, names: Mapping[str, str]) -> Columns:
    """Their event types as ours; an unlisted type stays, and the stream decides its verdict."""
    known = pc.index_in(column, value_set=pa.array(list(names)))
    return pc.coalesce(pc.take(pa.array(list(names.values())), known), column)


def shaped(tables: Iterable[pa.Table], source: InputFile, shape: Shape) -> Tables:
    """The events that ``shape`` makes of each table of the file, with its row numbers; FormatError where it fails."""
    for rows in numbered(tables, source.path):
        with format_errors(source, "the columns to have the data set's own types"):
            shaped = shape(rows)
        yield from shaped


def online_retail(source: InputFile) -> Tables:
    """UCI Online Retail (Parquet): one event per invoice line; returns have a negative quantity, and so amount."""
    columns = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
    return shaped(read_parquet(source, columns), source, _online_retail)


def _online_retail(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    returned = pc.or_(pc.starts_with(rows["InvoiceNo"], "C"), pc.less(rows["Quantity"], 0))
    events = events_of(
        rows,
        event_time=to_ms(rows["InvoiceDate"], "ms", "InvoiceDate"),
        event_type=pc.if_else(returned, "return", "purchase"),
        user_id=text(rows["CustomerID"]),
        session_id=text(rows["InvoiceNo"]),
        item_id=text(rows["StockCode"]),
        price=rows["UnitPrice"],
        quantity=rows["Quantity"],
    )
    return [("activity", events)]


def online_retail_items(source: InputFile) -> Tables:
    """The items of UCI Online Retail: each with its first description, from its first line on."""
    columns = ("StockCode", "Description", "InvoiceDate")
    seen: set[str] = set()
    return shaped(read_parquet(source, columns), source, lambda rows: _described(rows, seen))


def _described(rows: pa.Table, seen: set[str]) -> list[tuple[str, pa.Table]]:
    """The lines that describe an item for the first time; ``seen`` has the items of earlier ones."""
    codes = text(rows["StockCode"]).combine_chunks()
    told = pc.and_(rows["Description"].is_valid(), pc.invert(pc.is_in(codes, value_set=pa.array(seen, pa.string()))))
    rows = rows.append_column("item", codes).filter(told)
    first = pc.unique(rows["item"])
    rows = rows.take(pc.index_in(first, value_set=rows["item"].combine_chunks()))
    seen.update(first.to_pylist())
    time = to_ms(rows["InvoiceDate"], "ms", "InvoiceDate")
    return [("catalogue", events_of(rows, event_time=time, item_id=rows["item"], title=text(rows["Description"])))]


def taobao(source: InputFile) -> Tables:
    """Taobao user behaviour (Parquet)."""
    return shaped(read_parquet(source, ("user_id", "item_id", "category_id", "behavior", "ts")), source, _taobao)


def _taobao(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    events = events_of(
        rows,
        event_time=to_ms(rows["ts"], "s", "ts"),
        event_type=_renamed(rows["behavior"], TAOBAO_TYPES),
        user_id=text(rows["user_id"]),
        item_id=text(rows["item_id"]),
        category=text(rows["category_id"]),
    )
    return [("activity", events)]


def rees46(source: InputFile) -> Tables:
    """REES46's multi-category store (CSV): one unit per event, so a purchase's quantity is 1."""
    texts = ("event_time", "event_type", "product_id", "category_id", "category_code", "user_id", "user_session")
    return shaped(read_csv(source, dict.fromkeys(texts, "string") | {"price": "float64"}), source, _rees46)


def _rees46(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    times = pc.replace_substring_regex(rows["event_time"], r"\A(.{10} .{8}) UTC\z", r"\1Z")
    bought = pc.equal(rows["event_type"], "purchase")
    events = events_of(
        rows,
        event_time=times,
        event_type=_renamed(rows["event_type"], {"remove_from_cart": "remove"}),
        user_id=rows["user_id"],
        session_id=rows["user_session"],
        item_id=rows["product_id"],
        category=pc.coalesce(rows["category_code"], rows["category_id"]),
        price=rows["price"],
        quantity=pc.if_else(bought, pa.scalar(1, pa.int64()), pa.scalar(None, pa.int64())),
    )
    return [("activity", events)]


def movielens(source: InputFile) -> Tables:
    """A MovieLens folder: the films, timed at the first rating, then the ratings in the order of ratings.csv."""
    films, ratings = (replace(source, path=source.path / name) for name in ("movies.csv", "ratings.csv"))
    first_ms = _first_rating_ms(ratings)
    dtypes = {"movieId": "string", "title": "string", "genres": "string"}
    yield from shaped(read_csv(films, dtypes), films, lambda rows: _films(rows, first_ms))
    dtypes = {"userId": "string", "movieId": "string", "rating": "float64", "timestamp": "int64"}
    yield from shaped(read_csv(ratings, dtypes), ratings, _ratings)


def movielens_100k(source: InputFile) -> Tables:
    """Tab-separated user, item, rating and seconds: MovieLens-100K's u.data, NCF's .train.rating."""
    dtypes = {"userId": "string", "movieId": "string", "rating": "float64", "timestamp": "int64"}
    return shaped(read_csv(source, dtypes, tabs=True), source, _ratings)


def _first_rating_ms(ratings: InputFile) -> int:
    chunk_minima = [pc.min(rows["timestamp"]).as_py() for rows in read_csv(ratings, {"timestamp": "int64"})]
    seconds = [second for second in chunk_minima if second is not None]
    if not seconds:
        raise FormatError(ratings.where, "at least one rating", "none")
    return 1_000 * int(min(seconds))


def _films(rows: pa.Table, first_ms: int) -> list[tuple[str, pa.Table]]:
    times = pa.repeat(pa.scalar(first_ms, pa.int64()), rows.num_rows)
    films = events_of(rows, event_time=times, item_id=rows["movieId"], title=rows["title"], category=rows["genres"])
    return [("catalogue", films)]


def _ratings(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    events = events_of(
        rows,
        event_time=to_ms(rows["timestamp"], "s", "timestamp"),
        event_type=_constant(rows, "rating"),
        user_id=rows["userId"],
        item_id=rows["movieId"],
        rating=rows["rating"],
    )
    return [("activity", events)]


def yoochoose(source: InputFile) -> Tables:
    """YooChoose clicks (Parquet): views of anonymous sessions."""
    return shaped(read_parquet(source, ("SessionId", "ItemId", "Time")), source, _yoochoose)


def _yoochoose(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    events = events_of(
        rows,
        event_time=pc.cast(pc.round(pc.multiply(rows["Time"], 1_000.0)), pa.int64()),
        event_type=_constant(rows, "view"),
        session_id=text(rows["SessionId"]),
        item_id=text(rows["ItemId"]),
    )
    return [("activity", events)]


def cards(source: InputFile) -> Tables:
    """The Fraud Detection Handbook's payments (Parquet), and for each fraud a label that becomes known 7 days later."""
    columns = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
    return shaped(read_parquet(source, columns), source, _cards)


def _cards(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    events = events_of(
        rows,
        event_id=text(rows["TRANSACTION_ID"]),
        event_time=to_ms(rows["TX_DATETIME"], "ms", "TX_DATETIME"),
        customer_id=cast(rows["CUSTOMER_ID"], "int64", "CUSTOMER_ID"),
        terminal_id=cast(rows["TERMINAL_ID"], "int64", "TERMINAL_ID"),
        amount=rows["TX_AMOUNT"],
    )
    frauds = events.filter(pc.equal(rows["TX_FRAUD"], 1)).drop_columns(["amount"])
    labels = frauds.append_column("known_at", pc.add(frauds["event_time"], LABEL_DELAY_MS))
    return [("transactions", events), ("fraud_labels", labels)]
