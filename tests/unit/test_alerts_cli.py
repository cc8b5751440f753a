"""`headrace alerts tail` and `headrace bench alerts`: what they make of the messages, without a broker."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from features.definitions import PARTITIONS_OF_A_TOPIC
from features.definitions.repo import load_repo
from headrace.bench.loop.alerts import details, record_of
from headrace.cli import cli
from headrace.commands.stream import alerts as alerts_command
from headrace.commands.stream.alerts import each_once, line_of

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
REASON = {"feature": "amount", "value": 512.5, "usual": 40.25, "effect": 0.4}
BY_MODEL = {
    "alert_id": "p1/model:cards",
    "source": "model:cards",
    "event_id": "p1",
    "version": "3",
    "score": 0.91234,
    "threshold": 0.5,
    "reasons": [REASON, {**REASON, "feature": "hour", "value": None, "usual": None}],
}
BY_RULE = {**BY_MODEL, "alert_id": "p1/rule:velocity", "source": "rule:velocity", "score": None, "reasons": []}


def test_an_alert_that_was_sent_again_comes_once_and_what_is_no_alert_does_not() -> None:
    values = [json.dumps(one).encode() for one in (BY_MODEL, BY_RULE, BY_MODEL)]
    assert list(each_once(iter([*values, None, b"{}"]))) == [BY_MODEL, BY_RULE]


def test_alerts_of_long_ago_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(alerts_command, "REMEMBERED", 2)
    names = ["a", "b", "c", "c", "a"]
    assert [one["alert_id"] for one in each_once(json.dumps({"alert_id": name}).encode() for name in names)] == [
        *("a", "b", "c", "a")
    ]


def test_a_line_says_who_alerts_about_what_how_sure_and_why() -> None:
    assert (
        line_of(BY_MODEL) == "p1  model:cards 0.912 (from 0.500, version 3)  amount 512.5 (usual 40.25), hour nothing"
    )
    assert line_of(BY_RULE) == "p1  rule:velocity"


def test_an_alerts_event_is_found_where_it_stands_in_its_topic() -> None:
    stream = REPO.streams["transactions"]
    assert record_of({"partition": 1, "offset": 7}, stream) == ("cards.online", 1, 7)
    assert record_of({"partition": PARTITIONS_OF_A_TOPIC, "offset": 9}, stream) == ("cards.atm", 0, 9)


def test_the_benchs_text_has_its_figures() -> None:
    ours = {"p50_ms": 120.4, "p99_ms": 900.0, "max_ms": 1100.0, "alerts": 2_345, "by_model": 12}
    lines = details({"ours": {**ours, "rate": 200.0, "seconds": 40.0, "sent": 8_000}})
    text = "\n".join(text for _, text in lines)
    assert "p50 120 ms, p99 900 ms" in text
    assert "2,345 alerts (12 by the model)" in text


def test_both_verbs_have_help_with_an_example() -> None:
    for verb in (["alerts", "tail"], ["bench", "alerts"]):
        said = CliRunner().invoke(cli, [*verb, "--help"], prog_name="headrace")
        assert said.exit_code == 0
        assert f"headrace {' '.join(verb)}" in said.output
