"""Requests of a Python client, one at a time: what was answered, by which version, and when."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.client import access_headers

FULL = 200


@dataclass(frozen=True)
class TimedResponse:
    """A response: HTTP's status (0 for none), the model's version, and the clock when it was read."""

    status: int
    version: str | None
    fallback: bool
    took_ms: float
    at: float


class Caller:
    """Requests over one connection, which is opened anew after a failure."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._headers = {"content-type": "application/json", **access_headers()}
        self._connection = http.client.HTTPConnection(*address, timeout=10)

    def recommend(self, body: Mapping[str, Any], due: float | None = None) -> TimedResponse:
        """The answer to POST /v1/recommend; the time is from when the request was due."""
        began = time.perf_counter() if due is None else due
        try:
            status, answer = self._request(body)
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            self._connection = http.client.HTTPConnection(*self._address, timeout=10)
            status, answer = 0, {}
        now = time.perf_counter()
        version = (answer.get("model") or {}).get("version")
        return TimedResponse(status, version, bool(answer.get("fallback", {}).get("used")), 1e3 * (now - began), now)

    def close(self) -> None:
        """The connection is closed."""
        self._connection.close()

    def _request(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        self._connection.request("POST", "/v1/recommend", json.dumps(body).encode(), self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())
