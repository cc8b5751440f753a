"""Protocols about lists: their splits and questions by hand, and the commands on files small enough to read."""

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

from features.definitions.repo import load_repo
from features.errors import FormatError
from headrace.cli import cli
from headrace.commands.models.evaluate_lists import ENDS, show
from training.data.dataset import Interactions
from training.judging.confidence import bootstrap
from training.protocols.impressions import (
    ImpressionLists,
    Metadata,
    click_through,
    clicked_before,
    inputs,
    rank_in_list,
)
from training.protocols.leave_one_out import from_files
from training.protocols.lists import read_interactions
from training.protocols.random_split import stratified
from training.protocols.report import ProtocolResult, report_rows
from training.protocols.session import questions
from training.protocols.time_split import item_click_through
from training.recommender.metrics import average_precision_at_k, diversity, hits_at_k, novelty, popularity_bias, top_k
from training.recommender.scorers import Taken

ROOT = Path(__file__).resolve().parent.parent.parent


def test_average_precision_is_the_precision_at_each_hit_over_what_is_relevant():
    hits = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=bool)
    np.testing.assert_allclose(average_precision_at_k(hits, np.array([4, 1, 0])), [(1 + 2 / 3) / 4, 0.0, np.nan])


def test_the_top_is_that_of_a_stable_sort_whatever_is_equal(seed):
    scores = np.random.default_rng(seed).integers(0, 4, (50, 9)).astype(float)
    np.testing.assert_array_equal(top_k(scores, 4), np.argsort(-scores, axis=1, kind="stable")[:, :4])


def test_what_is_hidden_and_what_is_beyond_the_last_item_is_listed_as_none():
    top = top_k(np.array([[1.0, -np.inf, 3.0]]), 4)
    assert top.tolist() == [[2, 0, -1, -1]]
    assert hits_at_k(top, np.array([[True, True, False]])).tolist() == [[False, True, False, False]]


def test_novelty_and_popularity_bias_are_of_the_share_of_users_and_empty_lists_have_none():
    share = np.array([0.5, 0.25])
    top = np.array([[0, 1], [1, -1], [-1, -1]])
    np.testing.assert_allclose(novelty(top, share), [1.5, 2.0, np.nan])
    np.testing.assert_allclose(popularity_bias(top, share), [0.375, 0.25, np.nan])


def test_diversity_is_none_of_items_that_the_same_users_took_and_whole_of_items_of_different_users():
    from scipy.sparse import csr_array

    users = csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(diversity(np.array([[0, 1], [0, 2], [2, -1]]), users), [0.0, 1.0, np.nan], atol=1e-12)


def test_the_interval_of_a_constant_is_that_constant_and_of_nothing_is_none():
    same = bootstrap(np.array([0.25, 0.25, np.nan]))
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)
    assert np.isnan(bootstrap(np.array([np.nan])).low)


def test_the_interval_is_near_that_of_the_normal_distribution(seed):
    values = np.random.default_rng(seed).normal(size=2_000)
    sure, half = bootstrap(values), 1.96 * values.std() / np.sqrt(2_000)
    np.testing.assert_allclose([sure.low, sure.high], [values.mean() - half, values.mean() + half], atol=0.15 * half)


def test_a_difference_is_paired_so_that_a_model_is_no_better_than_itself():
    one, better = np.array([0.1, 0.9, 0.5]), np.array([0.2, 1.0, 0.6])
    rows = report_rows([ProtocolResult("popular", {"m": one}), ProtocolResult("new", {"m": better})], "m", ["popular"])
    assert rows[0]["m_above_popular"] == 0.0
    np.testing.assert_allclose([rows[1]["m_above_popular_low"], rows[1]["m_above_popular_high"]], [0.1, 0.1])


def test_every_metric_has_its_interval_and_not_only_the_main_one():
    lists = {"ndcg": np.array([0.0, 0.5, 1.0]), "recall": np.array([0.25, 0.25, np.nan])}
    (row,) = report_rows([ProtocolResult("popular", lists)], "ndcg", ["popular"])
    assert (row["recall"], row["recall_low"], row["recall_high"]) == (0.25, 0.25, 0.25)
    assert row["ndcg_low"] < row["ndcg"] < row["ndcg_high"]
    assert "recall_above_popular" not in row


def test_three_of_four_rows_of_each_user_are_drawn_and_the_seed_decides_which():
    user = np.repeat([0, 1, 2], [4, 8, 1])
    drawn = stratified(user, 0.75, 1)
    assert np.bincount(user[drawn]).tolist() == [3, 6, 1]
    assert (stratified(user, 0.75, 1) == drawn).all()
    assert any((stratified(user, 0.75, other) != drawn).any() for other in range(2, 9))


def test_every_click_but_a_sessions_first_is_asked_for_with_the_clicks_before_it():
    clicks = Taken(2, 9, np.array([0, 1, 0, 0]), np.array([5, 6, 7, 8]), np.ones(4), np.array([1, 2, 3, 4]))
    before, wanted = questions(clicks)
    assert wanted.tolist() == [7, 8]
    assert [before.item[before.user == one].tolist() for one in range(2)] == [[5], [5, 7]]


# --- impressions ----------------------------------------------------------------------------------------------------


def two_lists() -> ImpressionLists:
    """User 0 sees items 0 and 1 at 10 and clicks 1 at 15; user 0 sees 1 and 2 at 20; a click at 20 is not known yet."""
    return ImpressionLists(
        items=3,
        list_of=np.array([0, 0, 1, 1]),
        item=np.array([0, 1, 1, 2]),
        position=np.array([1, 2, 1, 2]),
        clicked=np.array([False, True, True, False]),
        list_ms=np.array([10, 20]),
        list_user=np.array([0, 0]),
        click_item=np.array([1, 1]),
        click_ms=np.array([15, 20]),
        click_user=np.array([0, 0]),
    )


def test_click_through_counts_what_came_before_the_list_and_nothing_of_its_own_moment():
    np.testing.assert_allclose(click_through(two_lists()), [1 / 10, 1 / 10, 2 / 11, 1 / 10])


def test_a_list_knows_the_earlier_clicks_of_its_user():
    assert clicked_before(two_lists()).toarray().tolist() == [[0, 0, 0], [0, 1, 0]]


def test_items_are_compared_with_what_the_user_clicked_by_number_and_by_words():
    from scipy.sparse import csr_array

    words = csr_array(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    columns = inputs(two_lists(), Metadata({"price": np.array([1.0, 5.0, 7.0])}, {"genres": words}))
    np.testing.assert_allclose(columns["price_from_habit"], [np.nan, np.nan, 0.0, 2.0])
    np.testing.assert_allclose(columns["genres_affinity"], [np.nan, np.nan, 1.0, 1 / np.sqrt(2)])


def test_ranks_are_within_a_list_and_equal_values_stand_in_their_order():
    assert rank_in_list(np.array([1.0, 3.0, 1.0, 2.0]), np.array([0, 0, 0, 1])).tolist() == [1, 0, 2, 0]


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ratings(tmp_path):
    """Two tastes: even users rate even films, odd users odd ones."""
    lines = [f"{u}\t{i}\t5\t{881250000 + 10 * u + i}" for u in range(12) for i in range(12) if (u + i) % 2 == 0]
    path = tmp_path / "u.data"
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(*args: object) -> dict[str, dict[str, float]]:
    done = CliRunner().invoke(cli, ["evaluate", *map(str, args), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["baseline"] == "popular"
    return {row["model"]: row for row in report["rows"]}


def test_random_75_25_of_two_tastes_is_solved_by_all_but_popularity(ratings):
    needs_als()
    rows = rows_of("random-75-25", "--data", ratings, "--format", "movielens-100k", "--set", "als.factors=4")
    assert rows["popular"]["ndcg_at_10"] < 0.8
    assert all(rows[name]["ndcg_at_10"] > 0.99 for name in ("co_visited", "ease"))
    assert rows["ease"]["ndcg_at_10_above_popular_low"] > 0


def test_leave_one_out_reads_the_files_that_ncf_made(ratings, tmp_path):
    needs_als()
    train, test = tmp_path / "x.train.rating", tmp_path / "x.test.rating"
    lines = ratings.read_text().splitlines()
    out = [line for line in lines if int(line.split("\t")[1]) >= 10]
    train.write_text("\n".join(line for line in lines if line not in out) + "\n")
    test.write_text("\n".join(out) + "\n")
    negatives = tmp_path / "x.test.negative"
    # One line has the item itself among the others, as some of the published file's do: it does not count.
    own = [(line.split("\t")[0], line.split("\t")[1]) for line in out]
    others = ["\t".join([i, *(str(j) for j in range(10) if (j + int(u)) % 2)]) for u, i in own]
    negatives.write_text("".join(f"({u},{i})\t{rest}\n" for (u, i), rest in zip(own, others, strict=True)))
    rows = rows_of("leave-one-out-99", "--train", train, "--test", test, "--negatives", negatives)
    assert set(rows["ease"]) >= {"hit_rate_at_10", "ndcg_at_10", "fit_s"}
    assert rows["ease"]["hit_rate_at_10"] == 1.0


def metarank(rankings: range, rng: np.random.Generator) -> str:
    """Lists of four of six items, of which the first two are liked; four of the lists in each second."""
    lines = []
    for number in rankings:
        shown = [f"i{item}" for item in rng.permutation(6)[:4]]
        items = ",".join(f'{{"id":"{item}"}}' for item in shown)
        about = f'"timestamp":"{1_700_000_000_000 + 1000 * (number // 4)}","user":"u{number % 5}","session":"s{number}"'
        lines.append(f'{{"event":"ranking","id":"r{number}",{about},"fields":[],"items":[{items}]}}')
        taken = next(item for item in [*("i0", "i1"), *shown] if item in shown)
        lines.append(
            f'{{"event":"interaction","id":"c{number}",{about},"ranking":"r{number}","item":"{taken}","type":"click",'
            '"fields":[]}'
        )
    return "\n".join(lines) + "\n"


def test_lists_to_test_on_may_have_a_file_of_their_own_which_came_after(tmp_path):
    rng = np.random.default_rng(3)
    first, last = metarank(range(1, 161), rng), metarank(range(161, 201), rng)
    for name, text in (("whole", first + last), ("first", first), ("last", last)):
        (tmp_path / name).write_text(text)
    whole = rows_of("ranklens", "--data", tmp_path / "whole")
    parts = rows_of("ranklens", "--train", tmp_path / "first", "--test", tmp_path / "last")
    assert whole["ranker"]["ndcg_at_10"] > whole["random"]["ndcg_at_10"]
    assert [{**row, "fit_s": 0} for row in parts.values()] == [{**row, "fit_s": 0} for row in whole.values()]
    done = CliRunner().invoke(
        cli, ["evaluate", "ranklens", "--train", str(tmp_path / "last"), "--test", str(tmp_path / "first")]
    )
    assert (done.exit_code, "rankings of 1700000050000 ms or later" in done.output) == (2, True)


def test_a_time_split_tells_known_users_from_new_ones_and_has_the_model_that_train_fits(tmp_path, capsys):
    needs_als()
    kinds = "InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"
    rng, lines = np.random.default_rng(4), []
    for day in range(60):
        for user in range(30 if day < 50 else 34):
            item = (user % 2) + 2 * int(rng.integers(0, 10))
            lines.append(
                (f"{day}-{user}", f"i{item:02}", 1, datetime(2011, 1, 1, tzinfo=UTC) + timedelta(days=day), 2.0, user)
            )
    parts, days = [], 50 * 30
    for name, chosen in (("shop", lines), ("before", lines[:days]), ("after", lines[days:])):
        parts.append(str(tmp_path / f"{name}.parquet"))
        pq.write_table(pa.table(dict(zip(kinds, map(list, zip(*chosen, strict=True)), strict=True))), parts[-1])
    options = ["--format", "online-retail", "--test-days", 10, "--train-set", "iterations=5"]
    done = CliRunner().invoke(cli, ["evaluate", "time-split", "--data", parts[0], *map(str, options), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["warm_users"], report["cold_users"], report["items"]) == (30, 4, 20)
    rows = {(row["users"], row["lists"], row["model"]): row for row in report["rows"]}
    warm = rows["warm", "with_repeats", "two_stage"]
    assert warm["ndcg_at_10"] > rows["warm", "with_repeats", "popular"]["ndcg_at_10"]
    assert warm["ndcg_at_10_above_popular_low"] > 0
    assert rows["cold", "with_repeats", "popular"]["n"] == 4
    assert 0 < rows["cold", "with_repeats", "popular"]["novelty_at_10"] < 10

    # How far it is above a user's own items and a blend, in every part: as a person reads it, and as a program does.
    show(report, as_json=False)
    text = capsys.readouterr().out
    for users, lists, name in rows:
        if name == "two_stage":
            for other in ("own", "blend"):
                mean, low, high = (rows[users, lists, name][f"ndcg_at_10_above_{other}{end}"] for end in ("", *ENDS))
                assert low <= mean <= high
                line = f"{users} {lists} two_stage: ndcg_at_10_above_{other} {mean:+.4f} ({low:+.4f} to {high:+.4f})"
                assert line in text.splitlines()
    assert "ease: ndcg_at_10_above_" not in text

    # The same where the last part has a file of its own.
    words = ["time-split", "--train", parts[1], "--test", parts[2], "--model", "two_stage", *options[:2], *options[4:]]
    done = CliRunner().invoke(cli, ["evaluate", *words, "--json"])
    assert done.exit_code == 0, done.output
    apart = json.loads(done.stdout)
    assert apart["as_of_ms"] == datetime(2011, 1, 1, tzinfo=UTC).timestamp() * 1_000 + 50 * 86_400_000
    assert [apart[name] for name in ("warm_users", "cold_users", "items", "end_ms")] == [30, 4, 20, report["end_ms"]]
    recall = {row["users"]: row["recall_at_10"] for row in apart["rows"] if row["model"] == "popular"}
    assert recall["warm"] == rows["warm", "with_repeats", "popular"]["recall_at_10"]


def test_an_items_click_through_is_its_targets_over_its_views_and_there_is_none_without_views():
    kinds = ("purchase", "view")
    item = np.array([0, 0, 0, 1, 1, 2])
    kind = np.array([1, 1, 0, 1, 0, 1])
    names = pa.array(["a", "b", "c", "d"])
    history = Interactions(names[:1], names, kinds, np.zeros(6, np.int64), item, kind, np.arange(6))
    nobody = Taken(2, 4, *(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64, np.int64)))
    (found,) = item_click_through(history, ("purchase",), ("view", "click"))
    np.testing.assert_allclose(found.scorer(nobody), [[2 / 12, 2 / 11, 1 / 11, 1 / 10]] * 2)
    assert item_click_through(history.only(kind == 0), ("purchase",), ("view",)) == []
    assert item_click_through(history.only(kind == 1), ("view",), ("view",)) == []


def test_a_line_of_negatives_that_is_none_is_named(tmp_path, ratings):
    bad = tmp_path / "bad.negative"
    bad.write_text("(1,2)\t3\nnonsense\n")
    with pytest.raises(FormatError, match="line 2: 'nonsense'"):
        from_files(read_interactions(ratings, "movielens-100k", load_repo(ROOT / "feature_repo")), bad)


def test_the_split_is_made_of_a_file_where_there_are_no_files_of_it(ratings):
    rows = rows_of("leave-one-out-99", "--data", ratings, "--model", "ease")
    assert set(rows) == {"popular", "ease"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["leave-one-out-99"], "requires --data, or --train and --negatives"),
        (["ranklens"], "requires --data, or --train and --test; got none of them"),
        (["ranklens", "--data", "x", "--test", "y"], "requires --data, or --train and --test; got --data, --test"),
        (
            ["time-split", "--train", "x", "--format", "movielens"],
            "requires --data, or --train and --test; got --train",
        ),
        (["leave-one-out-99", "--data", "x", "--train", "y"], "--train and --negatives; got --data, --train"),
        (["leave-one-out-99", "--data", "x", "--negatives", "y"], "--train and --negatives; got --data, --negatives"),
        (["leave-one-out-99", "--train", "x", "--test", "y"], "--train and --negatives; got --train, --test"),
        (["fraud-handbook", "--data", "x", "--train-start", "foo"], "a date, such as 2018-07-04; got 'foo'"),
        (["time-split", "--data", "x", "--format", "movielens", "--model", "magic"], "blend_of_new, two_stage"),
        (["random-75-25", "--data", "x", "--set", "ease.l3=1"], "requires one of"),
        (["random-75-25", "--data", "x", "--set", "ease.l2=much"], "requires a number"),
        (["random-75-25", "--data", "x", "--model", "magic"], "requires one of popular"),
    ],
)
def test_what_is_asked_wrongly_is_said_with_what_would_be_right(args, message):
    done = CliRunner().invoke(cli, ["evaluate", *args])
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert message in done.output
