"""Online stores that hold packed state rows, and the same as Feast plug-ins.

    cells.py        the port: what a database must do for a generation to live in it
    generation.py   batch.Store over the port: one driver's way into a generation
    sqlite.py       the port on one SQLite file, and SqliteRows
    redis.py        the port on a Redis server or cluster, and RedisRows (redis_client, redis_parts, redis_scripts)
    settings.py     which store feature_store.yaml names, opened to write or to read
    breaker.py      readers of a store that does not answer

Everything that decides what a row, a marker or a remembered id means stands above the port, so that two databases
cannot disagree on it.
"""
