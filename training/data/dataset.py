"""The history that a training reads: events of the offline store or a file, and the interactions in them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.definitions import RESERVED, FeatureRepo, FeatureView, Recommender, Stream, used_columns
from features.errors import UsageError
from features.events import EventColumns
from features.formats import Refused, read_events
from features.history import ALWAYS, ArchiveTable, Span, deduplicated, open_table
from models.folder import ViewInputs
from training.data.sampling import EventLimit, SampledEvents, WholeArchive

Events = Mapping[str, pa.Table]
"""Stream name → its deduplicated events, with the columns of event_schema()."""


@dataclass(frozen=True)
class Domain:
    """The definition that a model is of, and the fields of items that its events have."""

    recommender: Recommender
    category: str | None = None
    """The stream's field that holds an item's category."""
    price: str | None = None
    """The stream's field that holds an item's price."""

    @classmethod
    def of(cls, recommender: Recommender) -> Domain:
        """A field of items counts where the stream has it as such: a text is a category, a number a price."""
        dtypes, category, price = recommender.stream.dtypes, recommender.category, recommender.price
        return cls(
            recommender,
            category if category is not None and dtypes.get(category) == "string" else None,
            price if price is not None and dtypes.get(price) == "float64" else None,
        )

    @property
    def stream(self) -> Stream:
        """The stream of what users did with items."""
        return self.recommender.stream

    @property
    def user(self) -> FeatureView:
        """The feature view of the user."""
        return self.recommender.user_view

    @property
    def item(self) -> FeatureView:
        """The feature view of the item."""
        return self.recommender.item_view

    @property
    def catalogue(self) -> FeatureView | None:
        """The view with the items' attributes."""
        return self.recommender.catalogue

    @cached_property
    def user_inputs(self) -> ViewInputs:
        """The user's features that the ranker takes."""
        return ViewInputs.of(self.user, self.recommender.user_features)

    @cached_property
    def item_inputs(self) -> ViewInputs:
        """The item's features that the ranker takes."""
        return ViewInputs.of(self.item, self.recommender.item_features)

    @property
    def streams(self) -> dict[str, Stream]:
        """Every stream that training reads, by name."""
        of_views = (stream for view in self.views for stream in view.streams)
        return {stream.name: stream for stream in (self.stream, *of_views)}

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """Every view that training reads."""
        return (self.user, self.item) if self.catalogue is None else (self.user, self.item, self.catalogue)

    @property
    def of_users(self) -> frozenset[str]:
        """The names of the streams of what users did: the others are only of items."""
        return frozenset(stream.name for stream in (self.stream, *self.user.streams))

    def horizon_ms(self, stream: Stream) -> int | None:
        """The longest horizon of the views that read the stream; None where none does."""
        views = [view for view in self.views if stream in view.streams]
        return max((view.horizon_ms for view in views), default=None)


def read_offline(
    folder: Path,
    domain: Domain,
    span: Span = ALWAYS,
    bound: EventLimit | None = None,
    versions: Mapping[str, int] | None = None,
) -> Events:
    """The deduplicated events that became known in the span, of the Delta table of each stream that has one.

    Only the columns that the features or the model depend on are read, and only the files that may hold such times.
    Of more events than the bound allows, they are those of some users (SampledEvents).

    Args:
        versions: stream → the version of its table that is read, none of a stream that is not there; the newest unless
            given.

    Raises:
        UsageError: the model's own stream has no table yet.
        FormatError: a table has no place or time for its events. A field that its stream has gained since is null.
    """
    tables = _open_tables(folder, domain, versions)
    if domain.stream.name not in tables:
        where = f"offline store '{folder}'"
        next_step = "Start 'headrace stream', or bring history in with 'headrace import'."
        raise UsageError(where, f"a table '{domain.stream.name}'", ", ".join(tables) or "none", next_step)
    columns = {name: _columns(domain, table.stream) for name, table in tables.items()}
    if bound is None or sum(table.rows(span) for table in tables.values()) <= bound.events:
        return {name: deduplicated(table.events(columns[name], span), table.stream) for name, table in tables.items()}
    of_users = {name: columns[name] for name in tables if name in domain.of_users}
    return SampledEvents.drawn(WholeArchive(tables, span, bound), domain.user.entity, of_users)


def _open_tables(folder: Path, domain: Domain, versions: Mapping[str, int] | None) -> dict[str, ArchiveTable]:
    """The tables of the domain's streams that have one, at these versions; at the newest for None."""
    streams = {name: stream for name, stream in domain.streams.items() if versions is None or name in versions}
    opened = {
        name: open_table(folder, stream, domain.horizon_ms(stream), (versions or {}).get(name))
        for name, stream in streams.items()
    }
    return {name: table for name, table in opened.items() if table is not None}


def _columns(domain: Domain, stream: Stream) -> list[str]:
    used = {name for view in domain.views for name in used_columns(view, stream)}
    if stream.name == domain.stream.name:
        used |= {*domain.user.entity.keys, *domain.item.entity.keys}
        fields = (domain.recommender.kind, domain.category, domain.price)
        used |= {name for name in fields if name is not None}
    return [*RESERVED, *(name for name in stream.dtypes if name in used)]


@dataclass(frozen=True)
class EventFile:
    """A file of events in a format (see features.formats), read by the definitions of a repo."""

    path: Path
    kind: str
    repo: FeatureRepo
    log: Callable[[str], None] = lambda _: None
    """Takes lines about rows that are no events."""

    def read(self, streams: Mapping[str, Stream], end_ms: int | None, bound: EventLimit | None) -> Events:
        """The deduplicated events of these streams that became known before end_ms; no stream without any in the file.

        Raises UsageError for a missing file or unknown format, and for more events than the bound allows.
        """
        parts: dict[str, list[pa.Table]] = {name: [] for name in streams}
        left = sys.maxsize if bound is None else bound.events
        repo = self.repo
        records = read_events(self.path, self.kind, repo.streams, repo.horizon_ms, repo.keys_of)
        for name, parsed in Refused().watched(records, self.log):
            if name in parts:
                parts[name].append(parsed.events)
                left -= parsed.events.num_rows
            if left < 0:
                raise self._too_many(bound)
        tables = {name: pa.concat_tables(batches) for name, batches in parts.items() if batches}
        if end_ms is not None:
            tables = {name: table.filter(pc.less(table["known_at"], end_ms)) for name, table in tables.items()}
        return {name: deduplicated(table, streams[name]) for name, table in tables.items()}

    def _too_many(self, bound: EventLimit | None) -> UsageError:
        """UsageError for a file larger than memory; import it, since sampling needs the offline store."""
        most = "fewer" if bound is None else f"at most {bound.events:,} (max_events)"
        next_step = "Bring it in with 'headrace import', and train on the offline store."
        return UsageError(f"file '{self.path}'", f"{most} events", "more", next_step)


def read_file(file: EventFile, domain: Domain, end_ms: int | None = None, bound: EventLimit | None = None) -> Events:
    """The events of the domain's streams in a file (see ``EventFile.read``).

    Raises UsageError as EventFile.read, and for a file without events of the model's own stream.
    """
    events = file.read(domain.streams, end_ms, bound)
    if domain.stream.name not in events:
        raise UsageError(f"file '{file.path}'", f"events of stream '{domain.stream.name}'", ", ".join(events) or "none")
    return events


def joined_events(files: Sequence[Events]) -> Events:
    """The events of all files, stream by stream."""
    names = sorted({name for events in files for name in events})
    return {name: pa.concat_tables([events[name] for events in files if name in events]) for name in names}


@dataclass(frozen=True)
class Interactions:
    """Events of a user with an item, in the order of becoming known; user, item and kind are codes of their pools."""

    users: pa.Array
    items: pa.Array
    kinds: tuple[str, ...]
    user: Int64s
    item: Int64s
    kind: Int64s
    known_at: Int64s
    categories: Int64s | None = None
    """Aligned: the code of the item's category, -1 for null; None where the stream has no such field."""
    prices: Floats | None = None
    """Aligned: the item's price, NaN for null; None where the stream has no such field."""

    def __len__(self) -> int:
        return len(self.user)

    def only(self, keep: NDArray[np.bool_] | slice) -> Interactions:
        """Some of them, with the same pools."""
        user, item, kind, known_at = (array[keep] for array in (self.user, self.item, self.kind, self.known_at))
        categories = None if self.categories is None else self.categories[keep]
        prices = None if self.prices is None else self.prices[keep]
        return Interactions(self.users, self.items, self.kinds, user, item, kind, known_at, categories, prices)

    def between(self, start_ms: int, end_ms: int) -> Interactions:
        """Those that became known in [start_ms, end_ms)."""
        lo, hi = np.searchsorted(self.known_at, [start_ms, end_ms])
        return self.only(slice(int(lo), int(hi)))

    def of(self, kinds: tuple[str, ...]) -> NDArray[np.bool_]:
        """(n,) whether each is of these kinds."""
        codes = [code for code, kind in enumerate(self.kinds) if kind in kinds]
        return np.isin(self.kind, codes)


def interactions_of(events: Events, domain: Domain) -> Interactions:
    """The events of the model's stream that have a user, an item and a kind."""
    table = events[domain.stream.name]
    columns = EventColumns(table, domain.stream)
    users, items = (columns.entity_keys(entity) for entity in (domain.user.entity, domain.item.entity))
    found, order = interactions_by(columns, users, items, kinds_of(table, domain.recommender))
    categories, prices = _item_fields(table.take(pa.array(order)), domain)
    return replace(found, categories=categories, prices=prices)


def interactions_by(
    columns: EventColumns, users: pa.Array, items: pa.Array, kinds: pa.Array
) -> tuple[Interactions, Int64s]:
    """The events that have all three of these texts, (n,) each; and the positions of these events among all n."""
    texts = (users, items, kinds)
    order = np.flatnonzero(np.logical_and.reduce([np.asarray(text.is_valid()) for text in texts]))
    order = order[np.lexsort((columns.seq[order], columns.known_at[order]))]
    (user, users), (item, items), (kind, kinds) = (coded(text.take(pa.array(order))) for text in texts)
    found = Interactions(users, items, tuple(kinds.to_pylist()), user, item, kind, columns.known_at[order])
    return found, order


def kinds_of(table: pa.Table, recommender: Recommender) -> pa.Array:
    """Each event's kind; the only target where events are of one kind."""
    if recommender.kind is None:
        return pa.repeat(pa.scalar(recommender.targets[0]), table.num_rows)
    return table[recommender.kind].combine_chunks()


def _item_fields(table: pa.Table, domain: Domain) -> tuple[Int64s | None, Floats | None]:
    """The codes of each event's category, -1 for null, and its price, NaN for null; None where there is no such field.

    The codes are those of the categories in rising order.
    """
    codes, prices = None, None
    if domain.category is not None:
        texts = table[domain.category].combine_chunks()
        codes = np.where(np.asarray(texts.is_valid()), coded(pc.fill_null(texts, ""))[0], -1)
    if domain.price is not None:
        prices = np.asarray(table[domain.price].to_numpy(), dtype=np.float64)
    return codes, prices


def coded(texts: pa.Array) -> tuple[Int64s, pa.Array]:
    """Codes, and the different texts in rising order, so that the same history has the same codes."""
    pool = pc.unique(texts)
    pool = pool.take(pc.sort_indices(pool))
    codes = pc.index_in(texts, value_set=pool).to_numpy(zero_copy_only=False)
    return np.asarray(codes, dtype=np.int64), pool
