"""What the stream decides about each event is what history says, whatever the batches, and it is decided once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from memory_store import MemoryStore
from small_cards import simulated

from features.arrays import Floats
from features.definitions.repo import load_repo
from features.events.parsing import Parsed, Verdict
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.port import Marker
from models.event_model.artefact import LoadedEventModel
from models.event_model.columns import EventModelColumns
from models.event_model.decisions import alerts_of
from models.event_model.manifest import EventManifest
from models.event_model.scorers import EventClassifier
from streaming.fold.sink import FoldTarget
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.scoring import EventScoring, ModelScoring
from training.data.labelled_events import EventTrainingSettings, examples_between
from training.event_model.fit import fit

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
ASKED = EventModelColumns.of(REPO, REPO.models["cards"])
STREAM, STREAM_ID = ASKED.model.stream.name, 5
Events = Mapping[str, pa.Table]


class Pinned:
    """The versions that a registry would name, one a look; the last one from then on."""

    def __init__(self, *versions: LoadedEventModel | None) -> None:
        self.columns, self.problem = ASKED, None
        self._versions = list(versions)
        self.asked_for = 0

    def current(self) -> LoadedEventModel | None:
        self.asked_for += 1
        return self._versions.pop(0) if len(self._versions) > 1 else self._versions[0]


class Failing(EventClassifier):
    """A model that fails."""

    def scores(self, inputs: Floats, texts: object = None) -> Floats:
        raise ValueError("no such tree")


@pytest.fixture(scope="module")
def events() -> Events:
    return simulated(REPO, days=20, customers=40)


@pytest.fixture(scope="module")
def champion(events: Events) -> LoadedEventModel:
    known = events[STREAM]["known_at"].to_numpy()
    examples = examples_between(events, ASKED, 0, int(known[-1]))
    classifier = fit(examples, ASKED, EventTrainingSettings(iterations=10, learning_rate=0.1))
    names = ASKED.model.input_names
    typical = (0.0,) * len(names)
    manifest = EventManifest(
        name="cards",
        created_ms=1,
        as_of_ms=1,
        stream=STREAM,
        inputs=names,
        typical=typical,
        views=(),
        threshold=0.3,
    )
    return LoadedEventModel("1", EventClassifier(manifest, classifier))


def cut_times(events: Events, count: int, rng: np.random.Generator) -> list[int]:
    """Where so many batches begin and end, each with at least one of the events that the model is asked about."""
    known = {name: table["known_at"].to_numpy() for name, table in events.items()}
    starts = np.unique(known[STREAM])[1:]
    first, last = (int(edge(edge(times) for times in known.values())) for edge in (min, max))
    return [first, *np.sort(rng.choice(starts, count - 1, replace=False)).tolist(), last + 1]


def batches(events: Events, count: int, rng: np.random.Generator) -> Iterator[Batch]:
    """The events in the order of becoming known, cut at random."""
    for number, (low, high) in enumerate(pairwise(cut_times(events, count, rng))):
        parsed = {}
        for name, table in events.items():
            known = table["known_at"].to_numpy()
            part = table.filter(pa.array((known >= low) & (known < high)))
            verdicts = np.full(part.num_rows, Verdict.VALID, np.int8)
            parsed[name] = Parsed(part, np.arange(part.num_rows), verdicts, pa.nulls(part.num_rows, pa.string()))
        start, end = (offsets_at(events, time) for time in (low, high))
        yield Batch(number, start, end, parsed, high)


def offsets_at(events: Events, time: int) -> dict[str, int]:
    """Where each topic stands when all before this time is in it: its events are numbered as they became known."""
    known = {name: table["known_at"].to_numpy() for name, table in events.items()}
    return {place_of(name): int(np.searchsorted(times, time)) for name, times in known.items()}


def place_of(stream: str) -> str:
    """The partition in which the events stand."""
    return f"{REPO.streams[stream].topic}/0"


class Run:
    """A generation in memory with its scoring, and what was told; the model of another run, or one of its own."""

    def __init__(
        self,
        folder: Path,
        champion: Pinned | None = None,
        store: MemoryStore | None = None,
        stream_id: int = STREAM_ID,
        model: ModelScoring | None = None,
    ) -> None:
        self.told: list[pa.Table] = []
        self.silent = False
        self.store = store or MemoryStore()
        handle = self.store.handle(stream_id)
        handle.begin()
        if handle.marker() is None:
            first = {place_of(name): 0 for name in REPO.streams}
            handle.publish(Marker(-1, first, first, -1))
        own = model or ModelScoring(champion, DecisionLog(folder, ASKED.model.stream), self.tell)
        asking = EventScoring([own]).of_generation(FoldTarget(REPO, handle, stream_id))
        self.step = BatchStep(handle, list(REPO.views.values()), stream_id, asking.here)

    def tell(self, decisions: pa.Table) -> None:
        if self.silent:
            raise ConnectionError
        self.told.append(decisions)

    def decided(self) -> pa.Table:
        return pa.concat_tables(self.told)


def test_scores_are_those_of_point_in_time_whatever_the_batches(events, champion, tmp_path, seed) -> None:
    rng = np.random.default_rng(seed)
    run = Run(tmp_path, Pinned(champion))
    for batch in batches(events, 9, rng):
        run.step.run(batch)
    decided = run.decided()
    assert decided["event_id"].to_pylist() == events[STREAM]["event_id"].to_pylist()
    scores = decided["score"].to_numpy()
    as_trained = ASKED.source.matrix_before(events[STREAM], events)
    np.testing.assert_allclose(scores, champion.model.scores(ASKED.inputs(as_trained)), atol=1e-9)
    for place in rng.integers(0, decided.num_rows, 40).tolist():
        event = events[STREAM].slice(place, 1)
        at = int(event["known_at"][0].as_py())
        before = {
            name: table.filter(
                pc.less(table["known_at"], at) if name == STREAM else pc.less_equal(table["known_at"], at)
            )
            for name, table in events.items()
        }
        matrix = ASKED.source.matrix(event, np.array([at + 1]), before)
        assert scores[place] == pytest.approx(champion.model.scores(ASKED.inputs(matrix))[0], abs=1e-9)


def test_a_batch_that_runs_again_asks_no_model_and_a_new_driver_tells_once_more_what_was_decided(
    events, champion, tmp_path, seed
) -> None:
    rng = np.random.default_rng(seed)
    pinned = Pinned(champion, None)
    run = Run(tmp_path, pinned)
    first = next(batches(events, 3, rng))
    run.step.run(first)
    run.step.run(first)
    again = Run(tmp_path, pinned, store=run.store)
    again.step.run(first)
    assert pinned.asked_for == 1
    assert len(run.told) == len(again.told) == 1
    assert again.told[0].equals(run.told[0])


def test_what_nobody_was_told_of_is_told_before_the_next_batch_is_decided(events, champion, tmp_path, seed) -> None:
    run = Run(tmp_path, Pinned(champion))
    first, second = list(batches(events, 2, np.random.default_rng(seed)))
    run.silent = True
    with pytest.raises(ConnectionError):
        run.step.run(first)
    run.silent = False
    run.step.run(first)
    run.step.run(second)
    assert run.decided()["event_id"].to_pylist() == events[STREAM]["event_id"].to_pylist()


def test_of_two_generations_each_event_is_decided_once_by_whichever_meets_it_first(
    events, champion, tmp_path, seed
) -> None:
    """Their batches are cut at other places, and now the one is ahead, now the other."""
    rng = np.random.default_rng(seed)
    pinned = Pinned(champion)
    told: list[pa.Table] = []
    model = ModelScoring(pinned, DecisionLog(tmp_path, ASKED.model.stream), told.append)
    runs = [Run(tmp_path, stream_id=number, model=model) for number in (5, 6)]
    waiting = [list(batches(events, count, rng)) for count in (5, 7)]
    while any(waiting):
        which = rng.choice([number for number in (0, 1) if waiting[number]])
        runs[which].step.run(waiting[which].pop(0))
    assert pa.concat_tables(told)["event_id"].to_pylist() == events[STREAM]["event_id"].to_pylist()
    alone = Run(tmp_path / "alone", Pinned(champion))
    for batch in batches(events, 3, rng):
        alone.step.run(batch)
    scores = [table["score"].to_numpy() for table in (pa.concat_tables(told), alone.decided())]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-9)


def test_a_model_that_changes_is_taken_up_by_the_next_batch(events, champion, tmp_path, seed) -> None:
    run = Run(tmp_path, Pinned(None, champion, LoadedEventModel("2", champion.model)))
    for batch in batches(events, 3, np.random.default_rng(seed)):
        run.step.run(batch)
    assert [one["version"][0].as_py() for one in run.told] == [None, "1", "2"]
    assert run.told[0]["score"].null_count == run.told[0].num_rows


def test_a_failing_model_leaves_a_problem_and_rules_and_rows_go_on(events, champion, tmp_path, seed) -> None:
    failing = LoadedEventModel("3", Failing(champion.model.manifest, champion.model.classifier))
    run = Run(tmp_path, Pinned(failing, champion))
    for batch in batches(events, 2, np.random.default_rng(seed)):
        run.step.run(batch)
    assert set(run.told[0]["problem"].to_pylist()) == {"model_failed: ValueError: no such tree"}
    assert run.told[0]["score"].null_count == run.told[0].num_rows
    assert run.told[1]["problem"].null_count == run.told[1].num_rows
    assert {one["source"] for one in alerts_of(run.told[0])} <= {"rule:velocity", "rule:above_p99", "rule:elsewhere"}


def test_an_alert_says_its_source_version_reasons_and_event_and_comes_once(events, champion, tmp_path) -> None:
    run = Run(tmp_path, Pinned(champion))
    for batch in batches(events, 4, np.random.default_rng(1)):
        run.step.run(batch)
    decided = run.decided()
    alerts = alerts_of(decided)
    by_model = [one for one in alerts if one["source"] == "model:cards"]
    assert len({one["alert_id"] for one in alerts}) == len(alerts)
    assert len(by_model) == int(pc.sum(pc.greater_equal(decided["score"], 0.3)).as_py()) > 0
    assert len(alerts) - len(by_model) == sum(map(len, decided["rules"].to_pylist())) > 0
    assert all(one["version"] == "1" and one["score"] >= one["threshold"] for one in by_model)
    assert any(one["reasons"] for one in by_model)
    assert all(reason["effect"] > 0 for one in by_model for reason in one["reasons"])
    amounts = dict(zip(*(events[STREAM][name].to_pylist() for name in ("event_id", "amount")), strict=True))
    assert all(one["event"]["amount"] == amounts[one["event_id"]] for one in alerts)
    assert json.loads(json.dumps(alerts)) == alerts


def test_only_the_last_decisions_are_kept(events, champion, tmp_path) -> None:
    run = Run(tmp_path, Pinned(champion))
    for batch in batches(events, 6, np.random.default_rng(2)):
        run.step.run(batch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4.arrow", "5.arrow"]
