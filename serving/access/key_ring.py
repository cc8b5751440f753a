"""The keys that a service answers to, as its file of keys has them now."""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from features.errors import HeadraceError
from serving.access.key_file import ID_BYTES, PREFIX, Key, digest_of, read_keys
from serving.access.principal import Principal

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""How often the file is looked at, while there are requests: a revoked key is none after this."""

ID = slice(len(PREFIX), len(PREFIX) + 2 * ID_BYTES)
"""Where the text of a key has its id."""

Signature = tuple[int, int, int, int] | None
"""Inode, time, size and mode of a file; None for no file."""


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key, ready to be compared."""

    id: str
    digest: bytes
    principal: Principal
    tenant: str
    rate: float
    expires_at: int | None

    @classmethod
    def of(cls, key: Key) -> HeldKey:
        """As the file has it."""
        principal = Principal.of(key.name, key.scopes)
        return cls(key.id, bytes.fromhex(key.sha256), principal, key.tenant, key.rate, key.expires_at)


NONE = HeldKey("", secrets.token_bytes(32), Principal.of("", ()), "", 1.0, None)
"""What the text of an unknown id is compared with, so that it takes as long as another."""


class KeyRing:
    """The keys of a file, for one thread.

    Once there has been a file, keys are asked for as long as the process lives: of a file that has gone no key is
    valid, and of one that cannot be read those of before are.

    Args:
        path: of the file; None for none.
        required: whether keys are asked for before there is a file.
        failed: called where the file cannot be read.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        required: bool = False,
        failed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._failed, self._clock = path, failed, clock
        self._required = required
        self._by_id: dict[bytes, HeldKey] = {}
        self._seen: Signature = None
        self._look_at = float("-inf")

    def is_required(self) -> bool:
        """Whether a request needs a key, by the file of not more than LOOK_EVERY_S ago."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._look()
        return self._required

    def holder(self, text: bytes) -> HeldKey | None:
        """The key of this text; None for a text that is none. The time tells nothing of how much of it is right."""
        held = self._by_id.get(text[ID], NONE)
        same = hmac.compare_digest(digest_of(text), held.digest)
        return held if same and held is not NONE else None

    def _look(self) -> None:
        """Takes the file's keys if it is another than before."""
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            keys = None if self._path is None else read_keys(self._path)
        except HeadraceError as error:
            self._required = True
            self._failed()
            logger.error("keys_unreadable error=%s", error)
            return
        self._required = self._required or keys is not None
        self._by_id = {key.id.encode(): HeldKey.of(key) for key in keys or ()}

    def _signature(self) -> Signature:
        try:
            found = None if self._path is None else self._path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return (0, 0, 0, 0)
        return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
