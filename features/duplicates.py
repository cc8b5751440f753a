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
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import integers, sequence
from features.entries import run_ends, run_starts
from features.windows import Int64s

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

    accepted: NDArray[np.bool_]
    ids: pa.Array
    last: Prior


def distinct_ids(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The ids to ask a store about, in the order that decide() expects their prior in."""
    return pc.unique(ids)


def decide(ids: pa.Array, known_at: Int64s, seq: Int64s, horizon_ms: int, prior: Prior | None = None) -> Decision:
    """Accept the first record of each id, and further ones only when the last accepted is more than horizon_ms before.

    Args:
        ids: the event_id of each record.
        prior: for each of distinct_ids(ids), what was accepted before; None for nothing.
    """
    distinct = distinct_ids(ids)
    group = pc.index_in(ids, value_set=distinct).to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.lexsort((seq, known_at, group))
    group, known, seq = group[order], known_at[order], seq[order]
    last = Prior.nothing(len(distinct)) if prior is None else Prior(prior.seq.copy(), prior.known_at.copy())
    accepted = seq == last.seq[group]
    _accept_chains(group, known, seq, last, horizon_ms, accepted)
    back = np.empty(len(order), dtype=bool)
    back[order] = accepted
    return Decision(back, distinct, last)


def _accept_chains(
    group: Int64s, known: Int64s, seq: Int64s, last: Prior, horizon_ms: int, accepted: NDArray[np.bool_]
) -> None:
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


def accept(events: pa.Table, horizon_ms: int, prior: Prior | None = None) -> tuple[pa.Table, Decision]:
    """The events that count, and the decision to remember."""
    seq = sequence(integers(events["partition"]), integers(events["offset"]))
    ids = events["event_id"].combine_chunks()
    decision = decide(ids, integers(events["known_at"]), seq, horizon_ms, prior)
    return events.filter(pa.array(decision.accepted)), decision


def without_duplicates(events: pa.Table, horizon_ms: int) -> pa.Table:
    """The events of an archive that the stream would have folded."""
    return accept(events, horizon_ms)[0]
