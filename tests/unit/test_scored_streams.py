"""A scored stream has its events' fields and what the model said; wrong ones are refused where they are defined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cards_champion import model_of
from scored_cards import scored_repo
from small_cards import simulated

from features.definitions import Field, Stream, product, scored_stream
from features.definitions.repo import FeatureRepo, load_repo
from features.errors import DefinitionError
from features.events.parsing import Records, Verdict, parse
from models.event_model import DECISIONS, EventModelColumns, LoadedEventModel, decide, known_together, scored_events
from streaming.kafka.encoding import messages

PAYMENTS = Stream(
    "payments",
    "pay",
    {"who": "string", "amount": "float64", "score": "int64"},
    computed={"two": product("amount", "amount")},
)


class Halves:
    """A classifier that says a half of everything."""

    classes_ = np.array([False, True])

    def predict_proba(self, inputs):
        return np.tile([2 / 3, 1 / 3], (len(inputs), 1))


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> FeatureRepo:
    return scored_repo(tmp_path_factory.mktemp("scored"))


def test_it_has_the_fields_of_the_events_what_the_model_says_and_expressions_of_both():
    scored = scored_stream(
        "s", "t", of=PAYMENTS, fields=["who", "two"], columns={"risk": "score"}, computed={"x": product("two", "risk")}
    )
    assert scored.dtypes == {"who": "string", "two": "float64", "risk": "float64", "x": "float64"}
    plain = scored_stream("s", "t", of=replace(PAYMENTS, fields={"who": "string"}, computed=None))
    assert plain.dtypes == {"who": "string", "score": "float64", "version": "string"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"fields": ["nobody"]}, "nobody"),
        ({"columns": {"risk": "certainty"}}, "certainty"),
        ({}, "'score'"),  # a field of the payments, too
        ({"columns": {"who": "score"}}, "'who'"),
    ],
)
def test_a_field_or_column_that_nobody_has_or_two_have_is_refused(wrong, named):
    with pytest.raises(DefinitionError, match=named):
        scored_stream("s", "t", of=PAYMENTS, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        Stream("other", "o", {"amount": Field("string", "event.amount")}),
        Stream("other", "o", {"amount": "float64"}),
        Stream("other", "o", {"risk": Field("float64", "score")}, event_id=None),
        "scored",
    ],
)
def test_a_model_refuses_a_stream_that_it_cannot_write(repo, wrong):
    with pytest.raises(DefinitionError, match="cards"):
        replace(repo.models["cards"], scored=wrong)
    with pytest.raises(DefinitionError, match="of its own"):
        replace(repo.models["cards"], scored=repo.models["cards"].stream)


def test_a_topic_that_others_write_too_is_refused_at_load(tmp_path):
    scored_repo(tmp_path)
    file = tmp_path / "cards.py"
    file.write_text(file.read_text(encoding="utf-8").replace('"cards.scored"', '"cards.labels"'), encoding="utf-8")
    with pytest.raises(DefinitionError, match="a topic that it alone writes"):
        load_repo(file)


def test_a_model_without_one_makes_the_decisions_that_it_made_before(repo):
    model = replace(repo.models["cards"], scored=None)
    columns = EventModelColumns.of(repo, model)
    events = simulated(repo, days=1, customers=4)["transactions"]
    decided = decide(columns, None, events, np.zeros((events.num_rows, len(model.needed))))
    assert decided.schema.equals(DECISIONS)
    assert known_together(decided) is decided


def test_the_stream_reads_back_each_scored_event_and_its_score_to_the_bit(repo):
    columns = EventModelColumns.of(repo, repo.models["cards"])
    events = simulated(repo, days=2, customers=6)["transactions"]
    loaded = LoadedEventModel("7", model_of(columns, Halves(), 0.9))
    decided = known_together(decide(columns, loaded, events, np.zeros((events.num_rows, len(columns.model.needed)))))
    scored = repo.streams["scored_transactions"]
    written = list(messages(scored_events(decided, scored), scored))
    known = np.array([int(headers[0][1]) for _, _, headers in written])
    assert set(known.tolist()) == {pc.max(events["known_at"]).as_py() + 1}
    values = pa.array([value for _, value, _ in written])
    places = np.arange(len(written))
    read = parse(Records(values, known, np.zeros(len(written), np.int32), places), scored, None)
    assert (read.verdicts == Verdict.VALID).all()
    for name in ("event_id", "event_time", "customer_id", "amount"):
        assert read.events[name].to_pylist() == events[name].to_pylist()
    assert read.events["risk"].to_pylist() == decided["score"].to_pylist() == [1 / 3] * len(written)
    assert set(read.events["scored_by"].to_pylist()) == {"7"}


def test_without_a_version_there_is_no_event(repo):
    columns = EventModelColumns.of(repo, repo.models["cards"])
    events = simulated(repo, days=1, customers=4)["transactions"]
    decided = decide(columns, None, events, np.zeros((events.num_rows, len(columns.model.needed))))
    assert scored_events(known_together(decided), repo.streams["scored_transactions"]).num_rows == 0
