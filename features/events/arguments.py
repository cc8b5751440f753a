"""Entity keys and times as a person writes them: on a command line or in a URL."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from features.arrays import Int64s
from features.definitions import Entity
from features.errors import UsageError
from features.events.decoded import INT64
from features.events.timestamps import PLAUSIBLE, implausible, ms_of_text, with_unit_hint


def parsed_key(entity: Entity, text: str) -> dict[str, Any]:
    """The key values of an ID: the value itself, or 'k1=v1,k2=v2' for a composite key.

    Raises:
        UsageError: a part of the key is missing or unknown, or not of its dtype.
    """
    where = f"the id of entity '{entity.name}'"
    if len(entity.keys) == 1:
        pairs = dict.fromkeys(entity.keys, text)
    else:
        required = ",".join(f"{name}=…" for name in entity.keys)
        parts = [part.partition("=") for part in text.split(",")]
        pairs = {name.strip(): value for name, sign, value in parts if sign}
        if len(pairs) != len(parts) or set(pairs) != set(entity.keys):
            raise UsageError(where, required, repr(text))
    return {name: _key_value(pairs[name], dtype, f"{where}: {name}") for name, dtype in entity.keys.items()}


def _key_value(text: str, dtype: str, where: str) -> str | int:
    if dtype == "string":
        return text
    if re.fullmatch(r"[+-]?\d{1,19}", text) and int(text) in INT64:
        return int(text)
    raise UsageError(where, "a whole number (int64)", repr(text))


def parsed_time(text: str) -> int:
    """Epoch ms of a time in epoch ms or RFC 3339. Raises UsageError for any other text, and for an implausible time."""
    numeric = re.fullmatch(r"-?\d{1,19}", text)
    time = int(text) if numeric else ms_of_text(pa.array([text], pa.string()))[0].as_py()
    if time is None:
        raise UsageError("a time", "RFC 3339 with its zone, such as 2011-11-09T12:00:00Z, or epoch ms", repr(text))
    if implausible(int(time)):
        raise UsageError(f"the time {text!r}", PLAUSIBLE, with_unit_hint(int(time), "ms"))
    return int(time)


def plausible_times(where: str, times: Int64s, unit: str = "ms") -> None:
    """Raises UsageError for a time (epoch ms, read as numbers in ``unit``) that is not from 1990 to 2099."""
    wrong = times[implausible(times)]
    if len(wrong):
        others = f" in {len(wrong):,} of {len(times):,} rows" if len(times) > 1 else ""
        raise UsageError(where, PLAUSIBLE, with_unit_hint(int(wrong[0]), unit) + others)
