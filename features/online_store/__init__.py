"""Online stores that hold packed state rows, and the same as Feast plug-ins.

    cells.py        the port: what a database must do for a generation to live in it
    generation.py   batch.Store over the port: one driver's way into a generation
    sqlite.py       the port on one SQLite file, and SqliteRows
    redis.py        the port on a Redis server, and RedisRows

Everything that decides what a row, a marker or a remembered id means stands above the port, so that two databases
cannot disagree on it.
"""
