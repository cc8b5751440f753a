"""The offline store: events of topics and of files into Delta tables, each once, and the tables' maintenance.

In: micro-batches, files, topics' first offsets. Out: one Delta table a stream.
"""

from streaming.archive.appending import as_store_error, delete_rows, sql_one_of, sql_text
from streaming.archive.cutoff import CutOffs, TopicStarts, topic_starts
from streaming.archive.importing import ImportCounts, Importer, ImportSource, digest_of
from streaming.archive.maintenance import maintain, maintained_every, state_of, tables_of
from streaming.archive.sink import Archive, ArchiveSink

__all__ = [
    "Archive",
    "ArchiveSink",
    "CutOffs",
    "ImportCounts",
    "ImportSource",
    "Importer",
    "TopicStarts",
    "as_store_error",
    "delete_rows",
    "digest_of",
    "maintain",
    "maintained_every",
    "sql_one_of",
    "sql_text",
    "state_of",
    "tables_of",
    "topic_starts",
]
