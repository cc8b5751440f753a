"""Ids that can identify nothing make a record a dead letter, wherever the record comes from."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.definitions import Count, Entity, FeatureRepo, FeatureSet, FeatureView, Stream
from features.events import Parsed, Records, Verdict, from_columns, parse
from features.events.ids import unusable
from features.formats import read_events
from serving.events.verdicts import judge
from streaming.fold.executors import LETTERS, parsed_pieces
from streaming.fold.shares import fold_job, unpacked
from streaming.spark import MESSAGES

NOW = 1_780_000_000_000
VISITS = Stream("visits", "site.visits", {"user_id": "string", "page": "string", "shop": "int64"}, event_id="event_id")
VIEW = FeatureView("user_visits", [FeatureSet(Entity("user", {"user_id": "string"}), VISITS, [Count()], ["1h"])])
REPO = FeatureRepo(Path(), {"user": VIEW.entity}, {"visits": VISITS}, {"user_visits": VIEW})

ABSURD = ["", " ", "\u00a0\u3000", "u\n1", "\x00", "u\x7f", "u\u0085", "u\u2028", "u" * 257, "é" * 129]
USUAL = ["u1", "5", "-5", "a b", " u", "ä" * 128, "u" * 256, "🙂", "a,b=c", "\u00e2", "日本", "\u200b1", "null", "©"]


def identifies(text: str) -> bool:
    """The rule in plain words, a text at a time."""
    controls = any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)
    return 0 < len(text.encode()) <= 256 and bool(text.strip()) and not controls


def event(at: int, **fields: object) -> dict[str, object]:
    return {"event_id": f"e{at}", "event_time": NOW, "user_id": "u1", "page": "/", "shop": 1, **fields}


def of_messages(events: list[dict[str, object]]) -> Parsed:
    values = pa.array([json.dumps(one).encode() for one in events], pa.binary())
    count = len(events)
    places = np.full(count, NOW), np.zeros(count, np.int32), np.arange(count, dtype=np.int64)
    return parse(Records(values, *places), VISITS, keys=REPO.keys_of("visits"))


def test_the_usual_and_the_absurd_are_told_apart():
    assert [identifies(text) for text in ABSURD] == [False] * len(ABSURD)
    assert [identifies(text) for text in USUAL] == [True] * len(USUAL)
    assert unusable(pa.array([*ABSURD, *USUAL])).tolist() == [True] * len(ABSURD) + [False] * len(USUAL)
    for text in [*ABSURD, *USUAL]:
        assert unusable(pa.array([text])).tolist() == [not identifies(text)], repr(text)


@given(st.lists(st.none() | st.text(max_size=6) | st.sampled_from([*ABSURD, *USUAL])), st.integers(0, 3))
@example([None, "u\n"], 1)
def test_a_column_is_judged_as_its_texts_are(texts, start):
    texts = [None if text is None else text.encode(errors="ignore").decode() for text in texts]
    expected = [text is not None and not identifies(text) for text in texts]
    assert unusable(pa.array(texts, pa.string()).slice(start)).tolist() == expected[start:]


@pytest.mark.parametrize("name", ["event_id", "user_id"])
@pytest.mark.parametrize("text", ABSURD)
def test_a_record_without_a_usable_id_is_a_dead_letter_that_names_the_field(name, text):
    parsed = of_messages([event(0), event(1, **{name: text}), event(2)])
    assert parsed.verdicts.tolist() == [Verdict.VALID, Verdict.DEAD_LETTER, Verdict.VALID]
    code = "missing_field" if (name, text) == ("event_id", "") else "bad_id"
    assert parsed.reasons[1].as_py().startswith(f"{code}: field '{name}' requires ")


def test_fields_that_are_no_keys_hold_any_text_and_a_key_may_be_missing():
    events = [event(at, page=text) for at, text in enumerate(ABSURD)] + [event(99, user_id=None)]
    assert not of_messages(events).verdicts.any()


def test_every_path_gives_the_same_verdicts(tmp_path):
    texts = [*ABSURD, *USUAL]
    events = [event(at, user_id=text) for at, text in enumerate(texts)]
    expected = [Verdict.DEAD_LETTER] * len(ABSURD) + [Verdict.VALID] * len(USUAL)
    assert of_messages(events).verdicts.tolist() == expected

    table = pa.Table.from_pylist(events)
    keys = REPO.keys_of("visits")
    assert from_columns(table, VISITS, keys=keys).verdicts.tolist() == expected
    assert judge(events, VISITS, None, NOW, keys=keys).verdicts == expected

    lines = tmp_path / "visits.jsonl"
    lines.write_text("".join(json.dumps(one) + "\n" for one in events))
    ((_, parsed),) = read_events(lines, "jsonl", REPO.streams, REPO.horizon_ms, REPO.keys_of)
    assert parsed.verdicts.tolist() == expected


def test_executors_give_the_same_verdicts():
    events = [event(at, user_id=text) for at, text in enumerate([*ABSURD, *USUAL])]
    messages = [
        {"topic": VISITS.topic, "partition": 0, "offset": at, "timestamp": NOW, "value": json.dumps(one).encode()}
        for at, one in enumerate(events)
    ]
    batch = pa.RecordBatch.from_pylist([{**one, "headers": []} for one in messages], MESSAGES)
    pieces = pa.Table.from_batches(parsed_pieces(fold_job(REPO, shares=1), [batch]))
    (letters,) = pieces.filter(pc.equal(pieces["kind"], LETTERS))["payload"].to_pylist()
    assert unpacked(letters)["offset"].to_pylist() == list(range(len(ABSURD)))
