"""Entity keys and times as a person writes them: on a command line or in a URL."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from features.arrays import Int64s
from features.definitions import Entity
from features.errors import UsageError
from features.events.keys import key_column
from features.events.timestamps import PLAUSIBLE, implausible, ms_of_text, with_unit_hint


def parsed_key(entity: Entity, text: str) -> dict[str, Any]:
    """The key values of an ID: the value itself, or 'k1=v1,k2=v2' for a composite key, in any order.

    A value may have commas; one with ',k2=' in it has to be asked for in JSON: {"k1": "a,k2=b", "k2": "c"}.

    Raises:
        UsageError: a part of the key is missing, unknown or there twice, or not of its dtype.
    """
    where = f"the id of entity '{entity.name}'"
    if len(entity.keys) == 1:
        pairs = dict.fromkeys(entity.keys, text)
    else:
        pairs = _of_json(text) if text.startswith("{") else _of_pairs(list(entity.keys), text)
        if set(pairs) != set(entity.keys):
            required = ",".join(f"{name}=…" for name in entity.keys)
            raise UsageError(where, f"{required}, each once, or a JSON object of them", repr(text))
    return {
        name: key_column([pairs[name]], dtype, f"{where}: {name}")[0].as_py() for name, dtype in entity.keys.items()
    }


def _of_pairs(names: Sequence[str], text: str) -> dict[str, Any]:
    """The values by name; empty if a name is there twice, or the text does not begin with one."""
    name = "|".join(map(re.escape, names))
    start, *parts = re.split(rf"(?:\A|,)[ \t]*({name})[ \t]*=", text)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return found if not start and 2 * len(found) == len(parts) else {}


def _of_json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
