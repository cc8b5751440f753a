"""Deduplication: the first record of an event_id counts, the others within a horizon are duplicates.

Records are ordered by known_at, then offset. A record whose id was accepted at most ``horizon`` before it is a
duplicate; the same record again is a replay and gets the same decision. The stream reads from its store what was
accepted before the batch (``Prior``); readers of an archive see every record at once and need no prior.

An id that a producer repeats with the same key stays in one partition, and stream and archive decide alike. If it is
repeated in two partitions that the stream reads out of the order of known_at, the stream may have accepted the later
record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Int64s, RowTimeKeys, run_ends, run_starts, single_array
from features.events.columns import integers, sequence

NEVER = np.iinfo(np.int64).min // 4


@dataclass(frozen=True)
class Prior:
    """The record last accepted for each id before a batch: its sequence and known_at (ms); NEVER if there is none."""

    seq: Int64s
    known_at: Int64s

    @classmethod
    def nothing(cls, count: int) -> Prior:
        """The prior of ids that have not been seen."""
        return cls(np.full(count, NEVER), np.full(count, NEVER))


@dataclass(frozen=True)
class Decision:
    """True for each record that counts; and for each distinct id the record last accepted, to remember."""

    accepted: Bools
    ids: pa.Array
    last: Prior


def encoded_ids(ids: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """The ids dictionary-encoded: stores look up the dictionary, the distinct ids."""
    array = single_array(ids)
    return array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()


def decide(ids: pa.Array, known_at: Int64s, seq: Int64s, horizon_ms: int, prior: Prior | None = None) -> Decision:
    """Accepts the first record of each id, and a further one only more than horizon_ms after the last accepted.

    Args:
        ids: the event_id of each record, encoded or not.
        prior: for each id of encoded_ids(ids).dictionary, the record accepted before; None if no id was seen.
    """
    encoded = encoded_ids(ids)
    group = np.asarray(encoded.indices).astype(np.int64)
    distinct = len(encoded.dictionary)
    last = Prior.nothing(distinct) if prior is None else Prior(prior.seq.copy(), prior.known_at.copy())
    # Nearly all ids occur once and are new: only the others need sorting.
    accepted = (np.bincount(group, minlength=distinct)[group] == 1) & (last.known_at[group] == NEVER)
    last.seq[group[accepted]], last.known_at[group[accepted]] = seq[accepted], known_at[accepted]
    others = np.flatnonzero(~accepted)
    order = others[np.lexsort((seq[others], known_at[others], group[others]))]
    accepted[order] = _accepted_in_order(group[order], known_at[order], seq[order], last, horizon_ms)
    return Decision(accepted, encoded.dictionary, last)


def _accepted_in_order(group: Int64s, known: Int64s, seq: Int64s, last: Prior, horizon_ms: int) -> Bools:
    """True for each accepted record, of records sorted by id, known_at and sequence; updates ``last``."""
    ids, number = np.unique(group, return_inverse=True)
    last_of_ids = Prior(last.seq[ids], last.known_at[ids])
    accepted: Bools = seq == last_of_ids.seq[number]
    _accept_chains(number, known, seq, last_of_ids, horizon_ms, accepted)
    last.seq[ids], last.known_at[ids] = last_of_ids.seq, last_of_ids.known_at
    return accepted


def _accept_chains(group: Int64s, known: Int64s, seq: Int64s, last: Prior, horizon_ms: int, accepted: Bools) -> None:
    """Marks, round by round, the next record of each id that is beyond the horizon of the last accepted."""
    if not len(group):
        return
    ends = run_ends(run_starts(group), len(group))
    key = RowTimeKeys(group, known)
    open_ids = np.arange(len(ends))
    while len(open_ids):
        row = np.searchsorted(key.keys, key.of(open_ids, last.known_at[open_ids] + horizon_ms + 1))
        exists = row < ends[open_ids]
        open_ids, row = open_ids[exists], row[exists]
        accepted[row] = True
        last.seq[open_ids], last.known_at[open_ids] = seq[row], known[row]


def accept(events: pa.Table, horizon_ms: int) -> tuple[pa.Table, Decision]:
    """The events that count if no event came before them, and the decision to remember."""
    seq = sequence(integers(events["partition"]), integers(events["offset"]))
    decision = decide(encoded_ids(events["event_id"]), integers(events["known_at"]), seq, horizon_ms)
    return accepted_events(events, decision), decision


def accepted_events(events: pa.Table, decision: Decision) -> pa.Table:
    """The events that the decision accepts."""
    return events if decision.accepted.all() else events.filter(pa.array(decision.accepted))


def without_duplicates(events: pa.Table, horizon_ms: int) -> pa.Table:
    """The events of an archive that count: those that the stream would have folded."""
    return accept(events, horizon_ms)[0]
