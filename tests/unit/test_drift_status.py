"""What training told of drift, as the status shows it and as a metric."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from headrace.cli import cli
from headrace.metrics import metrics_text
from training.judging.drift import drift_file, drift_line, drift_metrics, read_drift

MINUTE = 60_000
CALM = {"model": "shop", "version": "3", "psi": {"a": 0.08, "b": 0.01}, "alarming": [], "at_ms": 10 * MINUTE}
DRIFTED = {**CALM, "psi": {"a": 0.9, "b": 0.5, "c": 0.4, "d": 0.3, "e": 0.1}, "alarming": ["a", "b", "c", "d"]}


def test_the_line_says_when_it_was_measured_and_what_has_drifted():
    head = "model: shop version 3 · drift measured 5 min ago"
    assert drift_line(CALM, 15 * MINUTE) == f"{head} · none (PSI at most 0.08)"
    named = "drifted: a 0.90, b 0.50, c 0.40 and 1 more. Train anew: headrace train"
    assert drift_line(DRIFTED, 15 * MINUTE) == f"{head} · {named}"


def samples(*reports: dict) -> dict[tuple[str, ...], float]:
    """The values of the metrics by name and labels, in the order of the text."""
    families = text_string_to_metric_families(metrics_text(drift_metrics(reports)))
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_the_alarm_is_a_metric_and_so_is_each_input_that_alarms():
    of = ("shop", "3")
    calm = {("headrace_model_drift_alarm", *of): 0, ("headrace_model_drift_psi_max", *of): 0.08}
    assert samples(CALM) == calm
    found = samples(DRIFTED)
    assert list(found.values()) == [1, 0.9, 0.9, 0.5, 0.4, 0.3]
    assert list(found)[:2] == list(calm)
    assert 'headrace_model_drift_psi{input="a",model="shop",version="3"} 0.9' in metrics_text(drift_metrics([DRIFTED]))
    assert samples() == {}


def test_the_metrics_of_several_models_are_one_text():
    found = samples(CALM, {**DRIFTED, "model": 'a "card"', "version": "1"})
    assert found["headrace_model_drift_alarm", 'a "card"', "1"] == 1
    assert found["headrace_model_drift_alarm", "shop", "3"] == 0


def test_the_status_shows_it_where_it_was_measured(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ".headrace"
    assert read_drift(home) is None
    assert "drift" not in CliRunner().invoke(cli, ["status"]).stdout
    drift_file(home).parent.mkdir(parents=True)
    drift_file(home).write_text(json.dumps(DRIFTED))
    assert "drifted: a 0.90" in CliRunner().invoke(cli, ["status"]).stdout
    assert "headrace_model_drift_alarm" in CliRunner().invoke(cli, ["status", "--metrics"]).stdout
    assert json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)["drift"] == DRIFTED
