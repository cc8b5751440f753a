"""Alerts once an incident: which of the events that a rule or a model flags are not the first of their incident.

Events of one group that a source flags within its ``once_within`` of one another, by known_at, are one incident, of
which the first alerts. Each event is decided about once, in the order of known_at, wherever batches are cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from features.definitions import BaseEventModel
from models.event_model import flagged_decisions, sources_of
from streaming.incidents.last_times import LastTimes

KEPT_MS = 86_400_000
"""How much longer than ``once_within`` a time is kept, as partitions are not read evenly."""

KEY_BYTES = 16
"""Of the hash of a group: the file has no values of events."""


def incidents_file(checkpoints: Path, model: str) -> Path:
    """The file of a model's incidents among the checkpoints of a home."""
    return checkpoints / "incidents" / f"{model}.db"


class Incidents:
    """The incidents of an event model: by source and group, when an event was flagged last.

    Args:
        path: of the file that has them; made with the first.
    """

    def __init__(self, model: BaseEventModel, path: Path) -> None:
        self._model, self._within_ms = model, model.incidents_ms
        self._times = LastTimes(path)

    def marked(self, decided: pa.Table) -> pa.Table:
        """The decisions, each with the sources that ``repeated`` the alert of an incident."""
        if not self._within_ms or not decided.num_rows:
            return decided
        repeated: dict[int, list[str]] = {}
        flagged = list(self._flagged(decided))
        for source, within_ms in self._within_ms.items():
            own = [each for each in flagged if each[0] == source]
            last = {key: at_ms for key, (at_ms, _) in self._times.of(source, {each[1] for each in own}).items()}
            for _, key, known_at, row in own:
                before = last.get(key)
                if before is not None and abs(known_at - before) <= within_ms:
                    repeated.setdefault(row, []).append(source)
                last[key] = known_at if before is None else max(known_at, before)
        index = decided.schema.get_field_index("repeated")
        column = pa.array([repeated.get(row) for row in range(decided.num_rows)], pa.list_(pa.string()))
        return decided.set_column(index, decided.schema.field(index), column)

    def keep(self, decided: pa.Table) -> None:
        """Remember when the groups of these decisions were flagged; the same again changes nothing."""
        if not self._within_ms or not decided.num_rows:
            return
        flagged = list(self._flagged(decided))
        for source, within_ms in self._within_ms.items():
            own = [(key, known_at) for each, key, known_at, _ in flagged if each == source]
            if own:
                self._times.advance(source, own)
                self._times.forget_before(source, max(known_at for _, known_at in own) - within_ms - KEPT_MS)

    def _flagged(self, decided: pa.Table) -> Iterator[tuple[str, str, int, int]]:
        """Source, group, known_at and row of what is flagged by sources that alert once an incident."""
        numbered = decided.append_column("row", pa.array(range(decided.num_rows)))
        events = [(json.loads(each["event"]), each) for each in flagged_decisions(numbered)]
        for event, each in sorted(events, key=lambda one: (one[0]["known_at"], one[1]["offset"], one[1]["partition"])):
            group = event.get(self._model.group)
            for source in sources_of(each):
                if source in self._within_ms and group is not None:
                    key = blake2b(json.dumps(group).encode(), digest_size=KEY_BYTES).hexdigest()
                    yield source, key, event["known_at"], each["row"]
