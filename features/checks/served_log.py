"""The served log against the archive: the inputs of answers, and history of the same users at the same instants.

An answer holds the user's row of ranker inputs, the instant that it was read for (``as_of``) and the time of its newest
event (``user_newest``). History as of that instant has every event that Kafka had by then; a service has an event once
it is folded, or at once if it was posted to that service. So an answer is compared if that makes no difference: the
archive goes on for ``settle_ms`` after it, and no event of the user became known within ``settle_ms`` before it, or one
did and is the newest of the row. Answers by a version that is no longer in the registry are not compared: the names of
their inputs were in its manifest.
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
from features.checks.naive_aggregations import is_exact
from features.checks.stores import events_of
from features.definitions import LOGGED_USER, FeatureRepo, FeatureView, Stream
from features.errors import UsageError
from features.events import entity_keys, inputs_hash, integers
from features.history import ArchiveTable, Spine, deduplicated, open_table, open_tables, point_in_time
from features.rows import FeatureMatrix, Status

CLOSE = 1e-9
"""Two values of a feature that is not exact are equal below this relative difference."""

InputsOf = Callable[[str, str], tuple[Sequence[str], Sequence[str]] | None]
"""(model, version) → all inputs of the ranker, and those of the user among them; None if the version is gone."""


@dataclass(frozen=True)
class LoggedAnswers:
    """n answers by models with the same definition of the user's view: user keys, instants, and the user's rows.

    Args:
        names: the features in a row.
        newest: time of the newest event in the row, epoch ms.
        rows: (n, names), NaN for null.
    """

    names: Sequence[str]
    keys: pa.Array
    as_of: Int64s
    newest: Int64s
    rows: Floats


@dataclass
class LogFindings:
    """The results of a comparison of the log; ``unsettled`` answers were not compared.

    ``gone`` are those of them by versions that are no longer in the registry: 'model version' → number of answers.
    """

    findings: Findings
    answers: int = 0
    unsettled: int = 0
    gone: Counter[str] = field(default_factory=Counter)


class LogVerifier:
    """Compares the answers of a served log with the archive.

    Args:
        offline: the folder of the archive's tables.
        inputs_of: the input names of a model's version.
        settle_ms: the longest lag of the stream at the time of a read.
    """

    def __init__(self, repo: FeatureRepo, offline: Path, inputs_of: InputsOf, settle_ms: int) -> None:
        self._repo, self._offline, self._inputs_of, self._settle_ms = repo, offline, inputs_of, settle_ms

    def verify(self, view: FeatureView, stream: Stream, sample: int | None, seed: int) -> LogFindings:
        """The differences in the answers to this view's users (``sample`` answers, or all).

        Raises:
            UsageError: the archive has no table of the log.
        """
        table = open_table(self._offline, stream)
        if table is None:
            next_step = "Let the service answer for a while, with serving.served_log_share above 0."
            raise UsageError(f"the served log '{stream.name}'", "a table in the offline store", "none", next_step)
        result = LogFindings(Findings(f"{stream.name} → {view.name}"))
        tables = open_tables(self._offline, view.streams, self._repo)
        archived_ms = max(archived.newest_ms for archived in (table, *tables.values()))
        for answers in self._answers(result, _sampled(_of_users(table, view), sample, seed)):
            self._compare(result, view, answers, archived_ms - self._settle_ms)
        return result

    def _answers(self, result: LogFindings, log: pa.Table) -> Iterator[LoggedAnswers]:
        """The answers of each model and version; those of versions that are gone are only counted."""
        for group in log.group_by(["model", "model_version"]).aggregate([]).to_pylist():
            model, version = group["model"], group["model_version"]
            answers = log.filter(pc.and_(pc.equal(log["model"], model), pc.equal(log["model_version"], version)))
            inputs = self._inputs_of(model, version)
            if inputs is None:
                result.answers += answers.num_rows
                result.unsettled += answers.num_rows
                result.gone[f"{model} {version}"] = answers.num_rows
                continue
            yield _answers_of(answers.filter(pc.equal(answers["inputs"], inputs_hash(inputs[0]))), *inputs)

    def _compare(self, result: LogFindings, view: FeatureView, answers: LoggedAnswers, until_ms: int) -> None:
        tables = open_tables(self._offline, view.streams, self._repo)
        events = events_of(tables, view, pc.unique(answers.keys))
        history = point_in_time(view, Spine(answers.keys, answers.as_of), events)
        recent = recently_known(view, events, answers, self._settle_ms)
        settled = (recent == 0) | ((recent == 1) & (history.newest_event == answers.newest))
        settled &= answers.as_of <= until_ms
        result.answers += len(answers.keys)
        result.unsettled += int((~settled).sum())
        result.findings.entities += len(pc.unique(answers.keys.filter(pa.array(settled))))
        result.findings.compared += int(settled.sum()) * len(answers.names)
        result.findings.add(differences(view, answers, history, settled))


def _sampled(log: pa.Table, sample: int | None, seed: int) -> pa.Table:
    if sample is None or log.num_rows <= sample:
        return log
    chosen = np.random.default_rng(seed).choice(log.num_rows, sample, replace=False)
    return log.take(pa.array(np.sort(chosen)))


def _of_users(table: ArchiveTable, view: FeatureView) -> pa.Table:
    """The log's answers with PRESENT features of this definition, without those whose request brought features."""
    log = deduplicated(table.events(), table.stream)
    mask = pc.and_(log[LOGGED_USER].is_valid(), log["user_newest"].is_valid())
    mask = pc.and_(mask, pc.equal(log["user_schema"], f"{view.schema_hash:016x}"))
    mask = pc.and_(mask, pc.equal(log["features_status"], Status.PRESENT.name))
    return log.filter(pc.fill_null(mask, fill_value=False))


def _answers_of(log: pa.Table, names: Sequence[str], user_inputs: Sequence[str]) -> LoggedAnswers:
    """The answers in which an item has a row; the user's inputs are the same in all rows of an answer."""
    rows = [next((row for *_, row in json.loads(text) if row is not None), None) for text in log["items"].to_pylist()]
    has_row = pa.array([row is not None for row in rows], pa.bool_())
    columns = [list(names).index(name) for name in user_inputs]
    values = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, len(names))[:, columns]
    answers = log.filter(has_row)
    keys = answers[LOGGED_USER].combine_chunks()
    return LoggedAnswers(user_inputs, keys, integers(answers["as_of"]), integers(answers["user_newest"]), values)


def recently_known(view: FeatureView, events: Mapping[str, pa.Table], answers: LoggedAnswers, settle_ms: int) -> Int64s:
    """(n,) the number of events of the answer's user that became known in (as_of − settle_ms, as_of]."""
    counts = np.zeros(len(answers.keys), dtype=np.int64)
    users = pc.unique(answers.keys)
    user = np.asarray(pc.index_in(answers.keys, value_set=users), dtype=np.int64)
    for table in events.values():
        keys = entity_keys({name: table[name] for name in view.entity.keys}, view.entity)
        code = np.asarray(pc.fill_null(pc.index_in(keys, value_set=users), -1), dtype=np.int64)
        known = integers(table["known_at"])
        order = np.lexsort((known, code))
        code, known = code[order], known[order]
        first = np.searchsorted(code, user, side="left")
        last = np.searchsorted(code, user, side="right")
        counts += [
            np.searchsorted(known[low:high], at, side="right")
            - np.searchsorted(known[low:high], at - settle_ms, side="right")
            for low, high, at in zip(first.tolist(), last.tolist(), answers.as_of.tolist(), strict=True)
        ]
    return counts


def differences(view: FeatureView, answers: LoggedAnswers, history: FeatureMatrix, settled: Bools) -> list[Difference]:
    """Every value of the settled answers that differs from history; a value of a user without history is 'extra'."""
    users = answers.keys.to_pylist()
    present = history.status == Status.PRESENT
    differences = [
        Difference("extra", view.name, users[row], "status", int(answers.as_of[row]), "PRESENT", "NOT_FOUND")
        for row in np.flatnonzero(settled & ~present).tolist()
    ]
    expected = history.to_numpy(answers.names)
    exact = {feature.name: is_exact(feature) for feature in view.features}
    for column, name in enumerate(answers.names):
        logged, right = answers.rows[:, column], expected[:, column]
        tolerance = 0.0 if exact[name] else CLOSE
        same = np.isclose(logged, right, rtol=tolerance, atol=tolerance, equal_nan=True)
        differences += [
            Difference(kind_of(*values), view.name, users[row], name, int(answers.as_of[row]), *values)
            for row in np.flatnonzero(settled & present & ~same).tolist()
            for values in [(_or_none(logged[row]), _or_none(right[row]))]
        ]
    return differences


def _or_none(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
