"""Scores again events that a model failed on, by the features as they were just before each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.definitions import FeatureRepo
from features.errors import StoreError
from features.events import event_schema
from models.event_champion import EventAlias
from models.event_model import EventModelColumns, LoadedEventModel, decide
from streaming.dead_letters import DeadLetter, send_receipts
from streaming.incidents import Incidents, incidents_file
from streaming.kafka import EventProducer
from streaming.scoring.topics import DecisionTopics, problems_topic, scored_streams


def rescored(letters: Sequence[DeadLetter], columns: EventModelColumns, loaded: LoadedEventModel) -> pa.Table:
    """The decisions about the events of the letters by this version, on the inputs in the letters."""
    failed = [json.loads(letter.value or b"{}") for letter in letters]
    events = [json.loads(decision["event"]) for decision in failed]
    inputs = [json.loads(decision["inputs"]) for decision in failed]
    matrix = [[np.nan if row[name] is None else row[name] for name in columns.model.needed] for row in inputs]
    table = pa.Table.from_pylist(events, schema=event_schema(columns.model.stream))
    return decide(columns, loaded, table, np.array(matrix, dtype=np.float64))


def rescore(
    letters: Sequence[DeadLetter],
    repo: FeatureRepo,
    uri: str,
    producer: EventProducer,
    topics: tuple[str, str],
    checkpoints: Path,
) -> int:
    """Score the letters of the repo's models, send the decisions, and mark the letters as replayed; returns how many.

    Alerts of rules were sent when the events were refused; those of models are sent now. An event that the model
    fails on again stays as it is.

    Args:
        uri: of the registry of models.
        topics: of scores and of alerts.
        checkpoints: of the home, which has the incidents that alert once.

    Raises:
        StoreError: a model has no champion that can score.
        DeadLetterError: Kafka did not acknowledge it all.
    """
    count = 0
    for name, of_model in letters_by_model(letters, repo, topics[0]).items():
        columns = EventModelColumns.of(repo, repo.models[name])
        champion = EventAlias(uri, columns)
        loaded = champion.latest()
        if loaded is None:
            got = champion.problem or "none"
            raise StoreError(f"event model '{name}'", "a champion that scores", got, f"Run 'headrace train {name}'.")
        incidents = Incidents(columns.model, incidents_file(checkpoints, name))
        decided = incidents.marked(rescored(of_model, columns, loaded))
        scored = np.asarray(decided["score"].is_valid())
        sink = DecisionTopics(producer, *topics, scored_streams(repo))
        sink.send_rescored(decided.filter(pa.array(scored)), columns.model.scored_rules)
        done = [letter for letter, is_scored in zip(of_model, scored.tolist(), strict=True) if is_scored]
        incidents.keep(decided)
        send_receipts(producer, problems_topic(topics[0], name), done)
        count += len(done)
    return count


def letters_by_model(
    letters: Sequence[DeadLetter], repo: FeatureRepo, scores: str
) -> Mapping[str, Sequence[DeadLetter]]:
    """Model → the letters of the events that it failed on."""
    topics = {problems_topic(scores, name): name for name in repo.models}
    by_model: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        if letter.place[0] in topics:
            by_model.setdefault(topics[letter.place[0]], []).append(letter)
    return by_model
