"""A project on disk with a stream of a shop, what its topics were sent, and what that must come to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from kafka_headers import known_at_header
from stream_process import DEADLINE_S, Process, StreamProcess

from features.checks.oracle import excess_of, oracle
from features.definitions import FeatureView, Stream
from features.definitions.repo import FeatureRepo, load_repo
from features.definitions.windows import duration_ms
from features.events.dedupe import without_duplicates
from features.events.parsing import Parsed, Records, Verdict, parse
from features.formats.reading import read_events
from features.history.archive import IMPORT_PARTITION
from features.history.point_in_time_join import Spine, point_in_time
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows, Status
from streaming.dead_letters import read_dead_letters
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics

DEFINITIONS = """
from headrace import Count, DistinctCount, Last, LastK, Max, Mean, Min, Sum
from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream

user = Entity("user", keys={{"user_id": "string"}})
city = Entity("city", keys={{"city": "string"}})
shop = Stream(
    "shop",
    topic="{topic}",
    fields={{
        "event_type": Field("string", enum=("view", "cart")),
        "user_id": Field("string", required=True),
        "city": Field("string", path="place.city"),
        "price": "float64",
        "quantity": "int64",
        "gift": "bool",
        "note": "string",
    }},
)
notes = Stream("notes", topic="{topic}.notes", fields={{"text": Field("string", required=True)}})
by_user = FeatureView(
    "by_user",
    sets=[
        FeatureSet(user, shop, [Count(), Sum("price"), LastK("city", 3)], ["10m", "1h", "24h"]),
        FeatureSet(user, shop, [Last("note"), Max("quantity"), Min("price"), Mean("price")], ["24h"]),
        FeatureSet(user, shop, [DistinctCount("city", k=16)], ["24h"], where={{"event_type": "cart"}}),
    ],
)
by_city = FeatureView("by_city", sets=[FeatureSet(city, shop, [Count(), Sum("quantity")], ["1h", "24h"])])
"""
NOW = 1_780_000_000_000
USERS, CITIES = [f"u{number}" for number in range(40)], ["Rome", "Bonn", "Oslo", None]
ODD_USERS = [f"p{number}" for number in range(50)]
"""The users of poison_records."""


def repo_of(folder: Path, topic: str) -> FeatureRepo:
    """The definitions, written into the new folder."""
    folder.mkdir()
    (folder / "shop.py").write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
    return load_repo(folder)


@dataclass
class Sent:
    """What a topic was sent and has acknowledged, in any order."""

    stream: Stream
    values: list[bytes | None] = field(default_factory=list)
    known_at: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)

    def on_ack(self, value: bytes | None, known_at: int) -> Callable[[Any, Any], None]:
        def acknowledged(error: Any, message: Any) -> None:
            assert error is None
            self.values.append(value)
            self.known_at.append(known_at)
            self.places.append((message.partition(), message.offset()))

        return acknowledged

    def parsed(self, repo: FeatureRepo) -> Parsed:
        partition, offset = np.array(self.places, dtype=np.int64).T
        places = np.array(self.known_at), partition.astype(np.int32), offset
        records, name = Records(pa.array(self.values, pa.binary()), *places), self.stream.name
        return parse(records, self.stream, repo.horizon_ms(name), keys=repo.keys_of(name))


class Project:
    """A project on disk as a user has one, the stream as the process that he starts, and what it was sent."""

    def __init__(self, root: Path, bootstrap: str, jars: Path, topic: str, seed: int) -> None:
        self.root = root
        self.stream, self.answered = StreamProcess(root, bootstrap), ""
        self.rng = Random(seed)
        self.repo = self._written(bootstrap, jars, topic)
        ensure_topics(bootstrap, self.repo.streams.values())
        self.producer = EventProducer(bootstrap)
        self.sent = {name: Sent(stream) for name, stream in self.repo.streams.items()}
        self.number, self.known_at = 0, NOW

    def _written(self, bootstrap: str, jars: Path, topic: str) -> FeatureRepo:
        (self.root / ".headrace").mkdir(parents=True)
        (self.root / ".headrace" / "jars").symlink_to(jars)
        stream = "[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\nmax_offsets_per_trigger = 100\n"
        settings = f"[kafka]\nbootstrap_servers = '{bootstrap}'\n{stream}"
        (self.root / "settings.toml").write_text(settings, encoding="utf-8")
        return repo_of(self.root / "feature_repo", topic)

    # --- what is sent ---

    def send(self, good: int, others: Sequence[bytes | None] = ()) -> None:
        """Good events of every kind, repeated and late ones, notes, and the others among them."""
        bad = [(b"", message) for message in others]
        events = [self._event() for _ in range(good)]
        messages = [*events, *bad]
        self.rng.shuffle(messages)
        for key, value in [*messages, *self.rng.choices(events, k=good // 10)]:  # some come again, as retries do
            self._produce("shop", key, value)
        for value in [b'{"event_id": "n%d", "event_time": %d, "text": "x"}', b'{"event_id": "m%d", "event_time": %d}']:
            self.number += 1
            self._produce("notes", None, value % (self.number, NOW))
        assert self.producer.flush(60) == 0

    def _event(self) -> tuple[bytes, bytes | None]:
        rng, now = self.rng, NOW
        self.number += 1
        ago, user = rng.choice([0, 1_000, 500_000, 3_000_000, 80_000_000, 200_000_000]), rng.choice(USERS)
        times = {"event_id": f"e{self.number}", "event_time": now - ago + rng.randrange(1000)}
        event = times | {"event_type": rng.choice(["view", "cart"]), "user_id": user, "price": rng.randrange(9) / 4}
        return user.encode(), json.dumps(event | {"quantity": 2, "place": {"city": rng.choice(CITIES)}}).encode()

    def _produce(self, name: str, key: bytes | None, value: bytes | None) -> None:
        sent, self.known_at = self.sent[name], self.known_at + 1
        headers = [known_at_header(self.known_at)]
        self.producer.send(sent.stream.topic, key, value, headers, sent.on_ack(value, self.known_at))

    def import_history(self, count: int) -> pa.Table:
        """Events of before the topic's first, brought in by the command; as the archive has them."""
        rng, path = self.rng, self.root / "history.parquet"
        ago = sorted((rng.randrange(1, 80_000_000) for _ in range(count)), reverse=True)
        events = [
            {"event_id": f"h{number}", "event_time": NOW - one, "event_type": rng.choice(["view", "cart"])}
            | {"user_id": rng.choice(USERS), "place.city": rng.choice(CITIES), "price": rng.randrange(9) / 4}
            | {"quantity": rng.randrange(3), "gift": None}
            for number, one in enumerate(ago)
        ]
        pq.write_table(pa.Table.from_pylist(events), path)
        self.run("import", str(path), "--format", "parquet", "--stream", "shop")
        ((_, parsed),) = read_events(path, "parquet", self.repo.streams, self.repo.horizon_ms, stream="shop")
        place = pa.array(np.full(count, IMPORT_PARTITION, dtype=np.int32))
        return parsed.events.set_column(parsed.events.schema.get_field_index("partition"), "partition", place)

    # --- the process ---

    def run(self, *arguments: str) -> None:
        """A headrace command, to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        self.answered = done.stdout + done.stderr

    def drain(self, process: Process) -> None:
        """All that was sent has been folded and archived by this process."""
        self.stream.wait(process, lambda: self.stream.is_running(process) and self.stream.is_drained())

    # --- what must be ---

    def check(self) -> None:
        """Rows, tables, dead letters and counts are what was sent comes to."""
        for view in self.repo.views.values():
            self.check_rows(view)
        refused = {name: self._check_letters(name) for name in self.sent}
        for name in self.sent:
            self._check_table(name)
        counts = self.stream.queries()["fold"]["counts"]
        assert sum(counts.values()) == sum(len(sent.values) for sent in self.sent.values())
        assert counts["dead_letter"] == sum(refused.values())
        assert counts["duplicate"] > 0
        assert counts["late"] > 0

    def _parsed(self, name: str) -> Parsed:
        return self.sent[name].parsed(self.repo)

    def rows(self) -> SqliteRows:
        return SqliteRows(self.root / ".headrace" / "online.db")

    def check_rows(self, view: FeatureView, history: pa.Table | None = None) -> None:
        parsed = self._parsed("shop")
        valid = parsed.events.filter(pa.array(parsed.verdicts[parsed.rows] == Verdict.VALID))
        both = valid if history is None else pa.concat_tables([history, valid])
        events = without_duplicates(both, duration_ms(self.repo.streams["shop"].dedupe_horizon))
        keys = pa.array([*((*USERS, *ODD_USERS) if view.name == "by_user" else CITIES[:3]), "nobody"])
        as_of = self.known_at + 1
        values, stream_id = self.rows().read(view.name, keys)
        assert stream_id is not None
        found = finalize(view, PackedRows(keys, values), as_of, stream_id)
        expected = point_in_time(view, Spine(keys, np.full(len(keys), as_of)), {"shop": events})
        assert found.status.tolist() == expected.status.tolist()
        pairs = zip(keys.to_pylist(), *(matrix.to_table().to_pylist() for matrix in (found, expected)), strict=True)
        for key, one, other in pairs:
            # As text, in which NaN is equal to NaN and -0.0 is not 0.0.
            differing = {name: one[name] for name in one if repr(one[name]) != repr(other[name])}
            assert self._far_off(view, key, as_of, events, differing) == {}, (view.name, key)

    def _far_off(
        self, view: FeatureView, key: str, as_of: int, events: pa.Table, values: dict[str, Any]
    ) -> dict[str, Any]:
        """The values that are further from the oracle's than sums of these numbers in another order may be."""
        if not values:
            return {}
        (name,) = view.entity.keys
        truth = oracle(view, {name: key}, as_of, {"shop": events.filter(pc.equal(events[name], key)).to_pylist()})
        assert not isinstance(truth, Status)
        return {feature: value for feature, value in values.items() if excess_of(value, truth[feature]) > 1}

    def _check_table(self, name: str) -> None:
        from deltalake import DeltaTable

        table = pa.table(DeltaTable(self.root / ".headrace" / "offline" / name).to_pyarrow_table())
        expected = self._parsed(name).events
        assert table.column_names == [*expected.column_names, "topic"]
        table = table.filter(pc.equal(table["topic"], self.repo.streams[name].topic))
        places = [("partition", "ascending"), ("offset", "ascending")]
        assert table.drop_columns(["topic"]).sort_by(places).to_pylist() == expected.sort_by(places).to_pylist()

    def _check_letters(self, name: str) -> int:
        sent, parsed = self.sent[name], self._parsed(name)
        reasons = parsed.reasons.to_pylist()
        expected = {
            (sent.stream.topic, *sent.places[row]): (sent.values[row], reasons[row])
            for row in np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER).tolist()
        }
        letters = read_dead_letters(self.stream.bootstrap, sent.stream.topic)
        assert {one.place: (one.value, one.reason) for one in letters} == expected
        return len(expected)
