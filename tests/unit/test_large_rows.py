"""Rows of any size are folded and read in portions of bounded bytes; a column of them holds 2 GiB."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.definitions import (
    Count,
    DistinctCount,
    Entity,
    FeatureSet,
    FeatureView,
    LastK,
    Stream,
    Window,
)
from features.definitions.repo import FeatureRepo
from features.errors import RowsTooLargeError
from features.events.parsing import Records, parse
from features.online_store import port
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.port import Marker, binaries
from features.online_store.reader import FeatureReader
from features.online_store.sqlite.rows import SqliteRows
from features.rows import layout, portions
from features.rows.folding import Fold
from features.rows.layout import binary_array
from features.rows.matrix import BatchKey
from features.rows.plan import LARGE_ROW, large_row_line, large_rows, largest_row

T0 = 1_700_000_000_000
USERS, ITEMS = 40, 100
MOST = 32_768
USER = Entity("user", {"user": "string"})
SHOP = Stream("shop", topic="t", fields={"user": "string", "item": "string"})


def view() -> FeatureView:
    return FeatureView("taken", sets=[FeatureSet(USER, SHOP, [Count(), LastK("item", ITEMS)], ["1h"])])


@pytest.fixture
def rows(tmp_path) -> Iterator[SqliteRows]:
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        yield rows


@pytest.fixture
def narrow(monkeypatch) -> None:
    """A column holds 32 KB; a row has up to 7 KB, and all have 150 KB together."""
    monkeypatch.setattr(port, "MOST_ROW_BYTES", MOST)
    monkeypatch.setattr(layout, "MOST_ROW_BYTES", MOST)
    monkeypatch.setattr(portions, "BYTES_AT_ONCE", MOST // 2)


def folded(rows: SqliteRows, defined: FeatureView) -> list[int]:
    """Two batches: the second reads the rows of the first; user n has n items times two and a half."""
    generation = rows.generation(1)
    generation.begin()
    generation.publish(Marker(-1, {"t/0": 0}, {"t/0": 0}, -1))
    rows.set_current(defined.name, 1)
    step, at, counts = BatchStep(generation, [defined], 1), 0, []
    for batch in (0, 1):
        events = [
            {"event_id": f"{batch} {user} {n}", "event_time": T0 + n, "user": f"u{user}", "item": f"{n}" * 20}
            for user in range(USERS)
            for n in range(ITEMS * user // USERS)
        ]
        values = pa.array([json.dumps(event).encode() for event in events])
        known = np.full(len(events), T0 + 1000 + batch)
        records = Records(values, known, np.zeros(len(events), np.int32), at + np.arange(len(events)))
        end = at + len(events)
        done = step.run(Batch(batch, {"t/0": at}, {"t/0": end}, {"shop": parse(records, SHOP)}, T0))
        counts.append(done.folded)
        at = end
    return counts


def answers(rows: SqliteRows, defined: FeatureView) -> list[list[object]]:
    repo = FeatureRepo(Path(), {"user": USER}, {"shop": SHOP}, {defined.name: defined})
    keys = pa.array([f"u{user}" for user in range(USERS + 2)] + [None])
    matrix = FeatureReader(rows, repo).read(defined.name, keys, T0 + 2000)
    return [matrix.status.tolist(), matrix.newest_event.tolist(), *(column.to_pylist() for column in matrix.columns)]


def test_rows_that_no_column_holds_are_folded_and_read_in_portions(tmp_path, narrow, monkeypatch):
    """Before, the column was a chunked one, without what the fold asks of it: a batch that was tried for ever."""
    with closing(SqliteRows(tmp_path / "narrow.db")) as small:
        defined = view()
        counted, found = folded(small, defined), answers(small, defined)
        with pytest.raises(RowsTooLargeError):
            small.read("taken", pa.array([f"u{user}" for user in range(USERS)]))
    monkeypatch.undo()
    with closing(SqliteRows(tmp_path / "wide.db")) as wide:
        defined = view()
        assert (counted, found) == (folded(wide, defined), answers(wide, defined))
    assert sum(found[2][1:USERS]) == sum(counted)
    assert found[2][USERS:] == [None, None, None]


def test_a_portion_is_as_large_as_the_rows_before_let_expect(monkeypatch):
    monkeypatch.setattr(portions, "BYTES_AT_ONCE", 1 << 20)
    defined, sizes = view(), [10] * 50_000 + [10_000] * 2_000
    taken: list[tuple[int, int]] = []

    def work(start: int, length: int) -> int:
        size = sum(sizes[start : start + length])
        if size > 8_000_000:
            raise RowsTooLargeError(length, size)
        taken.append((length, size))
        return size

    portions.in_portions(defined, len(sizes), work)
    assert sum(length for length, _ in taken) == len(sizes)
    assert taken[0][0] <= portions.FIRST_ROWS
    assert max(length for length, _ in taken) > 10_000
    assert max(size for _, size in taken[-10:]) <= 1 << 20


def test_a_single_row_that_is_too_large_ends_with_the_error():
    def work(start: int, length: int) -> int:
        raise RowsTooLargeError(length, 1 << 32)

    with pytest.raises(RowsTooLargeError, match="1 rows requires at most 2,147,483,647 bytes together; got 4,294,967"):
        portions.in_portions(view(), 9, work)


def test_two_gibibytes_are_refused_and_neither_chunked_nor_wrapped():
    """Offsets of 32 bits wrapped, and rows were cut at the wrong bytes."""
    with pytest.raises(RowsTooLargeError, match=r"2,050 rows requires .* got 2,149,580,800") as error:
        binaries([b"x" * (1 << 20)] * 2_050)
    with pytest.raises(RowsTooLargeError):
        binaries([None, *[b"x" * (1 << 20)] * 2_050])
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(RowsTooLargeError):
        binary_array(np.array([0, 1 << 31]), np.zeros(8, np.uint8))


def distinct(k: int, *windows: str) -> FeatureView:
    return FeatureView("taken", sets=[FeatureSet(USER, SHOP, [DistinctCount("item", k=k)], list(windows))])


def test_a_definition_that_allows_rows_of_more_than_a_megabyte_is_named():
    """k = 4,096 over a week: rows of 1.7 MB were met with nothing said."""
    small, large = distinct(256, "1h", "24h", "7d", "30d"), distinct(4_096, "7d")
    assert large_rows([small]) == {}
    (size,) = large_rows([large]).values()
    assert 1.7e6 < size < 4e6
    assert large_row_line("taken", size).startswith("taken: a row can have ")


@pytest.mark.parametrize("windows", [["24h"], ["1h", "24h", "7d"], [Window("24h", delay="24h"), "1h"]])
def test_no_row_is_larger_than_its_definition_says(windows):
    """An entity with more new values in every tile than the row keeps, for as long as the windows are."""
    defined = FeatureView("taken", sets=[FeatureSet(USER, SHOP, [DistinctCount("item", k=16), Count()], windows)])
    horizon, most = defined.horizon_ms, 30_000
    times = T0 + np.sort(np.random.default_rng(5).integers(0, horizon, most))
    parsed = parse(
        Records(
            pa.array([json.dumps({"event_id": f"{n}", "event_time": int(at), "user": "u", "item": f"i{n}"}).encode()
                      for n, at in enumerate(times)]),
            times, np.zeros(most, np.int32), np.arange(most),
        ),
        SHOP,
    )  # fmt: skip
    size = len(folded_at_once(defined, parsed.events)[0].as_py())
    assert largest_row(defined) / 8 < size <= largest_row(defined) + 1024
    assert size < LARGE_ROW


def folded_at_once(defined: FeatureView, events: pa.Table) -> pa.Array:
    folding = Fold(defined, {"shop": events})
    return folding.rows(pa.nulls(len(folding.keys), pa.binary()), BatchKey(1, 0, T0)).values
