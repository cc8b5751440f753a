"""Restarts of a failed query, with a longer wait each time, unless a restart cannot help."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from features.errors import (
    CorruptRowError,
    DefinitionError,
    FenceError,
    ForeignRowError,
    FormatError,
    HeadraceError,
    LossError,
    StoreError,
    UsageError,
)
from features.online_store import STUCK_AFTER
from features.redaction import redacted
from features.times import moment_text, now_ms

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery

FINAL = (FenceError, LossError, CorruptRowError, ForeignRowError, DefinitionError, FormatError, UsageError)
"""Errors that are the same on every attempt: something has to be repaired first."""
PYTHON_ERROR = re.compile(r"^[A-Za-z_][\w.]*Error: .+$", re.MULTILINE)
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
Handle = Callable[["DataFrame", int], None]
Log = Callable[[str], None]


class StoppedError(Exception):
    """Ends a query that is to stop, before its next batch has done anything."""


@dataclass
class Backoff:
    """The wait before each attempt in a row: twice as long each time, up to a bound."""

    attempts: int = 0

    def next_s(self) -> float:
        """The wait before the next attempt, which is counted."""
        self.attempts += 1
        return float(min(FIRST_WAIT_S * 2 ** (self.attempts - 1), LONGEST_WAIT_S))

    def succeeded(self) -> None:
        """Start over: the next failure is the first again."""
        self.attempts = 0


class Patience:
    """Does work that can also be done later, and logs once that a store does not answer or a disk is full."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._silent = False

    def __call__(self, work: Callable[[], None]) -> None:
        """Do the work; where there is no store or room for it, the caller tries again later."""
        try:
            work()
        except (StoreError, OSError) as error:
            if not self._silent:
                self._log(str(error))
            self._silent = True
        else:
            self._silent = False


class SupervisedQuery:
    """A streaming query, kept running by calls of tick().

    ``failures`` are those in a row, ``failing_since`` (epoch ms) is the first of them: they end when it gets on, by a
    batch or by a look at its topics that found nothing new. ``moved_at`` (epoch ms) is when it did something last: a
    start, a step of a batch, or such a look.

    Args:
        name: in messages about it.
        start: starts the query, which calls its argument with each batch.
        handle: processes a batch; the same batch again changes nothing more.
        log: takes a line for a person.
        failed: called after a failure that is not final; raises one that is, where it finds that.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[Handle], StreamingQuery],
        handle: Handle,
        log: Log,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.error: str | None = None
        self.state = "starting"
        self.failing_since: int | None = None
        self._moved_at: int | None = None
        self.busy = threading.Lock()
        self._start = start
        self._handle = handle
        self._log = log
        self._look = failed
        self._backoff = Backoff()
        self._due = 0.0
        self._query: StreamingQuery | None = None
        self._failure: BaseException | None = None
        self._stopping = False

    def tick(self, now_s: float) -> None:
        """Start the query when it is due; notice that it failed, and plan the next attempt.

        Raises:
            HeadraceError: one of FINAL.
        """
        if self._query is None and now_s >= self._due:
            self._failure = None
            self.moved()
            self._query = self._start(self._batch)
            self.state = "running"
        elif self._query is not None and not self._query.isActive:
            self._failed(now_s, self._query.exception())
        elif self.failing_since is not None and self.progress() is not None:  # of this start, so without a failure
            self._gets_on()

    def moved(self) -> None:
        """Note that it does something now."""
        self._moved_at = now_ms()

    @property
    def moved_at(self) -> int | None:
        """When it did something last; None before its start."""
        progress = self.progress()
        if self._moved_at is None or progress is None:
            return self._moved_at
        return max(self._moved_at, ms_of_progress(progress))

    def say(self, text: str) -> None:
        """Log a line about the query."""
        self._log(f"query '{self.name}': {text}")

    def progress(self) -> dict[str, Any] | None:
        """Spark's progress report of the last batch."""
        last = self._query.lastProgress if self._query is not None else None
        return None if last is None else dict(last)

    def lose(self, error: str) -> None:
        """Mark the query as gone with Spark itself: no call of it is made any more."""
        self._query, self.error = None, error

    def fail(self, error: Exception) -> None:
        """Mark the query as failed for good."""
        self.state, self.error = "failed", str(error)
        self.failing_since = self.failing_since or now_ms()

    def stop(self) -> None:
        """Stop the query after its running batch."""
        self._stopping = True
        with self.busy:
            self.state = "failed" if self.state == "failed" else "stopped"
        if self._query is not None:
            self._query.stop()

    def _batch(self, frame: DataFrame, batch_id: int) -> None:
        with self.busy:
            if self._stopping:
                raise StoppedError(self.name)
            self.moved()
            try:
                self._handle(frame, batch_id)
            except Exception as error:
                self._failure = error  # Spark reports its text alone
                raise
            self._gets_on()

    @property
    def failures(self) -> int:
        """The failures in a row, without a batch between them."""
        return self._backoff.attempts

    def _gets_on(self) -> None:
        self.moved()
        self._backoff.succeeded()
        self.error = self.failing_since = None

    def _failed(self, now_s: float, reported: Any) -> None:
        self._query = None
        self.failing_since = self.failing_since or now_ms()
        if isinstance(self._failure, FINAL):
            self.fail(self._failure)
            raise self._failure
        try:
            self._look()
        except StoreError:  # nothing is known: the next attempt shows more
            pass
        except FINAL as error:
            self.fail(error)
            raise
        wait_s = self._backoff.next_s()
        self.error = reason(self._failure, reported)
        self.state = "waiting"
        self.restarts += 1
        self._due = now_s + wait_s
        self._log(f"query '{self.name}' stopped, starts again in {wait_s:.0f} s: {self.error}")
        if self.failures == STUCK_AFTER:
            self.say(f"does not get on since {moment_text(self.failing_since)}, {self.failures} failures in a row")


def ms_of_progress(progress: Mapping[str, Any]) -> int:
    """The start of the trigger in Spark's progress report, in ms."""
    return int(datetime.fromisoformat(progress["timestamp"]).timestamp() * 1000)


def reason(failure: BaseException | None, reported: Any) -> str:
    """The cause of a query's failure in a line: Java's innermost cause, or the exception of a Python worker."""
    if isinstance(failure, HeadraceError):
        return str(failure)
    text = f"{type(failure).__name__}: {failure}" if failure is not None else str(reported)
    raised = PYTHON_ERROR.findall(text) if "Python worker" in text else []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = raised or [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return redacted(next(iter([*causes[-1:], *lines]), "it ended without an error"))
