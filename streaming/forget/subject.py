"""Who is forgotten: an entity's key, and how to tell what is of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from features.definitions import Entity

SURE_LENGTH = 8
"""From so many characters on, an id is looked for within words too: packed values stand beside one another."""


@dataclass(frozen=True)
class Subject:
    """An entity of the definitions and its key: column → value."""

    entity: Entity
    key: Mapping[str, Any]

    def is_of(self, other: Entity, cell_key: str) -> bool:
        """True if this key of the other entity has all of the subject's columns, with its values."""
        if not set(self.key) <= set(other.keys):
            return False
        parts = dict(zip(other.keys, _parts(cell_key, len(other.keys)), strict=False))
        return all(parts.get(name) == str(value) for name, value in self.key.items())

    @cached_property
    def pattern(self) -> re.Pattern[bytes] | None:
        """Finds the id in bytes; None for a composite key, whose parts alone say nothing."""
        if len(self.key) > 1:
            return None
        text = re.escape(self.text.encode())
        return re.compile(text if len(self.text) >= SURE_LENGTH else rb"(?<![\w.-])" + text + rb"(?![\w.-])")

    @property
    def is_sure(self) -> bool:
        """True for an id that is long enough to mean nothing else among bytes that are no text."""
        return self.pattern is not None and len(self.text) >= SURE_LENGTH

    @property
    def text(self) -> str:
        """The values of the key, as messages show them."""
        return ",".join(str(value) for value in self.key.values())

    def is_in(self, text: str) -> bool:
        """True for a JSON object with the subject's columns and values; for another text, if the id is in it."""
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return all(name in found and str(found[name]) == str(value) for name, value in self.key.items())
        return self.pattern is not None and self.pattern.search(text.encode()) is not None


def _parts(cell_key: str, count: int) -> Iterator[str]:
    """The values in the key of a row: the key itself, or for a composite one 'length:value,' for each."""
    if count == 1:
        yield cell_key
        return
    rest = cell_key.encode()
    while rest:
        length, _, after = rest.partition(b":")
        yield after[: int(length)].decode(errors="replace")
        rest = after[int(length) + 1 :]
