"""Work that goes on beside the requests: a function called again and again in a thread, until it is stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from features.errors import HeadraceError

logger = logging.getLogger(__name__)
JOIN_S = 5.0
IDLE_SHARE = 4.0
"""The work rests at least so many times as long as it takes, and so never has more than a fifth of a core."""


class Repeated:
    """Calls ``work`` at once and then every ``every_s`` seconds; an error is told and the next call comes all the same.

    Args:
        name: of the thread, and of the work in the log.
        failed: called with no argument for each error.
        idle_share: how many times as long as it takes the work rests at least.
    """

    def __init__(
        self,
        name: str,
        every_s: float,
        work: Callable[[], None],
        failed: Callable[[], None],
        idle_share: float = IDLE_SHARE,
    ) -> None:
        self._name, self._every_s, self._work, self._failed = name, every_s, work, failed
        self._idle_share = idle_share
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._said: str | None = None

    def start(self) -> None:
        """The first call is on its way."""
        self._thread.start()

    def stop(self) -> None:
        """No call begins any more."""
        self._stopping.set()
        self._thread.join(timeout=JOIN_S)

    def _run(self) -> None:
        from time import monotonic

        while not self._stopping.is_set():
            began = monotonic()
            self._call()
            self._stopping.wait(max(self._every_s, self._idle_share * (monotonic() - began)))

    def _call(self) -> None:
        try:
            self._work()
            self._said = None
        except HeadraceError as error:
            self._tell(str(error))
        except Exception as error:  # noqa: BLE001  (the service answers without this work, and must go on to)
            self._tell(f"{type(error).__name__}: {error}")

    def _tell(self, text: str) -> None:
        """The failure is counted, and logged when it is not the one that was logged last."""
        self._failed()
        if text != self._said:
            logger.warning("background_work_failed work=%s error=%r", self._name, text)
            self._said = text
