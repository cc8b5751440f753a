"""The body of POST /v1/events in the OpenAPI document; read_body reads it, and streams judge its events."""

from __future__ import annotations

from typing import Any

from features.events import MOST_BYTES
from serving.events.bodies import EVENTS, FORMS, MAX_EVENT_BYTES, MAX_EVENTS

EVENT: dict[str, Any] = {
    "type": "object",
    "description": f"An event by the names of its stream's fields; at most {MAX_EVENT_BYTES} bytes.",
    "properties": {
        "event_id": {"type": "string", "minLength": 1, "maxLength": MOST_BYTES},
        "event_time": {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "RFC 3339, or epoch ms"},
    },
}

MESSAGE: dict[str, Any] = {
    "type": "object",
    "description": "A message as the stream's topic has it, or a record of one.",
}


def _listed(one: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS}


def _envelope(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name],
        "properties": {
            name: _listed(EVENT if name == EVENTS else MESSAGE),
            "stream": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "additionalProperties": False,
    }


EVENTS_BODY: dict[str, Any] = {"anyOf": [EVENT, _listed(EVENT), *(_envelope(name) for name in FORMS)]}
"""One event, a list of them, or events, messages or records with the name of their stream."""
