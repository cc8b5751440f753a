"""The bars of the published protocols, on the real files; each prints what it measured where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from headrace.cli import cli

RealFile = Callable[[str], Path]
Rows = dict[tuple[str, str], dict[str, Any]]


def rows_of(*args: object) -> Rows:
    """(lists, model) → row; of time-split those of users who are known."""
    done = CliRunner().invoke(cli, ["evaluate", *map(str, args), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    return {(row.get("lists", ""), row["model"]): row for row in rows if row.get("users") != "cold"}


def test_a_ranker_of_shown_items_is_above_their_click_through_on_ranklens(real_file: RealFile) -> None:
    rows = rows_of("ranklens", "--data", real_file("ranklens.jsonl.gz"))
    assert 0.59 < rows["", "item_click_through"]["ndcg_at_10"] < 0.63
    assert rows["", "ranker"]["ndcg_at_10"] >= 0.6295
    assert rows["", "ranker"]["ndcg_at_10_above_item_click_through_low"] > 0


@pytest.mark.slow
def test_two_stages_are_above_habit_and_above_a_blend_on_online_retail(real_file: RealFile) -> None:
    path = real_file("online-retail.parquet")
    rows = rows_of("time-split", "--data", path, "--format", "online-retail", "--test-days", 30)
    bars = {"with_repeats": 0.331, "only_new": 0.118}
    for lists, others in (("with_repeats", ("own", "blend")), ("only_new", ("own", "blend", "blend_of_new"))):
        row = rows[lists, "two_stage"]
        assert row["ndcg_at_10"] >= bars[lists], lists
        assert {other: row[f"ndcg_at_10_above_{other}_low"] > 0 for other in others} == dict.fromkeys(others, True)


@pytest.mark.slow
def test_ease_and_als_are_far_above_popularity_on_movielens(real_file: RealFile) -> None:
    rows = rows_of("random-75-25", "--data", real_file("movielens-small"))
    popular = rows["", "popular"]["ndcg_at_10"]
    assert all(rows["", name]["ndcg_at_10"] > 1.6 * popular for name in ("ease", "als"))
    assert all(rows["", name]["ndcg_at_10_above_popular_low"] > 0.1 for name in ("ease", "als"))
