"""Streams of one field or more with casts and maps, and their messages."""

from __future__ import annotations

from typing import Any

from every_path import Row
from hypothesis import HealthCheck, settings

from features.definitions import (
    Field,
    NumberText,
    Stream,
)

AT = 1_714_557_600_000
SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GERMAN = NumberText(decimal=",", thousands=".", currency="€")


def stream_of(**fields: Field) -> Stream:
    return Stream("sales", topic="sales", event_id="id", event_time="at", fields=fields)


def rows_of(values: list[Any]) -> list[Row]:
    return [{"id": f"e{n}", "at": AT, "value": value} for n, value in enumerate(values)]
