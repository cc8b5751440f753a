"""Events that a model failed on, put to it again with what was known just before each of them then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from features.definitions import FeatureRepo
from features.errors import StoreError
from features.events import event_schema
from models.event_champion import EventAlias
from models.event_model import EventColumnsOfModel, LoadedEventModel, decide
from streaming.dead_letters import DeadLetter, send_receipts
from streaming.kafka import EventProducer
from streaming.scoring.topics import DecisionTopics, problems_topic


def decided_again(letters: Sequence[DeadLetter], asked: EventColumnsOfModel, loaded: LoadedEventModel) -> pa.Table:
    """The decisions about the events of the letters by this version, on the inputs that stand in the letters."""
    told = [json.loads(letter.value or b"{}") for letter in letters]
    events = [json.loads(one["event"]) for one in told]
    inputs = [json.loads(one["inputs"]) for one in told]
    matrix = [[np.nan if one[name] is None else one[name] for name in asked.model.needed] for one in inputs]
    table = pa.Table.from_pylist(events, schema=event_schema(asked.model.stream))
    return decide(asked, loaded, table, np.array(matrix, dtype=np.float64))


def ask_again(
    letters: Sequence[DeadLetter], repo: FeatureRepo, uri: str, producer: EventProducer, topics: tuple[str, str]
) -> int:
    """The letters of the repo's models have been scored and told, and are marked as replayed; returns how many.

    What the rules said of them was told when they were refused; a model's alert comes now. An event that the model
    fails on again stays as it is.

    Args:
        uri: of the registry of models.
        topics: of scores and of alerts.

    Raises:
        StoreError: a model has no champion that can be asked.
        DeadLetterError: Kafka did not acknowledge it all.
    """
    count = 0
    for name, several in letters_by_model(letters, repo, topics[0]).items():
        asked = EventColumnsOfModel.of(repo, repo.models[name])
        champion = EventAlias(uri, asked)
        loaded = champion.latest()
        if loaded is None:
            got = champion.problem or "none"
            raise StoreError(f"event model '{name}'", "a champion to ask", got, f"Run 'headrace train {name}'.")
        decided = decided_again(several, asked, loaded)
        scored = np.asarray(decided["score"].is_valid())
        DecisionTopics(producer, *topics).tell_again(decided.filter(pa.array(scored)))
        done = [letter for letter, is_scored in zip(several, scored.tolist(), strict=True) if is_scored]
        send_receipts(producer, problems_topic(topics[0], name), done)
        count += len(done)
    return count


def letters_by_model(
    letters: Sequence[DeadLetter], repo: FeatureRepo, scores: str
) -> Mapping[str, Sequence[DeadLetter]]:
    """Model → the letters that are events which it failed on."""
    topics = {problems_topic(scores, name): name for name in repo.models}
    found: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        if letter.place[0] in topics:
            found.setdefault(topics[letter.place[0]], []).append(letter)
    return found
