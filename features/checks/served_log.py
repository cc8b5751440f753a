"""The served log against the archive: what answers were made of, and what history says of the same users just then.

An answer holds the user's row as the ranker got it, the instant that it was read for (``as_of``) and the newest event
in it (``user_newest``). History as of that instant knows what Kafka had by then, whoever posted it; a service knows an
event once it is folded, or at once where the service took it itself. So an answer is compared where that makes no
difference: the archive goes on for ``settle_ms`` after it, and no event of the user became known within ``settle_ms``
before it, or one did and is in the row, being its newest. Answers by a version that the registry has no more are not
compared: what their rows hold stood in its manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s
from features.checks.comparison import Difference, Findings, kind_of
from features.checks.oracle import is_exact
from features.checks.stores import events_of
from features.definitions import FeatureRepo, FeatureView, Stream
from features.errors import UsageError
from features.events import entity_keys, inputs_hash, integers
from features.history import ArchiveTable, Spine, deduplicated, open_table, point_in_time
from features.rows import FeatureMatrix, Status

CLOSE = 1e-9
"""Relative difference below which two values of a feature that is not exact are the same."""

InputsOf = Callable[[str, str], tuple[Sequence[str], Sequence[str]] | None]
"""(model, version) → all of the ranker's inputs, and those among them that are the user's; None: there is no such."""


@dataclass(frozen=True)
class LoggedAnswers:
    """n answers by models of one definition of the user's view: whose, as of when, and the user's row.

    Args:
        names: the features in a row.
        newest: the newest event that the row knows of, epoch ms.
        rows: (n, names), NaN for null.
    """

    names: Sequence[str]
    keys: pa.Array
    as_of: Int64s
    newest: Int64s
    rows: Floats


@dataclass
class LogFindings:
    """What a comparison of the log came to; ``unsettled`` answers were not compared.

    ``gone`` are those of them by versions that the registry has no more: 'model version' → how many.
    """

    findings: Findings
    answers: int = 0
    unsettled: int = 0
    gone: Counter[str] = field(default_factory=Counter)


class LogVerifier:
    """Compares the answers of a served log with the archive.

    Args:
        offline: the folder of the archive's tables.
        inputs_of: what the rows of a model's version hold.
        settle_ms: how far the stream may have been behind when it was read.
    """

    def __init__(self, repo: FeatureRepo, offline: Path, inputs_of: InputsOf, settle_ms: int) -> None:
        self._repo, self._offline, self._inputs_of, self._settle_ms = repo, offline, inputs_of, settle_ms

    def verify(self, view: FeatureView, stream: Stream, sample: int | None, seed: int) -> LogFindings:
        """What differs in the answers about this view's users (``sample`` of them, or all).

        Raises UsageError where nothing was ever logged.
        """
        table = open_table(self._offline, stream)
        if table is None:
            next_step = "Let the service answer for a while, with serving.served_log_share above 0."
            raise UsageError(f"the served log '{stream.name}'", "a table in the offline store", "none", next_step)
        found = LogFindings(Findings(f"{stream.name} → {view.name}"))
        archived_ms = max(one.newest_ms() for one in (table, *self._tables(view).values()))
        for answers in self._answers(found, _sampled(_of_users(table, view), sample, seed), view):
            self._compare(found, view, answers, archived_ms - self._settle_ms)
        return found

    def _answers(self, found: LogFindings, log: pa.Table, view: FeatureView) -> Iterator[LoggedAnswers]:
        """The answers by each model and version; those that cannot be read any more are only counted."""
        for one in log.group_by(["model", "model_version"]).aggregate([]).to_pylist():
            same = pc.and_(pc.equal(log["model"], one["model"]), pc.equal(log["model_version"], one["model_version"]))
            mine, inputs = log.filter(same), self._inputs_of(one["model"], one["model_version"])
            if inputs is None:
                found.answers += mine.num_rows
                found.unsettled += mine.num_rows
                found.gone[f"{one['model']} {one['model_version']}"] = mine.num_rows
                continue
            yield _answers_of(mine.filter(pc.equal(mine["inputs"], inputs_hash(inputs[0]))), view, *inputs)

    def _compare(self, found: LogFindings, view: FeatureView, answers: LoggedAnswers, until_ms: int) -> None:
        tables = self._tables(view)
        events = events_of(tables, view, pc.unique(answers.keys))
        history = point_in_time(view, Spine(answers.keys, answers.as_of), events)
        recent = recently_known(view, events, answers, self._settle_ms)
        settled = (recent == 0) | ((recent == 1) & (history.newest_event == answers.newest))
        settled &= answers.as_of <= until_ms
        found.answers += len(answers.keys)
        found.unsettled += int((~settled).sum())
        found.findings.entities += len(pc.unique(answers.keys.filter(pa.array(settled))))
        found.findings.compared += int(settled.sum()) * len(answers.names)
        found.findings.add(differences(view, answers, history, settled))

    def _tables(self, view: FeatureView) -> dict[str, ArchiveTable]:
        found = {one.name: open_table(self._offline, one, self._repo.horizon_ms(one.name)) for one in view.streams}
        return {name: table for name, table in found.items() if table is not None}


def _sampled(log: pa.Table, sample: int | None, seed: int) -> pa.Table:
    if sample is None or log.num_rows <= sample:
        return log
    chosen = np.random.default_rng(seed).choice(log.num_rows, sample, replace=False)
    return log.take(pa.array(np.sort(chosen)))


def _of_users(table: ArchiveTable, view: FeatureView) -> pa.Table:
    """The log's answers about users that were read by this definition and there, without features that they brought."""
    log = deduplicated(table.events(), table.stream)
    (key,) = view.entity.keys
    wanted = pc.and_(log[key].is_valid(), log["user_newest"].is_valid())
    wanted = pc.and_(wanted, pc.equal(log["user_schema"], f"{view.schema_hash:016x}"))
    wanted = pc.and_(wanted, pc.equal(log["features_status"], Status.PRESENT.name))
    return log.filter(pc.fill_null(wanted, fill_value=False))


def _answers_of(log: pa.Table, view: FeatureView, names: Sequence[str], own: Sequence[str]) -> LoggedAnswers:
    """The answers in which an item has a row: the user's part is the same in all of them."""
    rows = [next((row for *_, row in json.loads(text) if row is not None), None) for text in log["items"].to_pylist()]
    there = pa.array([row is not None for row in rows], pa.bool_())
    places = [list(names).index(name) for name in own]
    values = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, len(names))[:, places]
    kept = log.filter(there)
    (key,) = view.entity.keys
    keys = entity_keys({key: kept[key].combine_chunks()}, view.entity)
    return LoggedAnswers(own, keys, integers(kept["as_of"]), integers(kept["user_newest"]), values)


def recently_known(view: FeatureView, events: Mapping[str, pa.Table], answers: LoggedAnswers, settle_ms: int) -> Int64s:
    """(n,) how many events of the answer's user became known in (as_of − settle_ms, as_of]."""
    counts = np.zeros(len(answers.keys), dtype=np.int64)
    users = pc.unique(answers.keys)
    asked = np.asarray(pc.index_in(answers.keys, value_set=users), dtype=np.int64)
    for table in events.values():
        keys = entity_keys({name: table[name] for name in view.entity.keys}, view.entity)
        code = np.asarray(pc.fill_null(pc.index_in(keys, value_set=users), -1), dtype=np.int64)
        known = integers(table["known_at"])
        order = np.lexsort((known, code))
        code, known = code[order], known[order]
        first = np.searchsorted(code, asked, side="left")
        last = np.searchsorted(code, asked, side="right")
        counts += [
            np.searchsorted(known[low:high], at, side="right")
            - np.searchsorted(known[low:high], at - settle_ms, side="right")
            for low, high, at in zip(first.tolist(), last.tolist(), answers.as_of.tolist(), strict=True)
        ]
    return counts


def differences(view: FeatureView, answers: LoggedAnswers, history: FeatureMatrix, settled: Bools) -> list[Difference]:
    """Every value of the settled answers that is not what history says: an answer about nobody is 'extra'."""
    users = answers.keys.to_pylist()
    there = history.status == Status.PRESENT
    found = [
        Difference("extra", view.name, users[place], "status", int(answers.as_of[place]), "PRESENT", "NOT_FOUND")
        for place in np.flatnonzero(settled & ~there).tolist()
    ]
    right = history.to_numpy(answers.names)
    exact = {feature.name: is_exact(feature) for feature in view.features}
    for column, name in enumerate(answers.names):
        one, other = answers.rows[:, column], right[:, column]
        tolerance = 0.0 if exact[name] else CLOSE
        same = np.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
        found += [
            Difference(kind_of(*values), view.name, users[at], name, int(answers.as_of[at]), *values)
            for at in np.flatnonzero(settled & there & ~same).tolist()
            for values in [(_told(one[at]), _told(other[at]))]
        ]
    return found


def _told(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
