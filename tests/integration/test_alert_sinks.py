"""Each sink of alerts by itself, against the real thing: what it holds, what it refuses, and what it says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hook_server import Hook, running_hook
from postgres_server import PostgresServer, running_postgres
from told_alerts import NOON_MS, as_read, ids, told

from streaming.alerts.sinks.delta import SCHEMA, DeltaSink
from streaming.alerts.sinks.port import Alert, SinkError
from streaming.alerts.sinks.postgres import COLUMNS, PostgresSink
from streaming.alerts.sinks.webhook import GIVE_UP_AFTER_S, LONGEST_AFTER_S, WebhookSink, retry_after_s

pytestmark = pytest.mark.integration
PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as found:
        yield found


@pytest.fixture
def table(server: PostgresServer, unique_name: str) -> str:
    return unique_name.replace("-", "_")


@pytest.fixture
def postgres(server: PostgresServer, table: str) -> Iterator[PostgresSink]:
    sink = PostgresSink(server.conninfo, "", table)
    yield sink
    sink.close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with running_hook() as found:
        yield found


@pytest.fixture
def webhook(hook: Hook) -> Iterator[WebhookSink]:
    sink = WebhookSink(hook.url, PASSWORD, 5.0)
    yield sink
    sink.close()


def with_event(alert: Alert, **changed: object) -> Alert:
    text = json.dumps({**json.loads(alert.record.value or b""), **changed}).encode()
    return as_read([json.loads(text)])[0]


# --- the Delta table ------------------------------------------------------------------------------------------------


def delta_rows(path: Path) -> list[dict]:
    return DeltaTable(path).to_pyarrow_table().sort_by("event_time").to_pylist()


def test_the_table_has_each_alert_once_with_all_that_it_says(tmp_path: Path) -> None:
    sink = DeltaSink(tmp_path / "alerts", 0.0, lambda: 77)
    alerts = told(6)
    assert sink.deliver(as_read([*alerts[:4], alerts[0]])) == {}
    assert sink.deliver(as_read(alerts[2:])) == {}
    rows = delta_rows(tmp_path / "alerts")
    assert [{**one, "event": json.loads(one["event"])} for one in rows] == [
        {**one, "delivered_at": 77} for one in alerts
    ]
    assert pa.schema(DeltaTable(tmp_path / "alerts").schema().to_arrow()).names == SCHEMA.names


def test_a_folder_that_takes_no_table_is_an_error_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SinkError, match="a commit"):
        DeltaSink(tmp_path / "file" / "alerts", 0.0, lambda: 77).deliver(as_read(told(1)))


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def test_postgres_has_each_alert_once_in_a_table_that_was_made_for_it(server, postgres, table) -> None:
    alerts = told(5)
    assert postgres.deliver(as_read([*alerts[:3], alerts[0]])) == {}
    assert postgres.deliver(as_read(alerts)) == {}
    rows = server.ask(f"SELECT * FROM {table} ORDER BY event_time")
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert [ids([one]) for one in found] == [ids([one]) for one in alerts]
    first = found[0]
    assert {name: first[name] for name in ("score", "reasons", "event")} == {
        name: alerts[0][name] for name in ("score", "reasons", "event")
    }
    assert first["event_time"] == datetime.fromtimestamp(NOON_MS / 1_000, UTC)


def test_a_table_in_another_schema_may_have_columns_of_its_owner(server, table) -> None:
    server.ask(f"CREATE SCHEMA {table}")
    first = PostgresSink(server.conninfo, "", f"{table}.told")
    first.deliver(as_read(told(1)))
    server.ask(f"ALTER TABLE {table}.told ADD COLUMN handled_by text, ADD COLUMN state text NOT NULL DEFAULT 'new'")
    second = PostgresSink(server.conninfo, "", f"{table}.told")
    second.deliver(as_read(told(2)))
    assert server.ask(f"SELECT count(*), max(state) FROM {table}.told") == [(2, "new")]
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("alert_id text PRIMARY KEY, score text", r"got score text|no source"),
        (", ".join(f"{name} {kind}" for name, kind in COLUMNS.items()) + ", region text NOT NULL", "region"),
        (", ".join(f"{name} {kind}" for name, kind in COLUMNS.items()), "key, or unique"),
    ],
)
def test_a_table_of_other_columns_is_an_error_that_says_which(server, postgres, table, columns: str, said: str) -> None:
    server.ask(f"CREATE TABLE {table} ({columns})")
    with pytest.raises(SinkError, match=said) as caught:
        postgres.deliver(as_read(told(1)))
    assert "alerts.postgres_table" in caught.value.next_step
    assert server.ask(f"SELECT count(*) FROM {table}") == [(0,)]
    server.ask(f"DROP TABLE {table}")
    assert postgres.deliver(as_read(told(1))) == {}


def test_an_alert_that_cannot_be_a_row_is_refused_and_the_others_are_rows(server, postgres, table) -> None:
    alerts = as_read(told(4))
    alerts[1] = with_event(alerts[1], event={"place": "nul \0"})
    alerts[3] = with_event(alerts[3], event_time=2**62)
    refused = postgres.deliver(alerts)
    assert set(refused) == {1, 3}
    assert all(reason.startswith("postgres_refused: ") for reason in refused.values())
    assert server.ask(f"SELECT count(*) FROM {table}") == [(2,)]


def test_no_word_of_the_password_is_in_what_is_said_of_a_server_that_refuses_it(server) -> None:
    server.ask("CREATE ROLE guarded LOGIN")
    conninfo = server.conninfo.replace("user=postgres", "user=guarded").replace("dbname=postgres", "dbname=nowhere")
    with pytest.raises(SinkError, match="nowhere") as caught:
        PostgresSink(conninfo, PASSWORD, "alerts").deliver(as_read(told(1)))
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_role_that_may_only_insert_and_look_needs_no_more(server, postgres, table) -> None:
    postgres.deliver(as_read(told(1)))
    server.ask(f"CREATE ROLE {table}_writer LOGIN; GRANT SELECT, INSERT ON {table} TO {table}_writer")
    sink = PostgresSink(server.conninfo.replace("user=postgres", f"user={table}_writer"), "", table)
    assert sink.deliver(as_read(told(3))) == {}
    sink.close()
    assert server.ask(f"SELECT count(*) FROM {table}") == [(3,)]


def test_a_connection_that_was_cut_is_made_anew_for_the_next_try(server, postgres, table) -> None:
    postgres.deliver(as_read(told(1)))
    server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headrace alerts'")
    with pytest.raises(SinkError):
        postgres.deliver(as_read(told(2)))
    assert postgres.deliver(as_read(told(2))) == {}
    assert server.ask(f"SELECT count(*) FROM {table}") == [(2,)]


def test_rows_of_the_table_are_written_whatever_its_name(server) -> None:
    sink = PostgresSink(server.conninfo, "", 'Odd "name"; --')
    assert sink.deliver(as_read(told(1))) == {}
    assert psycopg.sql.Identifier('Odd "name"; --').as_string() == '"Odd ""name""; --"'
    assert server.ask('SELECT count(*) FROM "Odd ""name""; --"') == [(1,)]
    sink.close()


# --- the webhook ----------------------------------------------------------------------------------------------------


def test_a_webhook_gets_what_the_topic_has_with_its_id_and_the_token(hook: Hook, webhook: WebhookSink) -> None:
    alerts = told(2)
    assert webhook.deliver(as_read(alerts)) == {}
    assert [one.body for one in hook.requests] == alerts
    expected = [f"transactions/t-0/{NOON_MS}/cards/model:cards", f"transactions/t-1/{NOON_MS}/cards/rule:velocity"]
    assert [one.key for one in hook.requests] == ids(alerts) == expected
    assert hook.requests[0].headers["Authorization"] == f"Bearer {PASSWORD}"
    assert hook.requests[0].headers["Content-Type"] == "application/json"


def test_an_id_of_any_letters_is_a_header(hook: Hook, webhook: WebhookSink) -> None:
    alerts = [{**one, "alert_id": f"日本\r\nX-Forged: 1%/{place}"} for place, one in enumerate(told(2))]
    assert webhook.deliver(as_read(alerts)) == {}
    assert len(set(hook.taken())) == 2
    assert "X-Forged" not in hook.requests[0].headers


@pytest.mark.parametrize(
    ("status", "headers", "after"), [(503, {}, None), (429, {"Retry-After": "7"}, 7.0), (500, {}, None)]
)
def test_what_may_be_otherwise_later_is_asked_again(
    hook, webhook, status: int, headers: dict, after: float | None
) -> None:
    hook.answers = [(status, headers)]
    with pytest.raises(SinkError, match=str(status)) as caught:
        webhook.deliver(as_read(told(1)))
    assert caught.value.after_s == after
    assert webhook.deliver(as_read(told(1))) == {}
    assert hook.taken() == ids(told(1))


@pytest.mark.parametrize("status", [400, 404, 409, 410, 413, 422])
def test_an_alert_that_the_receiver_refuses_is_refused_with_its_status(hook, webhook, status: int) -> None:
    hook.answers = [(status, {})]
    assert webhook.deliver(as_read(told(2))) == {0: f"webhook_refused: {status}"}
    assert hook.taken() == ids(told(2)[1:])


@pytest.mark.parametrize("status", [301, 401, 403])
def test_what_is_wrong_with_us_refuses_no_alert(hook, webhook, status: int) -> None:
    hook.answers = [(status, {"Location": "http://127.0.0.1:9/elsewhere"})]
    with pytest.raises(SinkError, match="token"):
        webhook.deliver(as_read(told(1)))


def test_an_alert_that_a_receiver_fails_on_for_a_day_gives_way_to_the_next(hook: Hook) -> None:
    now = [0.0]
    sink = WebhookSink(hook.url, "", 5.0, lambda: now[0])
    (first, second) = as_read(told(2))
    hook.refused = {first.alert_id: 500}
    for at in (0.0, GIVE_UP_AFTER_S):
        now[0] = at
        with pytest.raises(SinkError):
            sink.deliver([first])
    now[0] += 1
    assert sink.deliver([first]) == {0: "webhook_failed: 500, for 24 hours"}
    assert sink.deliver([second]) == {}
    sink.close()


def test_what_is_said_of_a_webhook_names_its_host_alone(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    gone = WebhookSink("http://user:pass@127.0.0.1:9/secret-path?key=abc", PASSWORD, 1.0)
    with caplog.at_level(logging.DEBUG, "httpx"), pytest.raises(SinkError, match=r"127\.0\.0\.1") as caught:
        gone.deliver(as_read(told(1)))
    said = str(caught.value) + caplog.text
    assert not any(secret in said for secret in ("secret-path", "abc", "pass@", PASSWORD))


def test_a_retry_after_is_seconds_or_a_date_and_has_a_bound() -> None:
    now = 1_750_000_000.0
    date = format_datetime(datetime.fromtimestamp(now + 90, UTC), usegmt=True)
    headers = (None, "5", date, "1000000", "soon", "Wed, 21 Oct 2015 07:28:00 GMT")
    assert [retry_after_s(one, now) for one in headers] == [None, 5.0, 90.0, LONGEST_AFTER_S, None, 0.0]


def test_a_sink_keeps_its_name_by_which_its_place_is_known() -> None:
    made = (DeltaSink(Path("x"), 0.0, lambda: 0), PostgresSink("", "", "alerts"), WebhookSink("http://h", "", 1.0))
    assert [one.name for one in made] == ["table", "postgres", "webhook"]
