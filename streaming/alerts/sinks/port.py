"""The interface of a sink: it takes alerts, once each by their alert_id, or gives the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import msgspec

from features.errors import HeadraceError
from streaming.kafka import Record


class SinkError(HeadraceError):
    """Raised when a sink takes nothing now: the same alerts are tried again, after ``after_s`` if it is set."""

    after_s: float | None = None

    def after(self, seconds: float | None) -> Self:
        """The same error, with the wait that the sink requires."""
        self.after_s = seconds
        return self


class AlertFields(msgspec.Struct, frozen=True):
    """The fields of an alert (event_model/decisions.py); sinks of JSON get further fields too."""

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

    fields: AlertFields
    record: Record

    @property
    def alert_id(self) -> str:
        """The identity of the alert, however often it comes."""
        return self.fields.alert_id


class Sink(Protocol):
    """A target of alerts."""

    @property
    def name(self) -> str:
        """Its name in its consumer group, metrics and messages: with another it starts from the beginning."""

    @property
    def most(self) -> int:
        """The most alerts that it takes at once."""

    @property
    def linger_s(self) -> float:
        """The longest wait of an alert for others of its batch."""

    def deliver(self, alerts: Sequence[Alert]) -> Mapping[int, str]:
        """Put every alert into the sink, once; returns index → reason of those that it refuses.

        Raises SinkError when it takes nothing now; some of the alerts may have been taken then.
        """

    def close(self) -> None:
        """Release what it holds."""


DECODER = msgspec.json.Decoder(AlertFields)


def read_alert(record: Record) -> Alert | str:
    """The alert in a record, or the reason why there is none."""
    try:
        return Alert(DECODER.decode(record.value or b""), record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        return f"malformed_alert: {error}"


def unique(alerts: Iterable[Alert]) -> Iterator[Alert]:
    """The alerts, each alert_id once: a batch of the stream that ran again sent the same again."""
    return iter({alert.alert_id: alert for alert in alerts}.values())
