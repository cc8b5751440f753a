"""The canary: a version that answers a share of the users, always the same, until it does worse than the champion.

Every process judges by what it saw itself, and tells the registry; the others read it there and stop as well.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable

from features.errors import HeadraceError
from models.followed import CANARY_POLICY, FollowedAlias, VersionLoader
from models.recommender import Artefact, LoadedRecommender
from models.tags import CANARY, CANARY_STOPPED
from serving.versions.comparison import Answered, Lately, worse

logger = logging.getLogger(__name__)

LOOK_EVERY = 20
"""After so many answers of the canary the two are compared."""

HASH_BYTES = 8


def is_chosen(who: str, digest: str, share: float) -> bool:
    """The same for a user and a version everywhere; others for another version, and more of them for a larger share."""
    hashed = hashlib.blake2b(f"{digest}\0{who}".encode(), digest_size=HASH_BYTES).digest()
    most: int = 256**HASH_BYTES
    return int.from_bytes(hashed, "big") < share * most


class Canary:
    """Which requests the canary answers, and whether it goes on; may be shared by threads.

    Args:
        loader: makes a version ready to answer.
        share: of the users, where the version has no tag that says another.
        slower: how many times as long as the champion's its answers may take.
        stopped: is told when it stops itself.
    """

    def __init__(
        self,
        loader: VersionLoader[Artefact],
        share: float,
        slower: float,
        stopped: Callable[[LoadedRecommender, str], None] = lambda *_: None,
    ) -> None:
        self._registry, self._share, self._slower, self._tell = loader.registry, share, slower, stopped
        self._followed = FollowedAlias(loader, CANARY, CANARY_POLICY)
        self._lock = threading.Lock()
        self._began: tuple[str, str | None] | None = None
        self._own, self._champion = Lately(), Lately()
        self._beside: LoadedRecommender | None = None
        self._since_judged = 0
        self._stopped: str | None = None
        self._told = True

    @property
    def served(self) -> LoadedRecommender | None:
        """The version that is in memory, whether it answers or has stopped; None for none."""
        return self._followed.current

    @property
    def share(self) -> float:
        """Of the users."""
        named = self._followed.named
        return self._share if named is None or named.canary_share is None else named.canary_share

    def look(self, champion: LoadedRecommender | None) -> None:
        """The canary is the version that the alias names now; one that stopped is told of in the registry.

        Raises RegistryError where the registry does not answer; then the canary goes on as it was.
        """
        self._tell_registry()
        self._followed.look(champion)
        named = self._followed.named
        with self._lock:
            fresh = None if named is None else (named.version, named.canary_begun)
            if fresh != self._began:
                self._began, self._stopped, self._told = fresh, None, True
                self._own, self._champion = Lately(), Lately()
            if champion is not self._beside:  # what another champion did says nothing of this one
                self._beside, self._champion = champion, Lately()
            if named is not None and named.canary_stopped is not None:
                self._stopped = self._stopped or named.canary_stopped

    def of(self, who: str | None) -> LoadedRecommender | None:
        """The canary, where it is to answer this user (or session); None for nobody, and where it has stopped."""
        served = self._followed.current
        if who is None or served is None or self._stopped is not None:
            return None
        return served if is_chosen(who, served.digest or served.version, self.share) else None

    def answered(self, served: LoadedRecommender | None, failed: bool, took_s: float) -> None:
        """An attempt of this version to answer ended so; the canary stops where it surely does worse by now."""
        own = self._followed.current
        if own is None or served is None or self._stopped is not None:
            return
        with self._lock:
            (self._own if served is own else self._champion).add(Answered(failed, took_s))
            self._since_judged += served is own
            if self._since_judged < LOOK_EVERY:
                return
            self._since_judged = 0
            reason = worse(self._own, self._champion, self._slower)
            if reason is None or self._stopped is not None:
                return
            self._stopped, self._told = reason, False
        logger.warning("canary_stopped version=%s reason=%r", own.version, reason)
        self._tell(own, reason)

    @property
    def state(self) -> str:
        """What it does, in words."""
        named, refused = self._followed.named, self._followed.refused
        if named is None:
            return "none"
        if refused is not None:
            return f"version {named.version} refused: {refused.reason}"
        if self._followed.current is None:
            return "none"  # it is the champion
        if self._stopped is not None:
            return f"version {named.version} stopped: {self._stopped}"
        return f"version {named.version} answers {self.share:.0%} of the users"

    def _tell_registry(self) -> None:
        named, reason = self._followed.named, self._stopped
        if self._told or named is None or reason is None:
            return
        try:
            self._registry.tell(named, reason, CANARY_STOPPED)
        except HeadraceError:  # here it has stopped; the registry hears of it later
            return
        self._told = True
