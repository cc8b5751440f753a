"""What sees the events of a stream beside its rows: registered models and rules of silence."""

from __future__ import annotations

from dataclasses import dataclass, field

from streaming.generations import Needed
from streaming.incidents import SilenceWatch
from streaming.scoring import EventScoring


@dataclass(frozen=True)
class Observers:
    """The registered models and the rules of silence of a stream.

    Args:
        needed: the definitions of views that the models need.
        scoring: scores each event with the event models; None where the repo defines none.
        silences: alerts on entities whose events stop.
    """

    needed: Needed = frozenset
    scoring: EventScoring | None = None
    silences: SilenceWatch = field(default_factory=SilenceWatch.of_nothing)
