"""Alerts to a webhook: a POST each, with an Idempotency-Key."""

from __future__ import annotations

import logging
import string
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from streaming.alerts.sinks.port import Alert, SinkError

if TYPE_CHECKING:
    import httpx

LONGEST_AFTER_S = 3_600.0
"""The upper bound of a Retry-After."""

GIVE_UP_AFTER_S = 24 * 3_600.0
"""The longest time that the receiver may fail on an alert before it is refused."""

RETRIED = (408, 425, 429)

AUTHENTICATION = (401, 403, 407)
"""Errors of our credentials, not of the alert: another alert would fail too."""

SHOWN = 200

UNQUOTED = (string.punctuation + " ").replace("%", "")
"""Characters of an alert_id in a header besides ASCII letters and digits; all others are percent-encoded."""


class WebhookSink:
    """Posts alerts in their order; an alert that the receiver rejects is refused, and without an answer it is retried.

    Args:
        url: of the receiver; only its host appears in messages.
        token: sent as ``Authorization: Bearer``; empty for none.
        timeout_s: of connecting, and of each wait for the other side.
        clock: seconds, monotonic.
    """

    name, most, linger_s = "webhook", 1, 0.0

    def __init__(self, url: str, token: str, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._token, self._timeout_s, self._clock = url, token, timeout_s, clock
        self._client: httpx.Client | None = None
        self._failing: tuple[str, float] | None = None

    def deliver(self, alerts: Sequence[Alert]) -> Mapping[int, str]:
        """Post every alert; returns index → reason of those without a 2xx answer that are not retried."""
        reasons = ((index, self._reason(alert)) for index, alert in enumerate(alerts))
        return {index: reason for index, reason in reasons if reason is not None}

    def _reason(self, alert: Alert) -> str | None:
        import httpx

        try:
            answer = self._post(alert)
        except httpx.HTTPError as error:
            raise SinkError(self._where(), "an answer", _name(error)) from None
        return self._refusal(alert, answer)

    def _post(self, alert: Alert) -> httpx.Response:
        import httpx

        if self._client is None:
            headers = {"Content-Type": "application/json", "User-Agent": "headrace"}
            headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
            logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs the whole address of each request
            self._client = httpx.Client(timeout=self._timeout_s, headers=headers)
        key = quote(alert.alert_id, safe=UNQUOTED)
        return self._client.post(self._url, content=alert.record.value or b"", headers={"Idempotency-Key": key})

    def _refusal(self, alert: Alert, answer: httpx.Response) -> str | None:
        """The reason of a refusal; None where the alert was taken. Raises SinkError where it is to be retried."""
        status = answer.status_code
        if answer.is_success:
            self._failing = None
            return None
        got = f"{status} {answer.text[:SHOWN].strip()}".rstrip()
        if answer.is_client_error and status not in (*RETRIED, *AUTHENTICATION):
            return f"webhook_refused: {got}"
        if answer.is_server_error and self._failed_long(alert):
            return f"webhook_failed: {got}, for {GIVE_UP_AFTER_S / 3_600:.0f} hours"
        next_step = "" if status in RETRIED or answer.is_server_error else "See alerts.webhook and its token."
        error = SinkError(self._where(), "an answer 2xx, or one that refuses the alert", got, next_step)
        raise error.after(retry_after_s(answer.headers.get("Retry-After"), time.time()))

    def _failed_long(self, alert: Alert) -> bool:
        if self._failing is None or self._failing[0] != alert.alert_id:
            self._failing = alert.alert_id, self._clock()
        return self._clock() - self._failing[1] > GIVE_UP_AFTER_S

    def _where(self) -> str:
        import httpx

        return f"webhook at {httpx.URL(self._url).host}"

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """The wait of a Retry-After, at most LONGEST_AFTER_S; None if it is missing or cannot be read.

    RFC 9110, 10.2.3: a number of seconds, or a date.
    """
    if header is None:
        return None
    try:
        seconds = float(header) if header.strip().isdecimal() else parsedate_to_datetime(header).timestamp() - now_s
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_AFTER_S)


def _name(error: Exception) -> str:
    """The error's type and cause, without the address that the text of some errors has."""
    return f"{type(error).__name__} ({type(error.__cause__ or error).__name__})"
