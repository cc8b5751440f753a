"""`headrace bench`: its verbs, and the parts that freshness is measured with."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from stories import VIEW

from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from features.rows.folding import make_ready
from features.times import now_ms
from headrace.bench.core import core
from headrace.bench.loop.freshness import SAMPLED, SAMPLED_USER, Watch, commits, details, sampled
from headrace.bench.loop.running import own_broker
from headrace.cli import VERBS, cli
from headrace.project import Project
from headrace.settings import Settings
from streaming.fold.freshness import ages_of

SHOWS = "e_all_value_sum_10s"


def run(*arguments: str):
    return CliRunner().invoke(cli, list(arguments), prog_name="headrace")


def view_of(key: str, value: int = 1) -> pa.Table:
    """One event, just now."""
    now = now_ms()
    times = {"event_time": [now], "known_at": [now], "partition": [0], "offset": [0]}
    return pa.table({"event_id": [key], **times, "key": [key], "label": ["x"], "value": [value]})


def build(rows: SqliteRows, number: int, events: pa.Table) -> None:
    build_generation(rows.generation(number), [VIEW], number, {"s": events}, Marker(0, {}, {}, 0), now_ms())
    rows.set_current(VIEW.name, number)


@pytest.fixture
def rows(tmp_path):
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        yield rows


@pytest.fixture
def watch(rows):
    make_ready(VIEW)  # compiling would take longer than the window that an event of now is in
    return Watch(rows, VIEW, SHOWS)


def events(count: int) -> pa.Table:
    kinds = pa.array(["purchase"] * count)
    return pa.table({"event_id": pa.array(map(str, range(count))), "user_id": ["u"] * count, "event_type": kinds})


def test_every_bench_is_a_verb_whichever_modules_are_imported():
    benches = {name.removeprefix("bench."): where for name, (where, _) in VERBS.items() if name.startswith("bench.")}
    assert set(benches) >= {"core", "parse", "freshness", "throughput", "online-read", "point-in-time", "serve"}
    program = "from headrace.cli import cli; cli(['bench', '--help'], prog_name='headrace')"
    help_text = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert [name for name in benches if f"  {name} " not in help_text] == []
    assert cli.get_command(None, "bench").get_command(None, "core") is core


def test_the_bench_of_parsing_prints_rates_of_every_reader_and_of_ours(monkeypatch):
    monkeypatch.setattr("headrace.bench.core.on_one_processor", lambda: None)
    result = run("bench", "parse", "--events", "300", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["bench"], report["events"]) == ("parse", 300)
    assert set(report["machine"]) == {"cpu", "cores", "python"}
    assert set(report["ours"]["per_s"]) == {"good", "one_percent_bad", "exact_path_only"}
    assert set(report["peer"]["per_s"]) == {"polars.read_ndjson", "pyarrow.json", "msgspec", "json.loads"}
    assert min(*report["ours"]["per_s"].values(), *report["peer"]["per_s"].values(), report["ratio"]) > 0
    assert "msgspec" in run("bench", "parse", "--events", "300").stdout


@pytest.mark.parametrize("arguments", [("--seconds", "39"), ("--rate", "5000"), ("--rate", "0")])
def test_what_is_too_short_for_three_commits_or_too_much_is_asked_wrongly(arguments):
    result = run("bench", "freshness", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert arguments[0] in result.stderr


@pytest.mark.parametrize("verb", ["alerts", "freshness", "own-clicks", "throughput"])
def test_made_up_events_go_to_nobodys_cluster_and_the_bench_that_would_send_them_says_so(verb, monkeypatch):
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "kafka.example:9092")
    result = run("bench", verb)
    assert result.exit_code == 2
    assert f"bench {verb} requires no kafka.bootstrap_servers" in result.stderr


def test_its_broker_is_beside_the_projects_and_the_rest_is_as_set():
    settings = Settings.model_validate({"broker": {"port": 9092, "heap_mb": 256}, "stream": {"trigger_ms": 50}})
    ours = own_broker(Project(Path(), settings), "bench freshness").settings
    assert (ours.broker.port, ours.broker.heap_mb, ours.stream) == (0, 256, settings.stream)


def test_a_sampled_event_is_a_view_by_a_user_whom_no_other_event_has():
    first, second = sampled(events(7), 0), sampled(events(8), 7)
    users = first["user_id"].to_pylist() + second["user_id"].to_pylist()
    kinds = first["event_type"].to_pylist() + second["event_type"].to_pylist()
    own = [number for number, user in enumerate(users) if user.startswith(SAMPLED_USER)]
    assert own == list(range(0, 15, SAMPLED))
    assert len({users[number] for number in own}) == len(own)
    assert [number for number, kind in enumerate(kinds) if kind == "view"] == own
    assert users[1] == "u"
    assert first["event_id"].to_pylist() == events(7)["event_id"].to_pylist()


def test_a_user_waits_until_a_read_shows_its_event_and_then_has_an_age(rows, watch):
    watch.acknowledged("a")
    watch.look()
    assert (watch.waiting, watch.ages_ms) == (1, [])
    build(rows, 1, view_of("a"))
    watch.look()
    assert watch.waiting == 0
    assert [age > 0 for age in watch.ages_ms] == [True]


def test_a_row_that_does_not_show_the_event_is_not_enough(rows, watch):
    build(rows, 1, view_of("a", value=0))
    watch.acknowledged("a")
    watch.look()
    assert (watch.waiting, watch.ages_ms) == (1, [])


def test_one_who_is_not_seen_yet_does_not_hide_another(rows, watch):
    build(rows, 1, view_of("b"))
    for user in "abc":
        watch.acknowledged(user)
    watch.look()
    assert (watch.waiting, len(watch.ages_ms)) == (2, 1)


def test_a_watch_that_nobody_is_waiting_for_reads_nothing():
    class Unreadable:
        def read(self, view: str, keys: pa.Array, /):
            raise AssertionError(view)

    Watch(Unreadable(), VIEW, SHOWS).look()


def test_a_watch_ends_when_it_is_told(watch):
    stop = threading.Event()
    stop.set()
    watch.until(stop)


def test_commits_are_counted_in_the_tables_log(tmp_path: Path):
    from deltalake import write_deltalake

    assert commits(tmp_path / "activity") == 0
    for _ in range(2):
        write_deltalake(tmp_path / "activity", pa.table({"x": [1]}), mode="append")
    assert commits(tmp_path / "activity") == 2


def test_ages_are_told_by_median_99th_percentile_and_largest():
    assert ages_of([float(age) for age in range(101)]) == {"p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 100.0}


def test_the_text_says_what_the_json_says():
    ours = {"p50_ms": 220.4, "p99_ms": 444.9, "max_ms": 513.6, "events": 1588, "sent": 7938}
    ours |= {"rate": 198.4, "seconds": 40.0, "archive_commits": 4}
    text = "\n".join(text for _, text in details({"ours": ours}))
    assert "p50 220 ms, p99 445 ms, largest 514 ms" in text
    assert "1,588 events of 7,938" in text
    assert "4 commits meanwhile" in text
