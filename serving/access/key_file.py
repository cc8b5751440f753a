"""The file of keys: for each its scopes, tenant and rate, and of the key itself only the SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from features.errors import HeadraceError, UsageError
from features.machine import locked, replaced
from features.times import moment_text

PREFIX, SECRET_BYTES, ID_BYTES = "hr_", 32, 6
"""A key is hr_ID_SECRET: 12 hexadecimal digits that find it in the file, and 256 random bits in 43 characters."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

SCOPE = r"^(read|ops|events:(\*|[A-Za-z0-9_]{1,128}))\Z"

LOWEST_RATE, HIGHEST_RATE = 0.001, 1_000_000.0
"""Requests a second: one in a quarter of an hour, and more than a service answers."""

MOST_TENANT = 256
"""Characters of a tenant's name."""

WAIT_S = 5.0

Rate = Annotated[float, Meta(ge=LOWEST_RATE, le=HIGHEST_RATE)]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as the file has it; times are epoch ms."""

    name: Annotated[str, Meta(pattern=NAME)]
    id: Annotated[str, Meta(pattern=rf"^[0-9a-f]{{{2 * ID_BYTES}}}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Annotated[str, Meta(pattern=SCOPE)], ...], Meta(min_length=1)]
    tenant: Annotated[str, Meta(min_length=1, max_length=MOST_TENANT)]
    rate: Rate
    """Requests a second, and as many at once (at least one)."""
    created_at: int
    expires_at: int | None = None
    """From then on it is no key; None for never."""


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file."""

    version: Annotated[int, Meta(ge=1, le=1)]
    keys: tuple[Key, ...]


_decoder = msgspec.json.Decoder(KeyList)


@dataclass(frozen=True)
class NewKey:
    """A key that was made, and its text, which is nowhere else."""

    key: Key
    text: str


class KeyFileError(HeadraceError):
    """Raised for a file of keys that cannot be read, or that others may write."""


def digest_of(text: bytes) -> bytes:
    """The SHA-256 of a key's text: as it has 256 random bits, no slower hash hides it better."""
    return hashlib.sha256(text).digest()


def key_of(keys: Sequence[Key], name: str) -> Key | None:
    """The key of this name; None for none."""
    return next((key for key in keys if key.name == name), None)


def read_keys(path: Path) -> tuple[Key, ...] | None:
    """The keys of the file; None where there is no file.

    Raises:
        KeyFileError: it is no file of keys, or others than its owner may write it.
    """
    where = f"the file of keys {path}"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(where, "a file that can be read", error.strerror or type(error).__name__) from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        step = f"Look who wrote it, then: chmod 600 {path}"
        raise KeyFileError(where, "a file that its owner alone may write", f"mode {mode:04o}", step)
    try:
        keys = _decoder.decode(content).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(where, "what 'headrace keys' writes", str(error)) from None
    for what, values in (("names", [key.name for key in keys]), ("ids", [key.id for key in keys])):
        if len(set(values)) < len(values):
            raise KeyFileError(where, f"{what} that differ", "two that are the same")
    return keys


def added(
    path: Path, name: str, scopes: Sequence[str], tenant: str, rate: float, now: int, expires_at: int | None = None
) -> NewKey:
    """The file has another key, of which it says all but the key itself; only its owner may read or write it.

    Raises:
        UsageError: there is a key of this name.
        KeyFileError: the file cannot be read or written.
    """
    made: list[NewKey] = []

    def with_it(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        taken = key_of(keys, name)
        if taken is not None:
            got = f"a key of {moment_text(taken.created_at)}"
            raise UsageError(f"key '{name}'", "a name that is free", got, f"See 'headrace keys revoke {name}'.")
        known = {key.id for key in keys}
        key_id = next(one for one in iter(lambda: secrets.token_hex(ID_BYTES), "") if one not in known)
        text = f"{PREFIX}{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
        key = Key(
            name, key_id, digest_of(text.encode()).hex(), tuple(dict.fromkeys(scopes)), tenant, rate, now, expires_at
        )
        made.append(NewKey(key, text))
        return (*keys, key)

    _change(path, with_it)
    return made[0]


def revoked(path: Path, name: str) -> Key:
    """The file lacks the key of this name, which is returned; the file stays, also without keys.

    Raises:
        UsageError: there is none.
        KeyFileError: the file cannot be read or written.
    """
    gone: list[Key] = []

    def without_it(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        key = key_of(keys, name)
        if key is None:
            known = ", ".join(each.name for each in keys) or "no keys"
            raise UsageError(f"key '{name}'", f"one of {known}", "none of this name")
        gone.append(key)
        return tuple(each for each in keys if each is not key)

    _change(path, without_it)
    return gone[0]


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    """The file has the changed keys, at once; one change waits for another."""
    target = path.resolve()  # a link stays one

    def busy(holder: str) -> HeadraceError:
        return KeyFileError(f"the file of keys {path}", f"no other change within {WAIT_S:g} s", f"one by {holder}")

    try:
        with locked(target.with_name(f".{target.name}.lock"), busy, WAIT_S):
            keys = change(read_keys(target) or ())
            with replaced(target, durable=True) as fresh:
                fresh.unlink(missing_ok=True)
                descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(KeyList(1, keys)), indent=2) + b"\n")
    except OSError as error:
        got = error.strerror or type(error).__name__
        raise KeyFileError(f"the file of keys {path}", "a folder that can be written", got) from None
