"""Which events are repetitions: the first record of an event_id counts, for a stated time and in a stated order.

Records are taken in the order in which they became known (known_at, then offset). One whose id was accepted at most
``horizon`` before it is a duplicate; the same record again is a replay and decided as it was. The stream asks its store
what was accepted before the batch (``Prior``); readers of an archive see everything at once and need no prior.

An id that a producer repeats with the same key stays in one partition, where both decide alike. Where it is repeated in
two partitions that the stream reads out of the order of known_at, the stream may have accepted the later record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Int64s, run_ends, run_starts, single_array
from features.events.columns import integers, sequence

NEVER = np.iinfo(np.int64).min // 4


@dataclass(frozen=True)
class Prior:
    """What was accepted last for each id before a batch: its sequence and known_at (ms); NEVER where nothing was."""

    seq: Int64s
    known_at: Int64s

    @classmethod
    def nothing(cls, count: int) -> Prior:
        """No id has been seen."""
        return cls(np.full(count, NEVER), np.full(count, NEVER))


@dataclass(frozen=True)
class Decision:
    """Which records count, and for each distinct id what was accepted last, to remember."""

    accepted: Bools
    ids: pa.Array
    last: Prior


def encoded_ids(ids: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """The ids as codes of the distinct ones: its dictionary is what a store is asked about."""
    array = single_array(ids)
    return array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()


def decide(ids: pa.Array, known_at: Int64s, seq: Int64s, horizon_ms: int, prior: Prior | None = None) -> Decision:
    """Accept the first record of each id, and further ones only when the last accepted is more than horizon_ms before.

    Args:
        ids: the event_id of each record, encoded or not.
        prior: for each id of encoded_ids(ids).dictionary, what was accepted before; None for nothing.
    """
    encoded = encoded_ids(ids)
    group = np.asarray(encoded.indices).astype(np.int64)
    distinct = len(encoded.dictionary)
    last = Prior.nothing(distinct) if prior is None else Prior(prior.seq.copy(), prior.known_at.copy())
    # Nearly all ids come once and are new: only the others need an order.
    accepted = (np.bincount(group, minlength=distinct)[group] == 1) & (last.known_at[group] == NEVER)
    last.seq[group[accepted]], last.known_at[group[accepted]] = seq[accepted], known_at[accepted]
    others = np.flatnonzero(~accepted)
    order = others[np.lexsort((seq[others], known_at[others], group[others]))]
    accepted[order] = _accepted_in_order(group[order], known_at[order], seq[order], last, horizon_ms)
    return Decision(accepted, encoded.dictionary, last)


def _accepted_in_order(group: Int64s, known: Int64s, seq: Int64s, last: Prior, horizon_ms: int) -> Bools:
    """Which of the records, sorted by id and in the order that counts, are accepted; ``last`` is as it is then."""
    ids, number = np.unique(group, return_inverse=True)
    of_these = Prior(last.seq[ids], last.known_at[ids])
    accepted: Bools = seq == of_these.seq[number]
    _accept_chains(number, known, seq, of_these, horizon_ms, accepted)
    last.seq[ids], last.known_at[ids] = of_these.seq, of_these.known_at
    return accepted


def _accept_chains(group: Int64s, known: Int64s, seq: Int64s, last: Prior, horizon_ms: int, accepted: Bools) -> None:
    """Marks, round by round, the next record of each id that is beyond the horizon of the one accepted last."""
    if not len(group):
        return
    ends = run_ends(run_starts(group), len(group))
    low, span = int(known.min()), int(known.max()) - int(known.min()) + 2
    key = group * span + (known - low)
    asking = np.arange(len(ends))
    while len(asking):
        after = np.clip(last.known_at[asking] + horizon_ms + 1 - low, 0, span - 1)
        place = np.searchsorted(key, asking * span + after)
        found = place < ends[asking]
        asking, place = asking[found], place[found]
        accepted[place] = True
        last.seq[asking], last.known_at[asking] = seq[place], known[place]


def accept(events: pa.Table, horizon_ms: int) -> tuple[pa.Table, Decision]:
    """The events that count where nothing was before them, and the decision to remember."""
    seq = sequence(integers(events["partition"]), integers(events["offset"]))
    decision = decide(encoded_ids(events["event_id"]), integers(events["known_at"]), seq, horizon_ms)
    return accepted_events(events, decision), decision


def accepted_events(events: pa.Table, decision: Decision) -> pa.Table:
    """Those of the events that count."""
    return events if decision.accepted.all() else events.filter(pa.array(decision.accepted))


def without_duplicates(events: pa.Table, horizon_ms: int) -> pa.Table:
    """The events of an archive that the stream would have folded."""
    return accept(events, horizon_ms)[0]
