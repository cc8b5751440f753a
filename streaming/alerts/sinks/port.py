"""What a delivery knows of a sink: it takes alerts, once each by their alert_id, or says why it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import msgspec

from features.errors import HeadraceError
from streaming.kafka import Record


class SinkError(HeadraceError):
    """Raised when a sink takes nothing now: the same alerts are tried again, after ``after_s`` where it says so."""

    after_s: float | None = None

    def after(self, seconds: float | None) -> Self:
        """The same error, with how long the sink asked to be left alone."""
        self.after_s = seconds
        return self


class Told(msgspec.Struct, frozen=True):
    """What an alert says (event_model/decisions.py makes it); further fields are let through to who takes JSON."""

    alert_id: str
    source: str
    event_id: str
    event_time: int
    model: str
    version: str | None
    score: float | None
    threshold: float | None
    reasons: list[dict[str, Any]]
    event: dict[str, Any]


@dataclass(frozen=True)
class Alert:
    """An alert, and the record that it came in."""

    told: Told
    record: Record

    @property
    def alert_id(self) -> str:
        """What it is one by, however often it comes."""
        return self.told.alert_id


class Sink(Protocol):
    """Somewhere that alerts are taken to."""

    @property
    def name(self) -> str:
        """In its consumer group, its metrics and what is said of it: keep it, or it starts from the beginning."""

    @property
    def most(self) -> int:
        """How many alerts it takes at once."""

    @property
    def linger_s(self) -> float:
        """How long an alert may wait for others to be taken with."""

    def deliver(self, alerts: Sequence[Alert]) -> Mapping[int, str]:
        """Every alert stands in the sink, once, but those of the places returned, with the reason of each.

        Raises SinkError when it takes nothing now; some of the alerts may have been taken then.
        """

    def close(self) -> None:
        """What it held is let go."""


DECODER = msgspec.json.Decoder(Told)


def read_alert(record: Record) -> Alert | str:
    """The alert that a record holds, or the reason why it holds none."""
    try:
        return Alert(DECODER.decode(record.value or b""), record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        return f"malformed_alert: {error}"


def unique(alerts: Iterable[Alert]) -> Iterator[Alert]:
    """The alerts, each alert_id once: a batch of the stream that ran again told the same again."""
    return iter({one.alert_id: one for one in alerts}.values())
