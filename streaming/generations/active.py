"""The generations that are folded side by side, and the one among them that readers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

from features.errors import HeadraceError, StoreError
from features.times import now_ms
from streaming.generations.checkpoints import Checkpoints, Generation
from streaming.generations.lease import owner_of
from streaming.generations.switchover import Needed, flip, is_current, superseded

if TYPE_CHECKING:
    from streaming.context import StreamContext
    from streaming.generations.running import GenerationFold


class ActiveFolds:
    """The folds of a running stream, oldest first; the last is the newest generation.

    Args:
        checkpoints: of the folds.
        needed: the definitions of views that registered models need.
    """

    def __init__(
        self, context: StreamContext, checkpoints: Checkpoints, needed: Needed, folds: Sequence[GenerationFold] = ()
    ) -> None:
        self._rows, self._log, self._owner = context.rows, context.log, owner_of(context.options.home)
        self._grace_ms = int(context.options.settings.keep_older_s * 1_000)
        self._checkpoints = checkpoints
        self._needed = needed
        self._folds = list(folds)
        self._superseded: Future[list[Generation]] | None = None

    def __iter__(self) -> Iterator[GenerationFold]:
        return iter(self._folds)

    @property
    def newest(self) -> GenerationFold:
        """The fold of the newest generation."""
        return self._folds[-1]

    def append(self, fold: GenerationFold) -> None:
        """Add the fold of a new generation."""
        self._folds.append(fold)

    def each(self, work: Callable[[GenerationFold], None], *, is_replaced: bool) -> None:
        """Do the work for each fold. A final error of an older fold is logged; that of the newest is raised.

        Args:
            is_replaced: a newer generation is being built, so that the newest may fail too.
        """
        for fold in self._folds:
            try:
                work(fold)
            except StoreError:
                raise
            except HeadraceError as error:
                if fold is self.newest and not is_replaced:
                    raise
                self._log(f"generation {fold.generation.stream_id} is not folded on: {error}")

    def switch_over(self, worker: Executor, *, is_building: bool) -> None:
        """Readers read the newest generation once it has caught up; older ones that nobody needs are dropped.

        Args:
            worker: asks the registry which are needed, as that may take long.
            is_building: nothing is dropped while a generation is being built.
        """
        self._switch_readers()
        if is_building or not self._checkpoints.older() or not is_current(self._rows, self.newest.generation):
            return
        if self._superseded is None:
            self._superseded = worker.submit(self.superseded)
        elif self._superseded.done():
            done, self._superseded = self._superseded, None
            self.drop(done.result())

    def _switch_readers(self) -> None:
        """No reader sees a feature go back: the newest has what the previous fold has, which stands still meanwhile."""
        newest, before = self.newest, self._folds[-2] if len(self._folds) > 1 else None
        if before is None or before.failed is not None:
            left = flip(self._rows, newest.generation, newest.caught_up, self._owner)
        elif before.query.busy.acquire(blocking=False):
            try:
                left = flip(
                    self._rows,
                    newest.generation,
                    lambda: newest.caught_up() and newest.has_folded(before),
                    self._owner,
                )
            finally:
                before.query.busy.release()
        else:
            return
        folded = {fold.generation.stream_id for fold in self._folds}
        known = folded | {generation.stream_id for generation in self._checkpoints.older()}
        for stream_id in left - known:  # its checkpoint is lost: nobody can fold it on
            self._rows.drop_generation(stream_id, self._owner)

    def superseded(self) -> list[Generation]:
        """The older generations that nobody needs; none while the registry of models does not answer."""
        try:
            return superseded(self._rows, self._checkpoints, self._needed, self._grace_ms, now_ms())
        except HeadraceError as error:
            self._log(f"older generations stay, as the registry of models does not answer: {error}")
            return []

    def drop(self, generations: Sequence[Generation]) -> None:
        """Stop the folds of these generations, and delete their rows and checkpoints."""
        for generation in generations:
            for fold in [fold for fold in self._folds if fold.generation.stream_id == generation.stream_id]:
                self._folds.remove(fold)
                fold.query.stop()
            self._rows.drop_generation(generation.stream_id, self._owner)
            self._checkpoints.drop(generation)
            self._log(f"generation {generation.stream_id} is dropped: nobody reads it")

    def by_role(self) -> dict[str, GenerationFold]:
        """'fold' (what readers read), 'next' (what they will read), 'older <stream_id>' (what some still read)."""
        *older, newest = self._folds
        read = newest if not older or is_current(self._rows, newest.generation) else older[-1]
        after = {"next": newest} if read is not newest else {}
        rest = {f"older {fold.generation.stream_id}": fold for fold in older if fold is not read}
        return {"fold": read, **after, **rest}
