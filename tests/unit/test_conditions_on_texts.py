"""Conditions on texts and on nulls: what they mean, are called and are described as, and that they are kept."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from features.checks.naive_aggregations import meets
from features.definitions import (
    Count,
    Entity,
    FeatureSet,
    FeatureView,
    Stream,
    above,
    any_of,
    is_null,
    matches,
    not_null,
    other_than,
    starts_with,
    views_of_text,
    views_text,
)
from features.definitions.describe import condition_text
from features.errors import DefinitionError
from features.events import EventColumns, event_schema

KINDS = ["view", "view_end", "cart", None, "", "Ä-Kauf"]
CONDITIONS: dict[str, tuple[Any, list[str | None], str]] = {
    "not_view": (other_than("view"), ["view_end", "cart", "", "Ä-Kauf"], "kind is not view"),
    "kind_view": (starts_with("view"), ["view", "view_end"], "kind starts with view"),
    "without_kind": (is_null(), [None], "kind is null"),
    "with_kind": (not_null(), ["view", "view_end", "cart", "", "Ä-Kauf"], "kind is not null"),
    "cart_or_without_kind": (any_of("cart", is_null()), ["cart", None], "(kind is cart or kind is null)"),
    "view_or_cart_or_not_view": (
        any_of(["view", "cart"], other_than("view")),
        ["view", "view_end", "cart", "", "Ä-Kauf"],
        "(kind is view or cart or kind is not view)",
    ),
}
STREAM = Stream("s", topic="s", fields={"user": "string", "kind": "string", "price": "float64"})
USER = Entity("user", {"user": "string"})


def view_of(where: dict[str, Any]) -> FeatureView:
    return FeatureView("v", sets=[FeatureSet(USER, STREAM, [Count()], ["1h"], where=where)])


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_is_met_alike_in_tables_events_and_the_oracle(name: str) -> None:
    condition, expected, text = CONDITIONS[name]
    view = view_of({"kind": condition})
    (checked,) = view.sets[0].filter.values()
    rows = [{"event_time": 0, "known_at": 0, "partition": 0, "offset": n, "kind": kind} for n, kind in enumerate(KINDS)]
    events = pa.Table.from_pylist(rows, schema=event_schema(STREAM))
    met = matches(events, view.sets[0].filter).tolist()
    assert [kind for kind, one in zip(KINDS, met, strict=True) if one] == expected
    assert EventColumns(events, STREAM).matches((("kind", checked),)).tolist() == met
    assert [meets(kind, checked) for kind in KINDS] == met
    assert (view.names, condition_text("kind", checked)) == ((f"user_{name}_count_1h",), text)
    (again,) = views_of_text(views_text([view]))
    assert (again, again.schema_hash) == (view, view.schema_hash)


def test_events_without_any_text_may_meet_is_null() -> None:
    rows = [{"event_time": 0, "known_at": 0, "partition": 0, "offset": n} for n in range(3)]
    columns = EventColumns(pa.Table.from_pylist(rows, schema=event_schema(STREAM)), STREAM)
    assert columns.matches((("kind", is_null()),)).tolist() == [True] * 3
    assert columns.matches((("kind", other_than("x")),)).tolist() == [False] * 3


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"price": starts_with("1")}, "a condition on float64"),
        ({"price": other_than("1")}, "a condition on float64"),
        ({"kind": any_of("view", above(1))}, "a condition on string"),
        ({"kind": any_of()}, "any_of"),
        ({"kind": any_of([])}, "any_of"),
        ({"kind": starts_with(1)}, "any_of"),  # type: ignore[arg-type]
    ],
)
def test_a_condition_that_a_column_cannot_meet_is_refused(where: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        view_of(where)
