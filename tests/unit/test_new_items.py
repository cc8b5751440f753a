"""The protocol of new items: told by their attributes alone, above the popularity of their category."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from als_library import needs_als
from click.testing import CliRunner

from headrace.cli import cli
from headrace.commands.models.evaluate_lists import show
from training.recommender.evaluate import of_new_items

WOODS, DAYS = ("oak", "ash"), 60


@pytest.fixture(scope="module")
def sales(tmp_path_factory) -> Path:
    """Sixty days of users who each like one wood; every day some items are sold for the first time, of both woods."""
    rng, lines = np.random.default_rng(4), []
    for day in range(DAYS):
        for user in range(60):
            number = 2 * int(rng.integers(max(0, day // 2 - 8), day // 2 + 8)) + user % 2
            time = datetime(2011, 1, 1, tzinfo=UTC) + timedelta(days=day, minutes=user)
            title = f"{WOODS[number % 2]} no {number} thing"
            lines.append((f"{day}-{user}", f"i{number:03}", title, 1, time, 2.0, user))
    names = "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"
    path = tmp_path_factory.mktemp("sales") / "sales.parquet"
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*lines, strict=True)), strict=True))), path)
    return path


def evaluated(path: Path, *more: str) -> tuple[int, str]:
    options = ["--format", "online-retail", "--test-days", "15", "--train-set", "iterations=5", "--json"]
    done = CliRunner().invoke(cli, ["evaluate", "new-items", "--data", str(path), *options, *more])
    return done.exit_code, done.stdout if done.exit_code == 0 else done.output


def test_new_items_are_recommended_to_those_who_like_their_like(sales, capsys):
    needs_als()
    code, text = evaluated(sales, "--items", str(sales), "--items-format", "online-retail-items")
    assert code == 0, text
    report = json.loads(text)
    assert report["category"] == "last word of attribute 'title'"
    assert report["new_items"] >= 10
    rows = {(row["lists"], row["model"]): row for row in report["rows"]}
    for model in ("content", "two_stage"):
        assert rows["new", model]["ndcg_at_10"] > rows["new", "category_popular"]["ndcg_at_10"] > 0
        assert rows["new", model]["ndcg_at_10_above_category_popular_low"] > 0
    show(report, as_json=False)
    assert "two_stage" in capsys.readouterr().out


def test_without_a_catalogue_there_are_no_new_items(sales):
    needs_als()
    code, text = evaluated(sales)
    assert code == 2
    assert "a catalogue with items" in text


def test_new_items_alone_are_right_in_their_measure():
    lists = [np.array([7, 1, 2]), np.array([1, 2, 3]), np.array([8])]
    relevant = [np.array([1, 7]), np.array([2]), np.array([9, -1])]
    assert of_new_items(lists, relevant, 5, 3) == {"new_items_ndcg_at_3": 0.5}
    assert of_new_items(lists, relevant, 10, 3) == {}
