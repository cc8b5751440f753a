"""Contents for the tests of online stores."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pyarrow as pa
from redis import Redis

from features.online_store.port import Marker
from features.rows.layout import HEADER
from features.rows.matrix import PackedRows


def emptied(*urls):
    """Empties all of these servers; returns the URL of the first."""
    for url in urls:
        with closing(Redis.from_url(url)) as client:
            client.flushall()
    return urls[0]


def begun(store, stream_id=1, **options):
    """A handle of the generation that may write to it."""
    generation = store.generation(stream_id, **options)
    generation.begin()
    return generation


def marker(number, done=None):
    """The marker of a store after a batch."""
    return Marker(number, {"t/0": number}, {"t/0": number + 1}, number if done is None else done)


def aged(*newest):
    """Rows whose headers have these times of the newest event, and no other contents."""
    headers = np.zeros(len(newest), dtype=HEADER)
    headers["newest"] = newest
    keys = [f"k{number}" for number in range(len(newest))]
    return PackedRows(pa.array(keys), pa.array([bytes(header) + b"rest" for header in headers], pa.binary()))
