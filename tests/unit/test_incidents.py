"""A rule or a model alerts once an incident, wherever batches are cut and whenever a driver dies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import Rule, above
from features.definitions.repo import load_repo
from features.errors import DefinitionError
from models.event_model import DECISIONS, EventModelColumns, alerts_of
from streaming.incidents import Incidents
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.scoring import ModelScoring
from streaming.scoring.topics import scores_of

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
HOT = Rule("hot", {"amount": above(1)}, once_within="10ms")
EACH = Rule("each", {"amount": above(1)})
MODEL = replace(REPO.models["cards"], rules=[HOT, EACH], once_within="25ms")
COLUMNS = EventModelColumns.of(REPO, MODEL)
PLACE = f"{MODEL.stream.topic}/0"
Reading = tuple[int, int | None, bool, bool]
"""Milliseconds since the one before, group, and whether the rules and whether the model flag it."""

READINGS = st.lists(
    st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(1, 2)), st.booleans(), st.booleans()), max_size=30
)


def decisions(readings: Sequence[Reading]) -> pa.Table:
    rows, known_at = [], 1_750_000_000_000
    for number, (after, group, is_hot, is_reached) in enumerate(readings):
        known_at += after
        rows.append(
            {
                "stream": "transactions",
                "event_id": f"e{number}",
                "event_time": known_at,
                "partition": 0,
                "offset": number,
                "model": "cards",
                "score": 0.9 if is_reached else 0.1,
                "threshold": 0.5,
                "rules": ["hot", "each"] if is_hot else [],
                "reasons": "[]",
                "event": json.dumps({"known_at": known_at, "customer_id": group}),
            }
        )
    return pa.Table.from_pylist(rows, DECISIONS)


def expected(readings: Sequence[Reading]) -> list[tuple[str, str]]:
    """By the definition: the first of a group, or one that comes longer after the one before than the time."""
    found, last, now = [], dict[tuple[str, int], int](), 0
    for number, (after, group, is_hot, is_reached) in enumerate(readings):
        now += after
        for source, is_flagged, within in (
            ("model:cards", is_reached, 25),
            ("rule:hot", is_hot, 10),
            ("rule:each", is_hot, None),
        ):
            if is_flagged:
                key = None if group is None or within is None else (source, group)
                if key is None or key not in last or now - last[key] > within:
                    found.append((f"e{number}", source))
                if key is not None:
                    last[key] = now
    return found


class Dying(Incidents):
    """Dies before its next write as often as it is told to."""

    deaths = 0

    def keep(self, decided: pa.Table) -> None:
        if self.deaths:
            self.deaths -= 1
            raise ConnectionError
        super().keep(decided)


class Drivers:
    """One driver after another on the same home, and what they sent."""

    def __init__(self, home: Path) -> None:
        self.home, self.sent = home, dict[str, Any]()
        self.start()

    def start(self) -> None:
        self.incidents = Dying(MODEL, self.home / "incidents" / "cards.db")
        log = DecisionLog(self.home / "scores", MODEL.stream)
        champion: Any = type("Pinned", (), {"columns": COLUMNS, "problem": None, "current": lambda _: None})()
        self.model = ModelScoring(champion, log, self.take, incidents=self.incidents)

    def take(self, decided: pa.Table) -> None:
        for alert in alerts_of(decided):
            assert self.sent.setdefault(alert["alert_id"], alert) == alert

    def decide(self, part: pa.Table, deaths: int = 0) -> None:
        """Decide about the events, by as many drivers as it takes."""
        self.incidents.deaths = deaths
        end = {PLACE: part["offset"][-1].as_py() + 1}
        for _ in range(deaths + 1):
            try:
                return self.model.decide(end, lambda _: part)
            except ConnectionError:
                self.start()
        raise AssertionError

    @property
    def alerts(self) -> list[tuple[str, str]]:
        return [(alert["event_id"], alert["source"]) for alert in self.sent.values()]


@given(READINGS, st.data())
def test_batches_cut_anywhere_and_drivers_that_die_alert_once_an_incident(readings, data):
    decided = decisions(readings)
    with TemporaryDirectory() as folder:
        drivers, start = Drivers(Path(folder)), 0
        while start < decided.num_rows:
            size = data.draw(st.integers(1, decided.num_rows - start), "size")
            drivers.decide(decided.slice(start, size), data.draw(st.integers(0, 1), "deaths"))
            # Another generation, behind the first, comes to the same events.
            drivers.decide(decided.slice(0, start + size))
            start += size
        assert sorted(drivers.alerts) == sorted(expected(readings))


def test_scores_say_which_rules_an_event_meets_whether_they_alert_or_not(tmp_path):
    incidents = Incidents(MODEL, tmp_path / "cards.db")
    decided = incidents.marked(decisions([(0, 1, True, True), (1, 1, True, True)]))
    assert decided["repeated"].to_pylist() == [None, ["model:cards", "rule:hot"]]
    assert [score["rules"] for score in scores_of(decided)] == [["hot", "each"]] * 2
    assert "repeated" not in scores_of(decided)[0]


def test_a_model_without_once_within_has_no_file_and_marks_nothing(tmp_path):
    plain = REPO.models["cards"]
    incidents = Incidents(plain, tmp_path / "cards.db")
    decided = decisions([(0, 1, True, True)] * 2)
    incidents.keep(decided)
    assert incidents.marked(decided) is decided
    assert list(tmp_path.iterdir()) == []


def test_a_group_is_in_the_file_as_a_hash_alone(tmp_path):
    incidents = Incidents(MODEL, tmp_path / "cards.db")
    incidents.keep(decisions([(0, 123_456_789, True, True)]))
    assert all(b"123456789" not in path.read_bytes() for path in tmp_path.iterdir())


def test_incidents_that_are_over_leave_the_file(tmp_path):
    incidents = Incidents(MODEL, tmp_path / "cards.db")
    incidents.keep(decisions([(0, group, True, False) for group in range(50)]))
    incidents.keep(decisions([(2 * 86_400_000, 99, True, False)]))
    assert len(incidents._times.untold_before("rule:hot", 2**62, 100)) == 1


@pytest.mark.parametrize("wrong", ["0s", "an hour", 1.5])
def test_a_time_that_is_none_is_refused(wrong):
    with pytest.raises(DefinitionError, match="once_within"):
        Rule("hot", {"amount": above(1)}, once_within=wrong)
    with pytest.raises(DefinitionError, match="once_within"):
        replace(MODEL, once_within=wrong)
