"""Examples from what was really served: the very rows that items were scored by, and whether they were taken after.

"Log and wait": no feature is computed again, so nothing can differ between what a model learns from and what it is
asked about; but only what was shown can be learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import LOGGED_USER, Entity, Stream
from features.errors import UsageError
from features.events import event_schema, integers, shown_items
from features.history import ALWAYS, ArchiveTable, Span, deduplicated, open_table
from models.recommender import PAIR_FEATURES
from training.data import EventLimit, Interactions, UserSample, WholeArchive, drawn
from training.recommender.ranker import RankerExamples
from training.run import TrainingRun

POSITION_INPUT = "position"

LOGGED = Entity("user", keys={LOGGED_USER: "string"})
"""The user as the log has it: the text of the key."""

ANSWER_EVENTS = 20
"""The memory of a logged answer in events, about: it has the inputs of all its items."""


@dataclass(frozen=True)
class ServedUsers:
    """The users whose answers are read: all, those of a sample, or as many as fit.

    Args:
        others: models in the log that are other recommenders: what they showed says nothing of this one.
    """

    bound: EventLimit
    who: UserSample | None = None
    others: tuple[str, ...] = ()

    def of(self, table: ArchiveTable, span: Span) -> pa.Table:
        """The log's answers to them, each once."""
        name, most = table.stream.name, max(self.bound.events // ANSWER_EVENTS, 1)
        if self.who is None and table.rows(span) <= most:
            return deduplicated(table.events(span=span), table.stream)
        log = WholeArchive({name: table}, span, self.bound)
        counts = log.counted([name], LOGGED, self.bound.seed)
        among = np.ones(len(counts), dtype=bool) if self.who is None else self.who.buckets
        who = drawn(np.where(among, counts, 0), most, self.bound.seed)
        chosen = UserSample(who.buckets & among, self.bound.seed)
        return log.of(chosen, name, LOGGED, event_schema(table.stream).names)


def read_served(
    folder: Path, stream: Stream, span: Span = ALWAYS, to: ServedUsers | None = None, version: int | None = None
) -> pa.Table:
    """The log's answers that became known in the span, each once, without a challenger's, which nobody was shown.

    Args:
        to: the users whose answers are read; everybody unless given.
        version: of the table; the newest unless given.

    Raises UsageError where nothing was ever logged.
    """
    table = open_table(folder, stream, version=version)
    if table is None:
        required = f"a table '{stream.name}' of what was served"
        next_step = "Define the stream, set serving.served_log_share, and let the service answer for a while."
        raise UsageError(f"offline store '{folder}'", required, "none", next_step)
    log = deduplicated(table.events(span=span), stream) if to is None else to.of(table, span)
    unseen = pc.fill_null(log["shadow"], fill_value=False)
    of_others = pc.is_in(log["model"], value_set=pa.array([] if to is None else to.others, pa.string()))
    return log.filter(pc.invert(pc.or_(unseen, of_others)))


def served_examples(log: pa.Table, taken: Interactions, names: Sequence[str], within_ms: int) -> RankerExamples:
    """An example for each item that was shown to a user: its inputs then, and whether the user took it soon after.

    The input POSITION_INPUT, which is the same for all when the model serves, is here the item's rank: so the effect of
    the position is not learnt as one of the item.

    Args:
        log: as from read_served.
        taken: interactions of the target types.
        names: the ranker's inputs in order; answers by other inputs are left out.
        within_ms: the time after the answer within which an interaction counts.
    """
    shown = shown_items(log, names)
    users = log[LOGGED_USER].combine_chunks().take(pa.array(shown.answer))
    at = integers(log["event_time"])[shown.answer]
    known = np.asarray(users.is_valid())
    is_taken = taken_after(taken, users, pa.array(shown.items, pa.string()), at, within_ms)
    if POSITION_INPUT in names:
        shown.inputs[:, names.index(POSITION_INPUT)] = shown.rank
    return RankerExamples(shown.inputs[known], is_taken[known])


def shown_between(log: pa.Table | None, run: TrainingRun) -> RankerExamples | None:
    """The served examples of answers in [split.start, split.middle − taken_within_ms), by the inputs of the domain.

    Nothing that was taken from split.middle on plays a part. None where there are no such answers.

    Raises UsageError where there are, and all of them are by other inputs.
    """
    domain, split, within_ms = run.domain, run.split, run.settings.taken_within_ms
    if log is None:
        return None
    at = integers(log["event_time"])
    log = log.filter(pa.array((at >= split.start) & (at + within_ms < split.middle)))
    names = (*PAIR_FEATURES, *domain.user_inputs.names, *domain.item_inputs.names)
    history = run.history.between(0, split.middle)
    served = served_examples(log, history.only(history.of(run.target)), names, within_ms)
    return served if len(served.taken) else None


def taken_after(taken: Interactions, users: pa.Array, items: pa.Array, at: Int64s, within_ms: int) -> NDArray[np.bool_]:
    """(n,) a mask of the pairs of user and item that have an interaction in (at, at + within_ms]."""
    if not len(taken) or not len(at):
        return np.zeros(len(at), dtype=bool)
    low, span = int(taken.known_at.min()), int(np.ptp(taken.known_at)) + 2
    pairs = np.sort((taken.user * len(taken.items) + taken.item) * span + (taken.known_at - low))
    user, item = _codes(users, taken.users), _codes(items, taken.items)
    base = (user * len(taken.items) + item) * span
    first = np.clip(at + 1 - low, 0, span - 1)
    last = np.clip(at + within_ms + 1 - low, 0, span - 1)
    is_taken = np.searchsorted(pairs, base + last) > np.searchsorted(pairs, base + first)
    return is_taken & (user >= 0) & (item >= 0)


def _codes(texts: pa.Array, pool: pa.Array) -> Int64s:
    return np.asarray(pc.fill_null(pc.index_in(texts, value_set=pool), -1), dtype=np.int64)
