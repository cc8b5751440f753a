"""Alerts of who is forgotten go from PostgreSQL's table, and others stay."""

from __future__ import annotations

import psycopg
import pytest
from postgres_server import running_postgres

from features.definitions import Entity
from features.errors import StoreError
from features.machine import free_port
from streaming.forget.alerts_database import forget_alerts
from streaming.forget.subject import Subject

pytestmark = pytest.mark.integration

GONE = Subject(Entity("card", keys={"user_id": "string", "shop": "int64"}), {"user_id": "it's u1", "shop": 7})

EVENTS = (
    '{"user_id": "it\'s u1", "shop": 7}',
    '{"user_id": "it\'s u1", "shop": 8}',
    '{"user_id": "u2", "shop": 7}',
    '{"shop": 7}',
)


def test_alerts_whose_event_has_the_whole_key_go() -> None:
    with running_postgres() as server:
        with psycopg.connect(server.conninfo) as connection:
            connection.execute('CREATE TABLE "my alerts" (alert_id text, event jsonb)')
            for number, event in enumerate(EVENTS):
                connection.execute('INSERT INTO "my alerts" VALUES (%s, %s)', (str(number), event))
        asked = server.conninfo, "", "my alerts", GONE
        assert forget_alerts(*asked, dry_run=True) == 1
        assert forget_alerts(*asked, dry_run=False) == 1
        assert forget_alerts(*asked, dry_run=False) == 0
        assert forget_alerts(server.conninfo, "", "public.none", GONE, dry_run=False) == 0
        with psycopg.connect(server.conninfo) as connection:
            left = connection.execute('SELECT alert_id FROM "my alerts" ORDER BY 1').fetchall()
        assert left == [("1",), ("2",), ("3",)]


def test_a_database_that_is_away_is_an_error_without_its_password() -> None:
    with pytest.raises(StoreError, match="PostgreSQL requires") as error:
        forget_alerts(f"host=127.0.0.1 port={free_port()}", "Hush-4711-zyx", "alerts", GONE, dry_run=False)
    assert "Hush" not in str(error.value)
