"""Alerts to a webhook: a POST each, which the receiver tells apart by its Idempotency-Key."""

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
"""A Retry-After beyond this is taken for this."""

GIVE_UP_AFTER_S = 24 * 3_600.0
"""For how long the receiver may fail on one and the same alert until the next has its turn."""

LATER = (408, 425, 429)

OF_OURS = (401, 403, 407)
"""About who we are, not about the alert: another alert would fare no better."""

SHOWN = 200

AS_IT_IS = (string.punctuation + " ").replace("%", "")
"""Of an alert_id in a header, besides letters and digits of ASCII; all else is percent-encoded."""


class WebhookSink:
    """Posts alerts in their order; one that the receiver refuses is refused, and what is no answer is asked again.

    Args:
        url: of the receiver; nothing but its host is ever told.
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
        """The receiver has answered 2xx to every alert but those returned."""
        reasons = ((place, self._reason(one)) for place, one in enumerate(alerts))
        return {place: reason for place, reason in reasons if reason is not None}

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
            logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells the whole address of each request
            self._client = httpx.Client(timeout=self._timeout_s, headers=headers)
        key = quote(alert.alert_id, safe=AS_IT_IS)
        return self._client.post(self._url, content=alert.record.value or b"", headers={"Idempotency-Key": key})

    def _refusal(self, alert: Alert, answer: httpx.Response) -> str | None:
        """Why the receiver refuses the alert; None where it took it. Raises SinkError where it is to be asked again."""
        status = answer.status_code
        if answer.is_success:
            self._failing = None
            return None
        told = f"{status} {answer.text[:SHOWN].strip()}".rstrip()
        if answer.is_client_error and status not in (*LATER, *OF_OURS):
            return f"webhook_refused: {told}"
        if answer.is_server_error and self._failed_long(alert):
            return f"webhook_failed: {told}, for {GIVE_UP_AFTER_S / 3_600:.0f} hours"
        next_step = "" if status in LATER or answer.is_server_error else "See alerts.webhook and its token."
        error = SinkError(self._where(), "an answer 2xx, or one that refuses the alert", told, next_step)
        raise error.after(retry_after_s(answer.headers.get("Retry-After"), time.time()))

    def _failed_long(self, alert: Alert) -> bool:
        if self._failing is None or self._failing[0] != alert.alert_id:
            self._failing = alert.alert_id, self._clock()
        return self._clock() - self._failing[1] > GIVE_UP_AFTER_S

    def _where(self) -> str:
        import httpx

        return f"webhook at {httpx.URL(self._url).host}"

    def close(self) -> None:
        """Connections are closed."""
        if self._client is not None:
            self._client.close()
            self._client = None


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """How long a Retry-After asks to wait, at most LONGEST_AFTER_S; None without one that can be read.

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
    """What went wrong, without the address that the text of some errors has in it."""
    return f"{type(error).__name__} ({type(error.__cause__ or error).__name__})"
