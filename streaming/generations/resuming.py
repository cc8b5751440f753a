"""The start of a stream whose topics may have lost what it has not read: refused, or accepted and gone on from.

The archive is the measure: what it will never have is lost. Rows are made again from it, so that both lack the same.
Every step can be repeated after a crash, as what is lost is found by where the archive stands, which moves last.
"""

from __future__ import annotations

from collections.abc import Sequence

from features.online_store import Offsets
from features.times import now_ms
from streaming.archive import Archive
from streaming.context import StreamContext
from streaming.generations.checkpoints import Checkpoints, Generation, new_generation
from streaming.losses import (
    ARCHIVE,
    FOLD,
    SCORES,
    Gap,
    TopicLogs,
    TopicWatch,
    accept,
    accepted_line,
    keep_open,
    loss_error,
)
from streaming.scoring import EventScoring


class Resuming:
    """Where a project's queries go on from.

    Args:
        checkpoints: of the folds and of the archive.
    """

    def __init__(
        self,
        context: StreamContext,
        archive: Archive,
        checkpoints: tuple[Checkpoints, Checkpoints],
        scoring: EventScoring,
        watch: TopicWatch,
    ) -> None:
        self._offline, self._log = context.options.offline, context.log
        self._folds, self._archived = checkpoints
        self._archive, self._scoring, self._watch = archive, scoring, watch

    def settle(self, *, accept_loss: bool) -> None:
        """Every query can read on from where it stands, and the topics are pinned.

        Raises:
            LossError: records are lost that nobody has accepted; they are on record as open.
            StoreError: the broker does not answer, or has no such topic.
        """
        archived, folds, scored = self._archived.current(), self._generations(), self._scoring.reach()
        archive = self._archive.end() if archived is None else self._archived.log(archived).standing()
        rows = {fold.stream_id: self._folds.log(fold).standing() for fold in folds}
        found = self._watch.look([archive, scored, *rows.values()])
        of_archive = found.logs.gaps(ARCHIVE, archive, is_whole=archived is not None)
        lost = of_archive + found.logs.gaps(SCORES, scored, is_whole=False)
        if lost and not accept_loss:
            keep_open(self._offline, lost)
            raise loss_error(lost)
        self._accept(lost)
        self._watch.pin(found.pins)
        self._stop([fold for fold in folds if of_archive or found.logs.gaps(FOLD, rows[fold.stream_id])])
        self._scoring.skip(found.logs.resumed)
        if of_archive:
            self._move_archive(archived, archive, found.logs)

    def _generations(self) -> list[Generation]:
        """Those that are folded on."""
        current = self._folds.current()
        found = [*self._folds.older(), *([] if current is None else [current])]
        return [generation for generation in found if not generation.is_stopped]

    def _accept(self, lost: Sequence[Gap]) -> None:
        fresh = accept(self._offline, lost, now_ms())
        if fresh:
            self._log(accepted_line(fresh))

    def _stop(self, behind: Sequence[Generation]) -> None:
        self._folds.stop(behind)
        for generation in behind:
            self._log(
                f"generation {generation.stream_id} cannot read on where it stands: rows are made from the archive"
            )

    def _move_archive(self, archived: Generation | None, standing: Offsets, logs: TopicLogs) -> None:
        self._archived.start(new_generation(logs.resumed(standing)))
        if archived is not None:
            self._archived.drop(archived)
