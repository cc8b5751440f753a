"""Accepted events as pending events: every replica's next read counts them, until the stream folds them."""

from __future__ import annotations

from collections.abc import Mapping

from features.definitions import ChosenRecommenders, FeatureRepo, Recommender, Stream
from features.events import EventColumns, Verdict, entity_keys
from features.online_store import Pending, PendingEvent
from serving.events.verdicts import Acknowledgement, JudgedEvents

SEPARATOR = "\x1f"
"""Between a recommender's name and a session's id: an id of two recommenders is two sessions."""


class OwnClicks:
    """Keeps accepted events for the reads of features and sessions; may be shared by threads.

    Args:
        recommenders: those whose sessions are remembered.
        ttl_ms: the longest that an event is pending.
        session_ttl_ms: the time for which a session is remembered after its last event.
    """

    def __init__(
        self,
        pending: Pending,
        repo: FeatureRepo,
        recommenders: ChosenRecommenders,
        ttl_ms: int,
        session_ttl_ms: int,
    ) -> None:
        self._pending, self._repo, self._recommenders = pending, repo, recommenders
        self._ttl_ms, self._session_ttl_ms = ttl_ms, session_ttl_ms

    def keep(self, stream: Stream, judged: JudgedEvents, acknowledged: Mapping[int, Acknowledgement]) -> int:
        """Stores the acknowledged events as pending; the number of entries without room. Raises StoreError."""
        entries = entries_of(self._repo, stream, judged, acknowledged)
        refused = self._pending.put(entries, self._ttl_ms) if entries else 0
        for recommender in self._recommenders.by_name.values():
            if recommender.stream.name == stream.name:
                for session, items in _sessions(recommender, judged, acknowledged).items():
                    self._pending.add_to_session(self._key(recommender.name, session), items, self._session_ttl_ms)
        return refused

    def size(self) -> tuple[int, int]:
        """The number of pending entries of all replicas, and their bytes. Raises StoreError."""
        return self._pending.size()

    def items(self, recommender: str, session: str) -> tuple[str, ...]:
        """The session's items, newest first, each once. Raises StoreError."""
        return tuple(dict.fromkeys(self._pending.session(self._key(recommender, session))))

    def _key(self, recommender: str, session: str) -> str:
        default = self._recommenders.default
        return session if default is not None and default.name == recommender else f"{recommender}{SEPARATOR}{session}"


def _sessions(
    recommender: Recommender, judged: JudgedEvents, acknowledged: Mapping[int, Acknowledgement]
) -> dict[str, list[str]]:
    """Session → its items, newest first, by the events of the recommender's kinds."""
    session_field, kind_field, events = recommender.session, recommender.kind, judged.parsed.events
    if session_field is None:
        return {}
    items = entity_keys({name: events[name] for name in recommender.item.keys}, recommender.item).to_pylist()
    kinds = [None] * len(items) if kind_field is None else events[kind_field].to_pylist()
    messages = judged.parsed.records[judged.parsed.rows].tolist()
    of_events = zip(messages, events[session_field].to_pylist(), items, kinds, strict=True)
    sessions: dict[str, list[str]] = {}
    for at, session, item, kind in of_events:
        counts = kind_field is None or kind in recommender.remembered_kinds
        if at in acknowledged and session is not None and item is not None and counts:
            sessions.setdefault(str(session), []).insert(0, str(item))
    return sessions


def entries_of(
    repo: FeatureRepo, stream: Stream, judged: JudgedEvents, acknowledged: Mapping[int, Acknowledgement]
) -> list[PendingEvent]:
    """A pending event for each valid, acknowledged event and each entity of it that a view describes."""
    parsed = judged.parsed
    valid = [
        (number, judged.of[row])
        for number, row in enumerate(parsed.rows.tolist())
        if judged.of[row] in acknowledged and judged.verdicts[row] == Verdict.VALID
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
