"""Token buckets: how many requests a second each key has, counted over all replicas of a run on this machine.

A bucket holds as many requests as its key has in a second, at least one, and is kept as one number: the time at which
it is full again (the generic cell rate algorithm). Replicas share these in a file; a lock of 16 bytes of it makes
taking one step, and ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

SECOND_NS = 1_000_000_000

RECORD = struct.Struct("<8sq")
"""A key's id, and when its bucket is full (monotonic ns, which processes of a machine share)."""

TIME = struct.Struct("<q")

HEAD = 8
"""Bytes of a record before the time."""


class Rates:
    """The buckets of all keys, for one thread.

    Args:
        path: the file that replicas share; None for buckets of this process alone.
        failed: called where the file fails, from when on the buckets are this process' own.
        clock: monotonic ns.
    """

    def __init__(
        self,
        path: Path | None,
        failed: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._path, self._failed, self._clock = path, failed, clock
        self._file: int | None = None
        self._places: dict[str, int] = {}
        self._own: dict[str, int] = {}

    def wait_ns(self, key_id: str, rate: float) -> int:
        """Takes a request from the key's bucket and returns 0; or the ns after which there is one."""
        interval = int(SECOND_NS / rate)
        room = max(SECOND_NS - interval, 0)
        if self._path is not None:
            try:
                return self._taken_from_file(self._path, key_id, interval, room)
            except OSError:
                self._path = None
                self._failed()
        wait, full_at = taken(self._own.get(key_id, 0), self._clock(), interval, room)
        self._own[key_id] = full_at
        return wait

    def _taken_from_file(self, path: Path, key_id: str, interval: int, room: int) -> int:
        if self._file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = self._file
        place = self._places.get(key_id)
        if place is None:
            place = self._places[key_id] = _place_of(file, key_id)
        fcntl.lockf(file, fcntl.LOCK_EX, RECORD.size, place)
        try:
            (before,) = TIME.unpack(os.pread(file, TIME.size, place + HEAD))
            wait, full_at = taken(before, self._clock(), interval, room)
            if not wait:
                os.pwrite(file, TIME.pack(full_at), place + HEAD)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, RECORD.size, place)
        return wait


def taken(full_at: int, now: int, interval: int, room: int) -> tuple[int, int]:
    """(0, when the bucket is full after a request) or (ns to wait, ``full_at``); all in ns.

    Args:
        interval: the time in which a request comes into the bucket.
        room: how far ahead of now it may be full, and still have one.
    """
    begin = max(full_at, now)
    wait = begin - now - room
    return (wait, full_at) if wait > 0 else (0, begin + interval)


def _place_of(file: int, key_id: str) -> int:
    """Where the file has the key's record, which is added at its end if there is none."""
    name = bytes.fromhex(key_id).ljust(HEAD, b"\0")
    fcntl.lockf(file, fcntl.LOCK_EX)  # of all of it: nobody adds another at the same place
    try:
        size = os.fstat(file).st_size
        content = os.pread(file, size, 0)
        for place in range(0, size, RECORD.size):
            if content[place : place + HEAD] == name:
                return place
        os.pwrite(file, RECORD.pack(name, 0), size)
        return size
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)
