"""Accepted events as pending events: every replica's next read counts them, until the stream folds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

from features.definitions import FeatureRepo, Stream
from features.events import EventColumns, Verdict
from features.online_store import Pending, PendingEvent
from serving.events.verdicts import Acknowledgement, JudgedEvents

SESSION, KIND = "session_id", "event_type"


class OwnClicks:
    """Keeps accepted events for the reads of features and sessions; may be shared by threads.

    Args:
        item: the field of an event's item.
        kinds: event types that make up a session's history.
        ttl_ms: the longest that an event is pending.
        session_ttl_ms: the time for which a session is remembered after its last event.
    """

    def __init__(
        self,
        pending: Pending,
        repo: FeatureRepo,
        item: str,
        kinds: Collection[str],
        ttl_ms: int,
        session_ttl_ms: int,
    ) -> None:
        self._pending, self._repo, self._item, self._kinds = pending, repo, item, frozenset(kinds)
        self._ttl_ms, self._session_ttl_ms = ttl_ms, session_ttl_ms

    def keep(self, stream: Stream, judged: JudgedEvents, acknowledged: Mapping[int, Acknowledgement]) -> int:
        """Stores the acknowledged events as pending; the number of entries without room. Raises StoreError."""
        entries = entries_of(self._repo, stream, judged, acknowledged)
        refused = self._pending.put(entries, self._ttl_ms) if entries else 0
        for session, items in self._sessions(judged, acknowledged).items():
            self._pending.add_to_session(session, items, self._session_ttl_ms)
        return refused

    def size(self) -> tuple[int, int]:
        """The number of pending entries of all replicas, and their bytes. Raises StoreError."""
        return self._pending.size()

    def _sessions(self, judged: JudgedEvents, acknowledged: Mapping[int, Acknowledgement]) -> dict[str, list[str]]:
        """Session → its items, newest first."""
        events = judged.parsed.events
        if not {SESSION, KIND, self._item} <= set(events.column_names):
            return {}
        sessions: dict[str, list[str]] = {}
        for at, event in zip(judged.parsed.rows.tolist(), _plain(events, self._item), strict=True):
            whole = event[SESSION] is not None and event[self._item] is not None
            if at in acknowledged and whole and event[KIND] in self._kinds:
                sessions.setdefault(str(event[SESSION]), []).insert(0, str(event[self._item]))
        return sessions

    def items(self, session: str) -> tuple[str, ...]:
        """The session's items, newest first, each once. Raises StoreError."""
        return tuple(dict.fromkeys(self._pending.session(session)))


def _plain(events: pa.Table, item: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = events.select([SESSION, KIND, item]).to_pylist()
    return rows


def entries_of(
    repo: FeatureRepo, stream: Stream, judged: JudgedEvents, acknowledged: Mapping[int, Acknowledgement]
) -> list[PendingEvent]:
    """A pending event for each valid, acknowledged event and each entity of it that a view describes."""
    parsed = judged.parsed
    valid = [
        (number, at)
        for number, at in enumerate(parsed.rows.tolist())
        if at in acknowledged and judged.verdicts[at] == Verdict.VALID
    ]
    columns = EventColumns(parsed.events, stream)
    entries = []
    for view in repo.reading(stream.name) if valid else ():
        keys = columns.entity_keys(view.entity).to_pylist()
        entries += [
            _entry(view.name, keys[number], judged.messages[at].topic, acknowledged[at], judged.messages[at].value)
            for number, at in valid
            if keys[number] is not None
        ]
    return entries


def _entry(view: str, key: str, topic: str, acknowledged: Acknowledgement, value: bytes) -> PendingEvent:
    return PendingEvent(
        view, key, f"{topic}/{acknowledged.partition}", acknowledged.offset, acknowledged.known_at, value
    )
