"""Taking out of the archive what a file brought, so that it can be imported as if for the first time."""

from __future__ import annotations

import pyarrow.compute as pc

from features.errors import UsageError
from features.history import open_table
from streaming.archive.appending import delete_rows, opened, sql_one_of
from streaming.archive.earlier import file_of
from streaming.archive.passes import round_id
from streaming.archive.sink import Archive

REJECTS = "_import_rejects"
"""The table of refused records, in the same folder as those of the streams."""


def remove_import(archive: Archive, name: str, digest: str | None) -> dict[str, int]:
    """Stream → the number of events removed, of all imports of files of this name.

    Events that version 0.1 imported have no name; they go where the file is still as it was then.

    Args:
        digest: the file's, if it is still there.

    Raises:
        UsageError: no file of that name brought anything.
        StoreError: a table cannot be written; what is removed stays so, and the same call removes the rest.
    """
    removed, others = {}, set[str]()
    digests = set() if digest is None else {digest}
    for stream in archive.repo.streams.values():
        table = open_table(archive.folder, stream)
        topics = [] if table is None else table.imported()
        ours = [topic for topic in topics if file_of(topic)[1] == name or file_of(topic) == (digest, "")]
        others |= {file_of(topic)[1] for topic in topics} - {name, ""}
        if ours:
            found = {file_of(topic)[0] for topic in ours}
            versions = {round_id(each): 1 + (archive.transaction(stream, round_id(each)) or 0) for each in found}
            removed[stream.name] = delete_rows(archive.path(stream), sql_one_of("topic", ours), versions)
            digests |= found
    refused = _remove_rejects(archive, name, digests)
    if not removed and not refused:
        raise UsageError(
            f"--undo '{name}'", f"a file that was imported ({', '.join(sorted(others)) or 'none was'})", "another"
        )
    return removed


def _remove_rejects(archive: Archive, name: str, digests: set[str]) -> int:
    table = opened(archive.folder / REJECTS)
    if table is None:
        return 0
    files = table.to_pyarrow_dataset().to_table(columns=["file"], filter=pc.field("file") == name)
    if not len(files):
        return 0
    versions = {round_id(each): 1 + (table.transaction_version(round_id(each)) or 0) for each in digests}
    return delete_rows(archive.folder / REJECTS, sql_one_of("file", [name]), versions)
