"""The online store in a SQLite file: state rows and pending events.

In: a path and the port's calls (port.py). Out: rows, markers and pending events.
"""

from features.online_store.sqlite.connecting import connected
from features.online_store.sqlite.erasure import SqliteErasure
from features.online_store.sqlite.rows import SqliteRows

__all__ = ["SqliteErasure", "SqliteRows", "connected"]
