"""An alert's id is its own over all streams, models and rules, and the same whenever its event is decided again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from told_alerts import as_read

from features.definitions.repo import load_repo
from features.errors import DefinitionError
from models.event_model.decisions import DECISIONS, alerts_of
from streaming.alerts.sinks.delta import DeltaSink

CARDS = Path(__file__).parents[2] / "feature_repo" / "cards.py"

IDENTITY = ("stream", "event_id", "known_at", "model", "source")


def decision(**given: Any) -> dict[str, Any]:
    """A decision whose event meets the rule 'unusual', with what is given in the place of the usual."""
    usual = {"stream": "payments", "event_id": "17", "known_at": 1_000, "model": "cards", "rules": ["unusual"]}
    values = {"version": "1", "event_time": 900, "partition": 0, "offset": 4, "score": 0.1, "threshold": 0.5}
    decided = {**usual, **values, "reasons": "[]", **given}
    return {**decided, "event": json.dumps({"known_at": decided.pop("known_at")})}


def ids(*decisions: dict[str, Any]) -> list[str]:
    return [one["alert_id"] for one in alerts_of(pa.Table.from_pylist(list(decisions), DECISIONS))]


def test_two_models_with_a_rule_of_one_name_alert_on_events_of_one_id(tmp_path: Path) -> None:
    decisions = [decision(), decision(model="refunds", stream="refunds"), decision(model="refunds")]
    alerts = alerts_of(pa.Table.from_pylist(decisions, DECISIONS))
    sink = DeltaSink(tmp_path / "alerts", 0.0, lambda: 1)
    for alert in as_read(alerts):
        assert sink.deliver([alert]) == {}
    assert DeltaTable(tmp_path / "alerts").to_pyarrow_table().num_rows == 3


@pytest.mark.parametrize("other", [{"known_at": 90_000_000}, {"event_id": "18"}, {"rules": ["rare"]}])
def test_another_event_or_rule_has_another_id(other: dict[str, Any]) -> None:
    """An event_id may come again: after the dedupe horizon, or as topic-partition-offset of a topic made anew."""
    assert ids(decision()) != ids(decision(**other))


def test_an_event_that_is_decided_again_by_another_version_has_the_same_id() -> None:
    again = {"version": "2", "score": 0.2, "threshold": 0.4, "reasons": json.dumps([{"feature": "amount"}])}
    assert ids(decision()) == ids(decision(**again)) == ["payments/17/1000/cards/rule:unusual"]
    assert ids(decision(score=0.9)) == ids(decision(score=0.8, version="2"))


def test_what_was_decided_before_decisions_named_their_stream_keeps_its_id() -> None:
    older = pa.Table.from_pylist([decision(stream=None, score=0.9)], DECISIONS)
    expected = ["17/model:cards", "17/rule:unusual"]
    assert [one["alert_id"] for one in alerts_of(older)] == expected
    assert [one["alert_id"] for one in alerts_of(older.drop_columns(["stream"]))] == expected


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,3}", fullmatch=True)

SOURCES = st.builds(
    dict,
    stream=NAMES,
    event_id=st.text("a/:1", min_size=1, max_size=8),
    known_at=st.integers(1, 99),
    model=NAMES,
    rules=NAMES.map(lambda name: [name]),
)


@given(st.lists(SOURCES, min_size=2, max_size=6))
def test_ids_are_equal_only_where_all_parts_are(parts: list[dict[str, Any]]) -> None:
    """Event ids are whatever a producer sends, slashes and names of rules included."""
    distinct = {(*(one[name] for name in IDENTITY[:4]), one["rules"][0]) for one in parts}
    assert len(set(ids(*(decision(**one) for one in parts)))) == len(distinct)


def test_a_repo_has_no_two_models_of_one_name_and_no_name_with_a_slash(tmp_path: Path) -> None:
    text = CARDS.read_text(encoding="utf-8")
    others = {"twice": 'again = replace(cards, inputs=["amount"])', "slash": 'again = replace(cards, name="a/b")'}
    for name, extra in others.items():
        file = tmp_path / f"{name}.py"
        file.write_text(f"from dataclasses import replace\n{text}\n{extra}\n", encoding="utf-8")
        with pytest.raises(DefinitionError):
            load_repo(file)
