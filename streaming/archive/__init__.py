"""The offline store: events of topics and of files into Delta tables, each once, and the tables' maintenance.

In: micro-batches, files, topics' first offsets. Out: one Delta table a stream.
"""

from streaming.archive.cutoff import Cuts, TopicStarts
from streaming.archive.importing import Counts, Importer, Source, digest_of
from streaming.archive.maintenance import kept_up, state_of, tables_of
from streaming.archive.sink import Archive, ArchiveSink
from streaming.archive.topic_bounds import topic_starts
from streaming.archive.upkeep import kept_up_every

__all__ = [
    "Archive",
    "ArchiveSink",
    "Counts",
    "Cuts",
    "Importer",
    "Source",
    "TopicStarts",
    "digest_of",
    "kept_up",
    "kept_up_every",
    "state_of",
    "tables_of",
    "topic_starts",
]
