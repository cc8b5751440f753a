"""Shops that are too small, or of one kind, to train or judge a model: a sentence each, never a traceback or a NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow_marks import MLFLOW_TEST
from shop_training import SHOP, shop_settings

from features.definitions.repo import load_repo
from features.errors import HeadraceError, UsageError
from features.events.parsing import from_columns
from headrace.commands.models.models import models
from headrace.commands.models.train import train
from models.tags import GATE_REASON
from training.data.dataset import Domain
from training.judging.judge import Judge
from training.judging.record import files_of
from training.recommender.fit import train as fit
from training.recommender.settings_search import search
from training.registry import ModelRegistry
from training.run import TrainingRun

pytestmark = MLFLOW_TEST
ROOT = Path(__file__).resolve().parents[2]
REPO = load_repo(ROOT / "feature_repo")
DOMAIN = Domain.of(SHOP)
HOUR, BEGIN = 3_600_000, 1_700_000_000_000

Event = dict[str, Any]


def event(user: str, item: str | None, kind: str, at: int) -> Event:
    return {"user_id": user, "item_id": item, "event_type": kind, "event_time": BEGIN + at}


def table(events: Sequence[Event]) -> pa.Table:
    """The events, in the order of their times, as the archive has them."""
    rows = [
        {"event_id": f"e{number}", **one} for number, one in enumerate(sorted(events, key=lambda e: e["event_time"]))
    ]
    made = from_columns(pa.Table.from_pylist(rows or [event("a", "x", "view", 0)]), DOMAIN.stream).events
    return made if rows else made.slice(0, 0)


def purchases(count: int, users: int, items: int, kind: str = "purchase", every: int = HOUR) -> list[Event]:
    return [event(f"u{n % users}", f"i{n % items}", kind, n * every) for n in range(count)]


FOUR = [event("a", "x", "purchase", 0), event("b", "x", "purchase", HOUR)]
FOUR += [event("b", "y", "purchase", 5 * HOUR), event("a", "y", "purchase", 9 * HOUR)]
ONE_VISIT = [
    event(f"u{n}", f"i{(7 * n + step) % 20}", kind, n * HOUR + step * 1_000)
    for n in range(300)
    for step, kind in enumerate(("view", "purchase"))
]
EVERY_ITEM = [event(f"u{n % 60}", f"i{n // 60 % 8}", "purchase", n * 60_000) for n in range(960)]

JUDGED = {
    "four purchases of two users": (FOUR, "not enough to judge: 1 of at least 30 test users"),
    "visitors who come once": (ONE_VISIT, "60 more took something, and were new"),
    "users who took every item": (EVERY_ITEM, "ndcg_at_10"),
    "one user": (purchases(50, 1, 7), "not enough to judge"),
    "one item": (purchases(50, 7, 1), "not enough to judge"),
    "users who are all alike": ([event(f"u{n % 40}", f"i{n // 40}", "purchase", n * HOUR) for n in range(400)], "ndcg"),
    "no purchases": (purchases(100, 7, 5, "view"), "not enough to judge"),
    "every item new": ([event(f"u{n % 40}", f"i{n}", "purchase", n * HOUR) for n in range(400)], "not surely above"),
    "everything given back": (
        [
            event(f"u{n % 20}", f"i{n % 9}", kind, n * HOUR + at)
            for n in range(100)
            for at, kind in enumerate(("purchase", "return"))
        ],
        "",
    ),
    "nothing but returns at first": (
        [event(f"u{n % 20}", f"i{n % 9}", "return" if n < 60 else "purchase", n * HOUR) for n in range(100)],
        "not enough to judge",
    ),
}
REFUSED = {
    "one event": [event("a", "x", "purchase", 0)],
    "all at one instant": purchases(50, 7, 5, every=0),
    "only returns": purchases(50, 7, 5, "return"),
    "no items": [event("a", None, "purchase", n * HOUR) for n in range(30)],
    "nothing": [],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "feature_repo").symlink_to(ROOT / "feature_repo")
    return root


def archived(root: Path, events: Sequence[Event]) -> list[str]:
    """The project's archive has these events; the options of a quick training."""
    from deltalake import write_deltalake

    write_deltalake(root / ".headrace" / "offline" / "activity", table(events), mode="overwrite")
    return ["--root", str(root), "--json", "--set", "iterations=5", "--set", "parity=skip"]


@pytest.mark.parametrize("kind", JUDGED)
def test_a_shop_too_small_for_a_verdict_has_no_champion_and_says_what_it_lacks(project: Path, kind: str) -> None:
    events, reason = JUDGED[kind]
    name = kind.replace(" ", "-")
    done = CliRunner().invoke(train, [*archived(project, events), "--set", f"name={name}"], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(done.stdout, parse_constant=pytest.fail)
    assert reason in report["reason"]
    assert "nan" not in done.stdout
    assert not report["promoted"] or report["tested"]["users"] >= 30
    absent = {key for key, value in report["rows"][-1].items() if value is None}
    assert absent <= set(report["not_computed"])
    assert all(report["not_computed"].values())
    version = ModelRegistry("sqlite:///mlruns/mlflow.db", project).get(name, "1")
    assert version.tags[GATE_REASON] == report["reason"]
    assert ("champion" in version.aliases) == report["promoted"]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_shop_without_anything_to_learn_from_is_refused_in_a_sentence(project: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="training requires events"):
        CliRunner().invoke(train, archived(project, REFUSED[kind]), catch_exceptions=False)


def test_what_cannot_be_judged_is_not_promoted_compared_or_said_to_have_drifted_either(project: Path) -> None:
    options = [*archived(project, FOUR), "--set", "name=little"]
    for _ in range(2):
        assert CliRunner().invoke(train, options, catch_exceptions=False).exit_code == 0
    compare = ["compare", "1", "2", "--name", "little", "--root", str(project)]
    report = json.loads(CliRunner().invoke(models, [*compare, "--json"], catch_exceptions=False).stdout)
    assert report["not_judged"].startswith("not enough to judge: 1 of at least 30")
    assert "not enough to judge" in CliRunner().invoke(models, compare, catch_exceptions=False).stdout
    promote = ["promote", "2", "--name", "little", "--root", str(project)]
    refused = CliRunner().invoke(models, promote)
    assert isinstance(refused.exception, HeadraceError)
    assert "not enough to judge" in str(refused.exception)


kinds = st.sampled_from(["purchase", "view", "return", "cart", "unheard"])
shops = st.lists(
    st.builds(
        event,
        st.integers(0, 12).map("u{}".format),
        st.one_of(st.none(), st.integers(0, 6).map("i{}".format)),
        kinds,
        st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 40 * 24 * HOUR)),
    ),
    max_size=60,
)
chosen = st.fixed_dictionaries(
    {
        "ranker_positives": st.sampled_from([1, 5, 100]),
        "target_events": st.sampled_from([1, 200]),
        "ask": st.sampled_from(["arrival", "start"]),
        "repeats": st.sampled_from([None, True, False]),
        "test_ms": st.sampled_from([None, None, 1, 24 * HOUR]),
        "sources": st.sampled_from([("factor", "lasting"), ("together", "session"), ()]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(shops, chosen)
def test_any_tiny_shop_is_trained_and_judged_or_refused_in_a_sentence(events: list[Event], changed: dict) -> None:
    quick = shop_settings(iterations=3, smallest_leaf=1, **changed)
    try:
        trained = fit(TrainingRun.of({"activity": table(events)}, DOMAIN, quick), 7)
        judge = Judge.of_trained(trained)
        verdict = judge.verdict(trained.artefact, trained.rows)
        files_of(trained.artefact, trained.rows, judge.held_out(trained.artefact), trained.calibration, 0)
        assert search(trained.run, 2)[1] == []
    except UsageError:
        return
    assert (verdict.promoted, verdict.judged) == (False, False), "nobody has thirty users of thirteen"
    assert "nan" not in verdict.reason
    unknown = {name for name, value in trained.rows[-1].metrics.items() if math.isnan(value)}
    assert unknown <= set(trained.not_computed)
