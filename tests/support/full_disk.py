"""A disk without room."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def fill(file: Path) -> None:
    """The disk of the file has no byte left."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
