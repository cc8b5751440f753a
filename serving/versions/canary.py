"""The canary: a version that answers a fixed share of the users until it does worse than the champion.

Every process judges by its own answers and reports a stop to the registry, where the others read it and stop as well.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from features.arrays import Floats
from features.errors import HeadraceError
from models.followed import CANARY_POLICY, FollowedAlias, VersionLoader
from models.recommender import Artefact, LoadedRecommender
from models.tags import CANARY, CANARY_STOPPED

logger = logging.getLogger(__name__)

COMPARE_EVERY = 20
"""Canary and champion are compared after this many answers of the canary."""

HASH_BYTES = 8

WINDOW = 500
"""The number of newest answers of each that are compared."""

MIN_ANSWERS = 20
"""The fewest answers of each for a comparison."""

MIN_USERS = 5
"""The fewest users (or sessions) among the canary's answers for a comparison: one alone may be out of the ordinary."""

SIGNIFICANCE = 0.001
"""The probability that a comparison finds equal versions different."""


@dataclass(frozen=True)
class Attempt:
    """An attempt to answer: its outcome, the seconds that it took, and the user or session (None without one)."""

    failed: bool
    took_s: float
    key: str | None = None


class RecentAttempts:
    """The newest WINDOW attempts; used by one thread at a time."""

    def __init__(self) -> None:
        self._newest: deque[Attempt] = deque(maxlen=WINDOW)

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, attempt: Attempt) -> None:
        """Adds an attempt, and drops the oldest of more than WINDOW."""
        self._newest.append(attempt)

    @property
    def failed(self) -> int:
        """The number that failed."""
        return sum(attempt.failed for attempt in self._newest)

    @property
    def users(self) -> int:
        """The number of different users and sessions."""
        return len({attempt.key for attempt in self._newest} - {None})

    @property
    def took_s(self) -> Floats:
        """(n,) the seconds that each took."""
        return np.array([attempt.took_s for attempt in self._newest], dtype=np.float64)


def worse(own: RecentAttempts, other: RecentAttempts, slower: float) -> str | None:
    """The reason for which the first does significantly worse than the second; None if it does not.

    It fails more often by Fisher's exact test, or takes longer by the test of Mann and Whitney and its median is more
    than ``slower`` times the other's; both one-sided, at SIGNIFICANCE. None also while there is not enough to judge.
    """
    if not enough_to_judge(own, other):
        return None
    if fisher_p(own.failed, len(own), other.failed, len(other)) < SIGNIFICANCE:
        return f"{own.failed} of its last {len(own)} answers failed, and {other.failed} of {len(other)} beside them"
    own_s, other_s = own.took_s, other.took_s
    own_ms, other_ms = 1000 * float(np.median(own_s)), 1000 * float(np.median(other_s))
    if own_ms > slower * other_ms and mann_whitney_p(own_s, other_s) < SIGNIFICANCE:
        return f"it takes {own_ms:.1f} ms at the median, and {other_ms:.1f} ms are usual beside it"
    return None


def enough_to_judge(own: RecentAttempts, other: RecentAttempts) -> bool:
    """True for MIN_ANSWERS of each, where the first are about at least MIN_USERS users."""
    return min(len(own), len(other)) >= MIN_ANSWERS and own.users >= MIN_USERS


def fisher_p(failed: int, count: int, other_failed: int, other_count: int) -> float:
    """The one-sided p-value of Fisher's exact test that the first fails more often than the other."""
    from scipy.stats import fisher_exact  # type: ignore[import-untyped]

    table = [[failed, count - failed], [other_failed, other_count - other_failed]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def mann_whitney_p(times: Floats, other_times: Floats) -> float:
    """The one-sided p-value that the first times are longer: Mann-Whitney U, normal approximation with ties."""
    from scipy.stats import mannwhitneyu

    if np.ptp(np.concatenate([times, other_times])) == 0:
        return 1.0
    options = {"alternative": "greater", "method": "asymptotic", "use_continuity": False}
    return float(mannwhitneyu(times, other_times, **options).pvalue)


def is_chosen(key: str, digest: str, share: float) -> bool:
    """True for a share of the user keys: the same in every process, others for each digest, nested by share."""
    hashed = hashlib.blake2b(f"{digest}\0{key}".encode(), digest_size=HASH_BYTES).digest()
    most: int = 256**HASH_BYTES
    return int.from_bytes(hashed, "big") < share * most


class Canary:
    """Chooses the requests that the canary answers, and stops it; may be shared by threads.

    Args:
        loader: makes a version ready to answer.
        share: of the users, unless the version's tags name another.
        slower: the longest that its answers may take, as a multiple of the champion's time.
        stopped: called with the version and the reason when it stops itself.
    """

    def __init__(
        self,
        loader: VersionLoader[Artefact],
        share: float,
        slower: float,
        stopped: Callable[[LoadedRecommender, str], None] = lambda *_: None,
    ) -> None:
        self._registry, self._share, self._slower, self._on_stop = loader.registry, share, slower, stopped
        self._followed = FollowedAlias(loader, CANARY, CANARY_POLICY)
        self._lock = threading.Lock()
        self._began: tuple[str, str | None] | None = None
        self._own, self._champion = RecentAttempts(), RecentAttempts()
        self._beside: LoadedRecommender | None = None
        self._since_compared = 0
        self._stopped: str | None = None
        self._reported = True

    @property
    def served(self) -> LoadedRecommender | None:
        """The version in memory, whether it answers or has stopped; None without one."""
        return self._followed.current

    @property
    def share(self) -> float:
        """The share of the users, 0 to 0.5."""
        named = self._followed.named
        return self._share if named is None or named.canary_share is None else named.canary_share

    def look(self, champion: LoadedRecommender | None) -> None:
        """Loads the version that the alias names now, and reports a stop to the registry.

        Raises RegistryError if the registry does not answer; the canary then stays as it was.
        """
        self._report_stop()
        self._followed.look(champion)
        named = self._followed.named
        if named is not None:
            import_module("scipy.stats")  # here, as the import takes too long for a request's thread
        with self._lock:
            fresh = None if named is None else (named.version, named.canary_begun)
            if fresh != self._began:
                self._began, self._stopped, self._reported = fresh, None, True
                self._own, self._champion = RecentAttempts(), RecentAttempts()
            if champion is not self._beside:  # the attempts of another champion do not count
                self._beside, self._champion = champion, RecentAttempts()
            if named is not None and named.canary_stopped is not None:
                self._stopped = self._stopped or named.canary_stopped

    def for_user(self, key: str | None) -> LoadedRecommender | None:
        """The canary, if it answers this user (or session) key; None for others, without a key, and after a stop."""
        served = self._followed.current
        if key is None or served is None or self._stopped is not None:
            return None
        return served if is_chosen(key, served.digest or served.version, self.share) else None

    def answered(self, served: LoadedRecommender | None, failed: bool, took_s: float, key: str | None = None) -> None:
        """Counts an attempt of this version to answer; the canary stops when it does significantly worse.

        Args:
            key: the user or session.
        """
        own = self._followed.current
        if own is None or served is None or self._stopped is not None:
            return
        with self._lock:
            (self._own if served is own else self._champion).add(Attempt(failed, took_s, key))
            self._since_compared += served is own
            if self._since_compared < COMPARE_EVERY:
                return
            self._since_compared = 0
            reason = worse(self._own, self._champion, self._slower)
            if reason is None or self._stopped is not None:
                return
            self._stopped, self._reported = reason, False
        logger.warning("canary_stopped version=%s reason=%r", own.version, reason)
        self._on_stop(own, reason)

    @property
    def state(self) -> str:
        """The canary's version and share, or the reason for which it does not answer, as text."""
        named, refused = self._followed.named, self._followed.refused
        if named is None:
            return "none"
        if refused is not None:
            return f"version {named.version} refused: {refused.reason}"
        if self._followed.current is None:
            return "none"  # it is the champion
        if self._stopped is not None:
            return f"version {named.version} stopped: {self._stopped}"
        with self._lock:
            enough = enough_to_judge(self._own, self._champion)
        yet = "" if enough else "; not enough answers to judge it yet"
        return f"version {named.version} answers {self.share:.0%} of the users{yet}"

    def _report_stop(self) -> None:
        named, reason = self._followed.named, self._stopped
        if self._reported or named is None or reason is None:
            return
        try:
            self._registry.report(named, reason, CANARY_STOPPED)
        except HeadraceError:  # it has stopped here; the report is repeated at the next look
            return
        self._reported = True
