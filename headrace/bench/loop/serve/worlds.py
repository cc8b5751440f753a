"""What `headrace bench serve` asks about: users, items and versions of a model, of a made-up shop or of MovieLens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import UsageError
from headrace.console import say

if TYPE_CHECKING:
    import pyarrow as pa

    from features.definitions import FeatureRepo, Recommender
    from headrace.loop import Loop
    from headrace.simulators import ShopSimulator
    from models.recommender import Artefact
    from training.registry import ModelRegistry, Version

USERS, DAYS, SEED = 20_000, 5.0, 7

STREAM = "activity"

TREES = 100

SETTINGS = {"iterations": TREES, "ease_items": 2_000, "moments": 1_500, "moments_per_user": 1}
"""Of the training: a ranker of the full size, from fewer examples than a shop of its own would have."""

POPULAR = 1_000

SAMPLE = 50
"""Users whose candidates are counted."""


@dataclass(frozen=True)
class World:
    """What is asked about, and the versions of its model in the registry; the first is the champion.

    Args:
        users: those with a history, in a random order.
        items: those that the model knows, in a random order.
        popular: the POPULAR most popular ones.
        size: what the report says of the model: items, trees, inputs, candidates.
        sent: the number of events in the loop's topic.
    """

    users: list[str]
    items: list[str]
    popular: list[str]
    registry: ModelRegistry
    versions: list[Version]
    size: dict[str, Any]
    median_price: float = 0.0
    sent: int = 0


def shop_events(shop: ShopSimulator, now_ms: int) -> pa.Table:
    """The days before now, and at their beginning a view of each item, so that the model knows all of them."""
    import numpy as np
    import pyarrow as pa

    history, catalogue = shop.history(DAYS, now_ms), shop.catalogue(now_ms)
    numbers = np.arange(len(catalogue))
    times = pa.array(np.full(len(numbers), history["event_time"][0].as_py()))
    first = pa.table(
        {
            "event_id": [f"first{number}" for number in numbers],
            "event_time": times,
            "known_at": times,
            "event_type": ["view"] * len(numbers),
            "user_id": [f"u{number % shop.users}" for number in numbers],
            **{name: catalogue[name] for name in ("item_id", "category", "price")},
        }
    )
    return pa.concat_tables([first, history], promote_options="default").select(history.column_names).combine_chunks()


def shop_world(loop: Loop, items: int, versions: int) -> World:
    """The shop's history in the loop's topic and store, and a model of it.

    The loop has a broker and a stream; its topic then gets events of the same shop as they happen, from `generate`.
    """
    from headrace.simulators import ShopSimulator

    shop, now_ms = ShopSimulator(SEED, USERS, items), _now_ms()
    events = shop_events(shop, now_ms)
    say(f"{len(events):,} events of {USERS:,} users and {items:,} items into the topic; a model of them meanwhile")
    loop.send([(STREAM, events)])
    made = world_of(loop, events, now_ms, versions)
    return replace(made, median_price=float(sorted(shop.price)[items // 2]), sent=len(events))


def movielens_world(loop: Loop, folder: Path, versions: int = 1) -> World:
    """The ratings of MovieLens, moved so that the last one is now, in the loop's store, and a model of them."""
    import pyarrow as pa

    from features.definitions import load_repo
    from features.formats import read_events

    say("MovieLens: a store of its ratings, and a model of them")
    repo, now_ms = load_repo(loop.repo), _now_ms()
    parts = [parsed.events for name, parsed in read_events(folder, "movielens", repo.streams) if name == STREAM]
    events = pa.concat_tables(parts)
    events = moved(events, now_ms)
    fill(loop, repo, events, now_ms)
    return world_of(loop, events, now_ms, versions)


def moved(events: pa.Table, now_ms: int) -> pa.Table:
    """The events with times moved so that the last one is now."""
    import pyarrow.compute as pc

    later_ms = now_ms - pc.max(events["event_time"]).as_py()
    for name in ("event_time", "known_at"):
        events = events.set_column(events.schema.get_field_index(name), name, pc.add(events[name], later_ms))
    return events


def fill(loop: Loop, repo: FeatureRepo, events: pa.Table, now_ms: int) -> None:
    """The loop's store has the rows of the events, in every view of their stream."""
    from features.online_store import Marker, build_generation, store_of

    rows = store_of(loop.repo, loop.home).open()
    views = [view for view in repo.views.values() if STREAM in {one.source.name for one in view.sets}]
    build_generation(rows.generation(1), views, 1, {STREAM: events}, Marker(0, {}, {}, 0), now_ms)
    for view in views:
        rows.set_current(view.name, 1)


def world_of(loop: Loop, events: pa.Table, now_ms: int, versions: int) -> World:
    """The world of these events, with a model in so many versions that differ in when they were made alone.

    What the gate would say of the model does not matter here: every version may serve.
    """
    import numpy as np

    from features.definitions import load_repo
    from features.events import from_columns
    from training.registry import ModelRegistry

    repo = load_repo(loop.repo)
    parsed = {STREAM: from_columns(events, repo.streams[STREAM]).events}
    recommender = repo.chosen_recommenders(loop.settings.training).named(None, "headrace bench serve")
    artefact, size = model_of(recommender, parsed, now_ms)
    registry = ModelRegistry(loop.tracking_uri, loop.root)
    made = [registry.register(_made_at(artefact, now_ms + number), {}, {}) for number in range(versions)]
    made = [registry.judge(version, True, "made for a bench") for version in made]
    registry.promote(made[0], now_ms)
    rng = np.random.default_rng(SEED)
    users = rng.permutation(events["user_id"].unique().drop_null().to_numpy(zero_copy_only=False)).tolist()
    items, best = np.array(artefact.items), artefact.tables.most_popular[:POPULAR]
    return World(users, rng.permutation(items).tolist(), items[best].tolist(), registry, made, size)


def model_of(recommender: Recommender, events: Mapping[str, pa.Table], now_ms: int) -> tuple[Artefact, dict[str, Any]]:
    """A model of the events, not tested, and its size. Raises UsageError where they are too few for a ranker."""
    from models.recommender import PAIR_FEATURES, Artefact
    from training.data import Domain
    from training.recommender import candidates_for_everybody, learn, manifest_of
    from training.run import TrainingRun
    from training.settings import TrainingSettings

    began = time.monotonic()
    settings = TrainingSettings.of(recommender, SETTINGS)
    run = TrainingRun.of(events, Domain.of(recommender), settings)
    learnt = learn(run)
    if learnt.ranker is None:
        raise UsageError("bench serve", "events that a ranker can be fitted on", f"{learnt.positives} examples taken")
    tables = candidates_for_everybody(run, run.split.end)
    manifest = manifest_of(run.domain, settings, run.target, run.split.end, now_ms)
    artefact = Artefact(manifest.model_copy(update={"items": len(tables.items)}), tables, learnt.ranker)
    size = {
        "items": len(tables.items),
        "users": len(tables.users),
        "trees": TREES,
        "leaves": settings.leaves,
        "inputs": len(PAIR_FEATURES) + len(manifest.user.names) + len(manifest.item.names),
        "candidates": _candidates(artefact, run.history.users.to_pylist()[:SAMPLE]),
        "fit_s": round(time.monotonic() - began, 1),
    }
    return artefact, size


def _candidates(artefact: Artefact, users: list[str]) -> float:
    """The mean number of candidates of these users, without their recent items."""
    from models.recommender import Query

    at = artefact.manifest.as_of_ms
    return round(sum(len(artefact.retrieve(Query(user, (), at))) for user in users) / max(len(users), 1), 1)


def _made_at(artefact: Artefact, created_ms: int) -> Artefact:
    return replace(artefact, manifest=artefact.manifest.model_copy(update={"created_ms": created_ms}))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
