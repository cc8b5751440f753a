"""The online store's part: rows of all generations, pending events, sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from features.definitions import FeatureRepo
from features.online_store import Cell, Erasure
from streaming.forget.subject import Subject

ROWS, FEAST = "rows/", "feast/"
"""The starts of the tables with rows of our views, and of ordinary Feast views."""


def forget_rows(store: Erasure, repo: FeatureRepo, subject: Subject, *, dry_run: bool) -> dict[str, int]:
    """View → the number of the subject's rows, of all generations, which are deleted."""
    ours = [cell for cell, _ in store.cells() if _is_of(subject, repo, cell)]
    if not dry_run:
        store.delete(ours)
    return dict(Counter(table.partition("/")[2] for _, table, _ in ours))


def forget_pending(store: Erasure, repo: FeatureRepo, subject: Subject, *, dry_run: bool) -> int:
    """The number of the subject's pending events, which are deleted under the keys of all entities."""
    places = set()
    for entry in store.pending():
        view = repo.views.get(entry.view)
        own = view is not None and subject.is_of(view.entity, entry.key)
        if own or subject.is_in(entry.value.decode(errors="replace")):
            places.add((entry.topic_partition, entry.offset))
    if not dry_run:
        store.delete_pending(places)
    return len(places)


def forget_sessions(store: Erasure, sessions: Collection[str], *, dry_run: bool) -> int:
    """The number of these sessions that are kept, which are deleted."""
    kept = [name for name, _ in store.sessions() if name in sessions]
    if not dry_run:
        store.delete_sessions(kept)
    return len(kept)


def named_in(store: Erasure, repo: FeatureRepo, subject: Subject) -> Iterator[tuple[str, bool]]:
    """Where the subject is still named: a table, pending events or a session; and whether by another entity's row."""
    find = subject.pattern.search if subject.pattern is not None else lambda _: None
    for cell, value in store.cells():
        own = _is_of(subject, repo, cell)
        # Packed values are no text: a short id would be found in numbers and hashes.
        if own or (subject.is_sure and (find(cell[2].encode()) or find(value))):
            yield cell[1], cell[1].startswith(ROWS) and not own
    yield from (("pending events", False) for each in store.pending() if find(each.key.encode()) or find(each.value))
    yield from (("sessions", False) for name, items in store.sessions() if find(name.encode()) or find(items))


def _is_of(subject: Subject, repo: FeatureRepo, cell: Cell) -> bool:
    _, table, key = cell
    if table.startswith(ROWS):
        view = repo.views.get(table.removeprefix(ROWS))
        # A view that the definitions do not have any more has rows of a key that looks the same.
        return subject.is_of(view.entity, key) if view else len(subject.key) == 1 and key == subject.text
    return table.startswith(FEAST) and _is_of_feast(subject, key)


def _is_of_feast(subject: Subject, key: str) -> bool:
    """True if the key of a row of an ordinary Feast view, Feast's own bytes in hex, has the subject's values."""
    from feast.infra.key_encoding_utils import deserialize_entity_key
    from feast.type_map import feast_value_type_to_python_type

    found = deserialize_entity_key(bytes.fromhex(key), entity_key_serialization_version=3)
    values = {
        name: feast_value_type_to_python_type(value)
        for name, value in zip(found.join_keys, found.entity_values, strict=True)
    }
    return all(name in values and str(values[name]) == str(value) for name, value in subject.key.items())
