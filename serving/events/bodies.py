"""Bodies of POST /v1/events: cut apart before one event is read, so that a large one costs no more than its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.http import REFUSALS, UNKNOWN_FIELD, PlainText, ProblemError, field_error, field_problem, shown

MAX_EVENTS, MAX_EVENT_BYTES = 1_000, 1 << 16
"""The most events of a request, and the most bytes of one."""

MAX_OBJECTS = 64 * MAX_EVENTS

FORMS = EVENTS, MESSAGES, RECORDS = "events", "messages", "records"


@dataclass(frozen=True)
class Posted:
    """The events of one request, and the stream that it names (None: the default).

    ``form``: EVENTS, by our names; MESSAGES, as the stream's topic has them; RECORDS, messages with key and headers.
    """

    events: list[Any]
    stream: str | None
    form: str = EVENTS


def read_body(body: bytes) -> Posted:
    """One event, a list of them, or {"events": [...], "stream": ...}, or "messages" or "records" in place of "events".

    Raises ProblemError for anything else.
    """
    if body.count(b"{") > MAX_OBJECTS:  # to count the events of a list takes longer
        refuse("events", f"1 to {MAX_EVENTS} events", PlainText(f"more than {MAX_OBJECTS} objects"))
    try:
        envelope = _envelope(body)
        name = next((name for name in FORMS if getattr(envelope, name, msgspec.UNSET) is not msgspec.UNSET), None)
        if envelope is None or name is None:
            listed = _listed(body)
            return Posted(_counted([msgspec.Raw(body.strip())] if listed is None else listed, EVENTS), None)
        _check_envelope(body, envelope, name)
        given = getattr(envelope, name)
        listed = _listed(given)
        if listed is None:
            refuse(name, f"a list of {name}", _read(given))
        return Posted(_counted(listed or [], name), _read(envelope.stream), name)
    except REFUSALS as error:
        raise ProblemError(
            400, f"the body requires JSON; got {error}", [field_error("body", "JSON", PlainText(str(error)))]
        ) from None


class _Envelope(msgspec.Struct):
    """Events and the name of their stream, as they came; other fields are passed over."""

    events: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    records: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw = msgspec.Raw(b"null")


class _Exact(_Envelope, forbid_unknown_fields=True):
    """An envelope without other fields."""


def _envelope(body: bytes) -> _Envelope | None:
    return msgspec.json.decode(body, type=_Envelope) if body.lstrip()[:1] == b"{" else None


def _listed(body: bytes | msgspec.Raw) -> list[msgspec.Raw] | None:
    """The values of a JSON list, none of which is read yet; None for no list."""
    text = bytes(body)
    return msgspec.json.decode(text, type=list[msgspec.Raw]) if text.lstrip()[:1] == b"[" else None


def _check_envelope(body: bytes, envelope: _Envelope, name: str) -> None:
    others = [one for one in FORMS if one != name and getattr(envelope, one) is not msgspec.UNSET]
    try:
        msgspec.json.decode(body, type=_Exact)
    except msgspec.ValidationError as error:
        unknown = UNKNOWN_FIELD.search(str(error))
        others.append(shown(unknown["name"])[1:-1] if unknown else "body")
    if others:
        refuse(others[0], f"no such field: only {name} and stream stand beside each other", PlainText("one"))
    stream = _read(envelope.stream)
    if not isinstance(stream, str | None):
        refuse("stream", "the name of a stream", stream)


@dataclass(frozen=True)
class TooLarge:
    """Stands for an event of more bytes than one may have, which is not read."""

    size: int


def _read(raw: msgspec.Raw) -> Any:
    """The value; TooLarge for more bytes than an event may have."""
    text = bytes(raw)
    return msgspec.json.decode(text) if len(text) <= MAX_EVENT_BYTES else TooLarge(len(text))


def _counted(events: Sequence[msgspec.Raw], name: str) -> list[Any]:
    if not 1 <= len(events) <= MAX_EVENTS:
        refuse(name, f"1 to {MAX_EVENTS} {name}", PlainText(f"{len(events)}"))
    return [_read(event) for event in events]


def refuse(field: str, required: str, got: object) -> None:
    """Raises the ProblemError of a field."""
    raise field_problem(field, required, got)
