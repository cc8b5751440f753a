"""Readers go on to a new generation when it has all that the one before has, and not while that is being folded."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream
from features.definitions.repo import FeatureRepo
from features.errors import FenceError
from features.online_store.port import Offsets
from features.online_store.sqlite.rows import SqliteRows
from features.online_store.sweep import Sweeper
from streaming.context import StreamContext
from streaming.fold.pruning import Pruning
from streaming.fold.sink import FoldTarget, OnlineSink
from streaming.generations.active import ActiveFolds
from streaming.generations.checkpoints import Checkpoints, new_generation
from streaming.generations.lease import Lease, owner_of
from streaming.generations.running import GenerationFold, Upkeep
from streaming.generations.switchover import is_current
from streaming.settings import StreamOptions
from streaming.supervisor import SupervisedQuery, ms_of_progress

USER = Entity("user", keys={"user_id": "string"})
SHOP = Stream("shop", topic="t", fields={"user_id": "string"})
VIEW = FeatureView("by_user", sets=[FeatureSet(USER, SHOP, [Count()], ["1h"])])
REPO = FeatureRepo(Path("repo"), {"user": USER}, {"shop": SHOP}, {"by_user": VIEW})


@pytest.fixture
def context(tmp_path: Path) -> StreamContext:
    options = StreamOptions(tmp_path / "home", tmp_path / "offline", "nowhere:1")
    return StreamContext(options, REPO, SqliteRows(tmp_path / "online.db"), lambda _: None)


def reported(latest: dict[str, dict[str, int]], after_s: int = 0) -> Any:
    """What Spark says of a running query whose topics end at these offsets."""
    looked = datetime.now(UTC) + timedelta(seconds=after_s)
    progress = {"timestamp": looked.isoformat(), "sources": [{"latestOffset": json.dumps(latest)}]}
    return SimpleNamespace(isActive=True, lastProgress=progress)


def fold_of(context: StreamContext, end: Offsets, topic_ends: dict[str, int]) -> GenerationFold:
    """A fold that stands at ``end``, as Spark runs it; when Spark looked last, the partitions ended at the others."""
    checkpoints = Checkpoints(context.options.home)
    generation = new_generation(end, REPO)
    checkpoints.start(generation)
    number = generation.stream_id
    upkeep = Upkeep(
        Lease(context.rows, number, owner_of(context.options.home)),
        Sweeper(context.rows, number, [VIEW]),
        Pruning(context.rows, [VIEW.name], number),
    )
    target = FoldTarget(REPO, context.rows.generation(number), number)
    sink = OnlineSink(target, checkpoints.log(generation), lambda *_: 0)
    fold = GenerationFold(generation, REPO, sink, upkeep, checkpoints, 1_000.0)
    fold.query = SupervisedQuery("fold", lambda _: reported({"t": topic_ends}), fold.handle, context.log)
    fold.tick()
    return fold


def advance(fold: GenerationFold, end: Offsets) -> None:
    fold.done(0, end, 1, np.empty(0, np.int64), 1.0)


def switch_over(context: StreamContext, *folds: GenerationFold) -> bool:
    """Whether readers read the newest of the folds, after the driver has looked."""
    active = ActiveFolds(context, Checkpoints(context.options.home), frozenset, folds)
    with ThreadPoolExecutor(1) as worker:
        active.switch_over(worker, is_building=True)
    return is_current(context.rows, folds[-1].generation)


def test_readers_wait_until_the_new_generation_has_all_that_the_one_before_has(context: StreamContext) -> None:
    """Spark's last look at the topics may be older than what the generation before has folded since."""
    before = fold_of(context, {"t/0": 5, "t/1": 5}, {"0": 5, "1": 5})
    assert switch_over(context, before)
    newest = fold_of(context, {"t/0": 5, "t/1": 5}, {"0": 5, "1": 5})
    advance(before, {"t/0": 5, "t/1": 9})
    assert newest.caught_up()
    assert not switch_over(context, before, newest)
    assert is_current(context.rows, before.generation)
    newest.query = SupervisedQuery("fold", lambda _: reported({"t": {"0": 8, "1": 9}}), newest.handle, context.log)
    newest.tick()
    advance(newest, {"t/0": 7, "t/1": 9})  # more than the one before, and less than the topics have
    assert not switch_over(context, before, newest)
    advance(newest, {"t/0": 8, "t/1": 9})
    assert switch_over(context, before, newest)


def test_readers_wait_while_the_generation_before_folds_a_batch(context: StreamContext) -> None:
    """What it is writing may be read already, and is not counted in its end."""
    before, newest = (fold_of(context, {"t/0": 5}, {"0": 5}) for _ in range(2))
    assert switch_over(context, before)
    with before.query.busy:
        assert not switch_over(context, before, newest)
    assert switch_over(context, before, newest)


def test_a_generation_that_is_folded_no_more_is_not_waited_for(context: StreamContext) -> None:
    before, newest = fold_of(context, {"t/0": 9}, {"0": 9}), fold_of(context, {"t/0": 5}, {"0": 5})
    assert switch_over(context, before)
    before.failed = FenceError("the generation", "rows", "none")
    assert switch_over(context, before, newest)


def test_a_fold_has_read_up_to_the_look_that_found_nothing_new_and_not_to_a_later_one(
    context: StreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = fold_of(context, {"t/0": 5}, {"0": 5})
    looks = [reported({"t": {"0": end}}, second).lastProgress for second, end in enumerate((5, 9, 9))]
    given = iter(looks)
    monkeypatch.setattr(fold.query, "progress", lambda: next(given))
    assert fold.read_up_to() == ms_of_progress(looks[0])
    assert fold.read_up_to() is None
