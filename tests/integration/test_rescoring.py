"""Events that a model failed on, in a real broker's dead letters: the next champion is asked about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cards_champion import make_champion, quick_model
from cards_project import Project
from small_cards import simulated

from features.arrays import Floats
from models.event_model.artefact import LoadedEventModel
from models.event_model.columns import EventModelColumns
from models.event_model.decisions import decide
from streaming.dead_letters import read_dead_letters
from streaming.kafka.consumer import read_topic
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_named_topics
from streaming.scoring.topics import DecisionTopics

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


class Broken:
    """A classifier that raises."""

    classes_ = np.array([False, True])

    def predict_proba(self, inputs: Floats) -> Floats:
        raise ValueError("no such tree")


def values(project: Project, topic: str) -> list[dict[str, Any]]:
    return [json.loads(one.value or b"{}") for one in read_topic(project.bootstrap, topic)]


def test_what_a_model_failed_on_is_scored_by_the_next_champion_as_it_would_have_been(
    tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str
) -> None:
    project = Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name)
    scores, alerts = f"{unique_name}.scores", f"{unique_name}.alerts"
    settings = project.root / "settings.toml"
    text = settings.read_text(encoding="utf-8") + f"scores_topic = '{scores}'\nalerts_topic = '{alerts}'\n"
    settings.write_text(text, encoding="utf-8")
    ensure_named_topics(kafka, [scores, alerts], dead_letters_of=[f"{scores}.cards"])
    asked = EventModelColumns.of(project.repo, project.repo.models["cards"])
    model = quick_model(project.repo, 0.0)
    events = simulated(project.repo, days=2, customers=10)["transactions"].slice(0, 30)
    matrix = np.random.default_rng(3).uniform(0, 50, (30, len(asked.model.needed)))
    matrix[::3, 5] = np.nan
    broken = decide(asked, LoadedEventModel("1", replace(model, classifier=Broken())), events, matrix)
    DecisionTopics(EventProducer(kafka), scores, alerts)(broken)
    assert values(project, scores) == []
    told_by_rules = values(project, alerts)
    make_champion(project.root, model)
    assert project.run("deadletters", "replay", "--topic", f"{scores}.cards") == {"replayed": 30, "archived": 0}
    right = decide(asked, LoadedEventModel("1", model), events, matrix)
    found = {one["event_id"]: one["score"] for one in values(project, scores)}
    known_at = dict(zip(*(events[name].to_pylist() for name in ("event_id", "known_at")), strict=True))
    assert found == dict(zip(right["event_id"].to_pylist(), right["score"].to_pylist(), strict=True))
    assert {one["source"] for one in told_by_rules} <= {"rule:velocity", "rule:above_p99", "rule:elsewhere"}
    assert sorted(one["alert_id"] for one in values(project, alerts) if one["source"] == "model:cards") == sorted(
        f"transactions/{name}/{known_at[name]}/cards/model:cards" for name in found
    )
    assert len(values(project, alerts)) == len(told_by_rules) + 30
    assert all(letter.is_replayed for letter in read_dead_letters(kafka, f"{scores}.cards"))
    assert project.run("deadletters", "replay", "--topic", f"{scores}.cards") == {"replayed": 0, "archived": 0}
