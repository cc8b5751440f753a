"""A year of a real shop through the running loop: every record ends once, and a row says what the file says."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.checks.laws import valid_events
from features.checks.naive_aggregations import Expected, is_exact
from features.checks.oracle import answers, compared, derived_disagreements, excess_of, histories
from features.definitions import FeatureView
from features.definitions.repo import FeatureRepo, load_repo
from features.definitions.windows import duration_ms
from features.events.dedupe import without_duplicates
from features.formats.reading import read_events
from features.history.point_in_time_join import Spine, point_in_time
from features.machine import free_port
from features.online_store.settings import store_of
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import FeatureMatrix, PackedRows, Status
from headrace.loop import Loop, share_jars
from headrace.settings import read_settings
from streaming.dead_letters import read_dead_letters
from streaming.kafka.producer import EventProducer
from streaming.kafka.watermarks import read_watermarks
from streaming.replay import Stop, Tally, in_file_order, send_all

pytestmark = [pytest.mark.slow, pytest.mark.integration]

ROOT = Path(__file__).resolve().parents[2]
FILE, FORMAT = "online-retail.parquet", "online-retail"
RECORDS = 453_843
AGAIN = 1_000
BROKEN = [b"", b"{", b"[]", b'{"event_type": "purchase"}', b'{"event_time": "yesterday", "event_type": "view"}']
SAMPLED = 200
FOLDED_WITHIN_S, SERVING_WITHIN_S = 600.0, 180.0
LOG = logging.getLogger(__name__)


@dataclass
class Shop:
    """The loop after it has folded and archived the file, a part of it twice, and a few broken records."""

    loop: Loop
    file: Path
    events: pa.Table
    acknowledged: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return self.repo.streams["activity"].topic

    @property
    def repo(self) -> FeatureRepo:
        return load_repo(self.loop.repo)

    def rows(self) -> SqliteRows:
        rows = store_of(self.loop.repo, self.loop.home).open()
        assert isinstance(rows, SqliteRows)
        return rows

    def archived(self) -> pa.Table:
        from deltalake import DeltaTable

        return pa.table(DeltaTable(self.loop.home / "offline" / "activity").to_pyarrow_table())

    def tell(self, name: str, fact: Any) -> None:
        self.facts[name] = fact
        LOG.info("%s: %s", name, json.dumps(fact))


@pytest.fixture(scope="module")
def shop(real_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The broker and the stream run, and have finished all that was sent."""
    path = real_file(FILE)
    home = tmp_path_factory.mktemp("online-retail") / "home"
    settings = read_settings(ROOT, os.environ)
    home.mkdir()
    share_jars(ROOT / settings.home, home)
    repo = Path(shutil.copytree(ROOT / settings.stream.repo, home / "feature_repo"))
    tracking = f"sqlite:///{home / 'mlruns' / 'mlflow.db'}"
    with Loop(ROOT, settings, home, repo, free_port(), tracking) as loop:
        loop.start_broker()
        loop.start("stream", "stream")
        loop.wait("the stream", lambda: loop.status().get("state") == "running", FOLDED_WITHIN_S)
        yield filled(loop, path)


def filled(loop: Loop, path: Path) -> Shop:
    """The file is replayed, its newest events come again, broken records too; the stream has finished them."""
    began = time.monotonic()
    told = json.loads(loop.run("replay", "replay", str(path), "--format", FORMAT, "--speed", "max", "--json"))
    streams = load_repo(loop.repo).streams
    parsed = [one for name, one in read_events(path, FORMAT, streams) if name == "activity"]
    shop = Shop(loop, path, valid_events(parsed), told["acknowledged"])
    shop.tell("replay", told)
    shop.acknowledged += sent_again(shop)
    seconds: dict[str, float] = {}
    rates: list[float] = []
    loop.wait("the fold and the archive", lambda: both_at_end(shop, began, seconds, rates), FOLDED_WITHIN_S)
    per_s = {query: round(shop.acknowledged / took) for query, took in seconds.items()}
    shop.tell("fold", {"s": seconds, "per_s": per_s, "most_per_s": max(rates), **loop.counted()})
    shop.tell("memory_mib of the broker and the stream", memory_mib(loop))
    return shop


def sent_again(shop: Shop) -> int:
    """The newest events of the file, and the broken records, have been acknowledged; how many they are."""
    producer, tally = EventProducer(shop.loop.bootstrap), Tally()
    newest = shop.events.slice(shop.events.num_rows - AGAIN)
    send_all(in_file_order(iter([("activity", newest)]), shop.repo.streams, 0), producer, Stop(), tally, None)
    for value in BROKEN:
        producer.send(shop.topic, b"", value, [], tally.ack)
    assert producer.flush(60) == 0
    assert tally.failed == 0
    return tally.acknowledged


def both_at_end(shop: Shop, began: float, seconds: dict[str, float], rates: list[float]) -> bool:
    """Whether both queries have finished all; notes when each had, and how fast the fold was over each ten seconds."""
    queries = shop.loop.status().get("queries", {})
    topics = [topic for one in shop.repo.streams.values() for topic in one.topics]
    high = read_watermarks(shop.loop.bootstrap, topics).high
    rates.append(queries.get("fold", {}).get("rows_per_s", 0.0))
    for name in ("fold", "archive"):
        if queries.get(name, {}).get("end") == high:
            seconds.setdefault(name, round(time.monotonic() - began, 1))
    return len(seconds) == 2 and sum(shop.loop.counted().values()) >= shop.acknowledged


# --- recount --------------------------------------------------------------------------------------------------------


def test_every_acknowledged_record_ends_once(shop: Shop) -> None:
    """Acknowledged = folded + duplicate + late + dead letter = places in the archive + places of dead letters."""
    counts = shop.loop.counted()
    assert shop.acknowledged == RECORDS + AGAIN + len(BROKEN)
    expected = {"folded": RECORDS, "duplicate": AGAIN, "late": 0, "dead_letter": len(BROKEN)}
    assert counts == expected
    table = shop.archived()
    places = set(zip(*(table[name].to_pylist() for name in ("topic", "partition", "offset")), strict=True))
    letters = {letter.place for letter in read_dead_letters(shop.loop.bootstrap, shop.topic)}
    assert len(places) == table.num_rows
    assert places.isdisjoint(letters)
    assert len(places) + len(letters) == shop.acknowledged
    high = read_watermarks(shop.loop.bootstrap, [shop.topic]).high
    assert sum(high.values()) == shop.acknowledged


def test_the_archive_holds_the_events_of_the_file(shop: Shop) -> None:
    """Every column of every event, which went through JSON, Kafka, Spark and Parquet."""
    unique = without_duplicates(shop.archived(), duration_ms(shop.repo.streams["activity"].dedupe_horizon))
    names = [name for name in shop.events.column_names if name not in ("partition", "offset")]
    one, other = (table.select(names).sort_by("event_id").combine_chunks() for table in (unique, shop.events))
    assert [name for name in names if not one[name].equals(other[name].cast(one[name].type))] == []


# --- features -------------------------------------------------------------------------------------------------------


def placed(shop: Shop) -> pa.Table:
    """The file's events with the places that the broker gave them: what the order of events of one time follows."""
    table = shop.archived().sort_by([("known_at", "ascending"), ("offset", "ascending")])
    found = pc.index_in(shop.events["event_id"], value_set=table["event_id"].combine_chunks())
    events = shop.events
    for name in ("partition", "offset"):
        column = table[name].take(found).cast(events.schema.field(name).type)
        events = events.set_column(events.schema.get_field_index(name), events.schema.field(name), column)
    return events


def sampled(shop: Shop, view: FeatureView, seed: int) -> tuple[pa.Array, FeatureMatrix]:
    """Some keys, and their online rows read at the clock of each."""
    rows = shop.rows()
    everyone = np.array(sorted(rows.keys(view.name).to_pylist()))
    keys = pa.array(np.random.default_rng(seed).choice(everyone, SAMPLED, replace=False).tolist())
    values, stream_id = rows.read(view.name, keys)
    assert stream_id is not None
    return keys, finalize(view, PackedRows(keys, values), 0, stream_id)


@pytest.mark.parametrize("name", ["user_activity", "item_activity"])
def test_online_rows_are_what_history_and_the_oracle_say_of_the_file(shop: Shop, name: str, seed: int) -> None:
    """200 of each: exact features to the bit, the oracle's within its tolerance, sums within 1e-9 of the sum of |x|."""
    view = shop.repo.views[name]
    keys, found = sampled(shop, view, seed)
    assert (found.status == Status.PRESENT).all()
    (key,) = view.entity.keys
    events = placed(shop)
    history = point_in_time(view, Spine(keys, found.as_of), {"activity": events})
    exact = {one.name for one in view.features if is_exact(one)}
    pairs = zip(found.names, found.columns, history.columns, strict=True)
    assert [one for one, column, other in pairs if one in exact and not column.equals(other)] == []
    assert found.status.tolist() == history.status.tolist()
    mine = events.filter(pc.is_in(events[key], value_set=keys)).to_pylist()
    told = histories(view, [{key: one} for one in keys.to_pylist()], {"activity": mine})
    expected = [answers(view, one, int(at)) for one, at in zip(told, found.as_of, strict=True)]
    for matrix in (found, history):
        assert [str(one) for one in compared(view, expected, matrix)] == []
        assert derived_disagreements(view, matrix) == []
    shop.tell(
        name, {"values": len(keys) * len(view.features), "events": len(mine), "rows": len(shop.rows().keys(name))}
    )


def test_features_show_says_of_a_user_of_the_file_what_the_online_row_says(shop: Shop, seed: int) -> None:
    """A user's events are all in one partition, so that the file's order is the broker's."""
    view = shop.repo.views["user_activity"]
    keys, found = sampled(shop, view, seed)
    user, as_of = keys[0].as_py(), int(found.as_of[0])
    source = ("--from", str(shop.file), "--format", FORMAT, "--repo", str(shop.loop.repo), "--json")
    shown = shop.loop.run("show", "features", "show", "user", user, "--as-of", str(as_of), *source)
    (answer,) = (one for one in json.loads(shown)["views"] if one["view"] == view.name)
    assert answer["status"] == "PRESENT"
    row = found.to_table().slice(0, 1).to_pylist()[0]
    exact = [one.name for one in view.features if is_exact(one)]
    assert {name: answer["features"][name] for name in exact} == {name: row[name] for name in exact}
    mine = shop.events.filter(pc.equal(shop.events["user_id"], user)).to_pylist()
    (history,) = histories(view, [{"user_id": user}], {"activity": mine})
    expected = answers(view, history, as_of)
    assert isinstance(expected, dict)
    assert {name: value for name, value in answer["features"].items() if differs(value, expected.get(name))} == {}


def differs(value: Any, expected: Expected | None) -> bool:
    """Whether the value is not what is expected; of derived features nothing is."""
    return expected is not None and excess_of(value, expected) > 1


# --- model ----------------------------------------------------------------------------------------------------------


def test_a_model_of_the_archive_recommends_to_a_known_customer(shop: Shop) -> None:
    """Trained and champion; the service, by the stream's clock, answers by it and not by a fallback."""
    began = time.monotonic()
    report = json.loads(shop.loop.run("train", "train", "--json"))
    shop.tell("train", {"s": round(time.monotonic() - began, 1), **report})
    assert report["promoted"]
    assert report["target"] == ["purchase"]
    scores = {row["model"]: row["ndcg_at_10"] for row in report["rows"]}
    assert scores["model"] > scores["popular"]
    customer = shop.events.filter(pc.is_valid(shop.events["user_id"]))["user_id"][-1].as_py()
    began = time.monotonic()
    shop.loop.start("serve", "serve", "--clock", "stream")
    shop.loop.wait("the service", lambda: shop.loop.ask("/readyz"), SERVING_WITHIN_S)
    answer = shop.loop.wait("a personal answer", lambda: personal(shop.loop, customer), SERVING_WITHIN_S)
    shop.tell("serve", {"s": round(time.monotonic() - began, 1), "answer": answer})
    assert answer["model"]["version"] == report["version"]
    assert answer["features"]["status"] == "PRESENT"
    bought = set(pc.unique(shop.events["item_id"]).to_pylist())
    assert len(answer["items"]) == 10
    assert {item["item_id"] for item in answer["items"]} <= bought
    shop.tell("memory_mib", memory_mib(shop.loop))


def personal(loop: Loop, user: str) -> dict[str, Any] | None:
    answer = loop.ask("/v1/recommend", {"user_id": user})
    return answer if answer and not answer["fallback"]["used"] else None


def memory_mib(loop: Loop) -> dict[str, Any]:
    """Resident memory of the processes that work in this home: all of it, and with shared pages counted once."""
    found: dict[str, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = [(process / name).read_bytes() for name in ("environ", "cmdline")]
            home = str(loop.home).encode()
            if int(process.name) == os.getpid() or not any(home in text for text in told):
                continue
            rollup = (process / "smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        kib = {line.split(":")[0]: int(line.split()[1]) for line in rollup}
        what = part_of(told[1])
        rss, pss = found.setdefault(what, [0, 0])
        found[what] = [rss + kib["Rss"] // 1024, pss + kib["Pss"] // 1024]
    rss, pss = (sum(sizes) for sizes in zip(*found.values(), strict=True))
    return {"rss": rss, "pss": pss, "parts": found}


def part_of(command: bytes) -> str:
    """Which part of the loop a command line is of."""
    named = {"broker": b"kafka.Kafka", "Spark": b"org.apache.spark", "stream": b"headrace\0stream"}
    return next((name for name, mark in named.items() if mark in command), "service")
