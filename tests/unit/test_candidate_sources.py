"""The sources of candidates, each against a few lines that do the same slowly, or the library that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from als_library import needs_als
from scipy.sparse import csr_array, csr_matrix
from shop_training import SHOP, shop_settings

from features.errors import ArtefactError
from models.recommender.arrays import candidate_arrays, candidate_tables, read_arrays
from models.recommender.pairs import (
    POSITION,
    TRAIL,
    KnownUser,
    Query,
)
from models.recommender.retrieval import SOURCES, retrieve
from models.recommender.scoring import (
    ALL_PLACES,
    COLUMN,
    PAIR_FEATURES,
    SPARSE,
    Restriction,
    Scoring,
    WorkingMemory,
    recency_weights,
    vector_products,
)
from models.recommender.tables import Factors, Sessions, SparseRows
from training.data.dataset import Interactions
from training.recommender.candidates import ease, fit_candidates
from training.recommender.co_occurrence import (
    FactorSettings,
    co_visits,
    fitted_factors,
    latest_sessions,
    session_items,
    sessions_of,
    strongest_of,
)
from training.settings import TrainingSettings

HOUR, DAY = 3_600_000, 86_400_000
NOW = 1_000 * DAY
PURE = shop_settings(sources=("together", "session", "lasting"), ease_l2=1.0)


def shop(rows: list[tuple[str, str, str, int]], **told) -> Interactions:
    """(user, item, kind, hours before NOW), and what is told of items beside."""
    rows = sorted(rows, key=lambda row: -row[3])
    pools = [sorted({row[column] for row in rows}) for column in range(3)]
    codes = [np.array([pool.index(row[at]) for row in rows], dtype=np.int64) for at, pool in enumerate(pools)]
    known = np.array([NOW - row[3] * HOUR for row in rows], dtype=np.int64)
    return Interactions(pa.array(pools[0]), pa.array(pools[1]), tuple(pools[2]), *codes, known, **told)


def random_shop(seed: int, kinds: tuple[str, ...] = ("view", "purchase")) -> Interactions:
    rng = np.random.default_rng(seed)
    rows = [
        (
            f"u{rng.integers(12)}",
            f"i{rng.integers(15):02}",
            kinds[rng.integers(len(kinds))],
            int(rng.integers(1, 2_000)),
        )
        for _ in range(400)
    ]
    return shop(rows)


def value(candidates, tables, item: str, name: str) -> float:
    (row,) = np.flatnonzero(candidates.indices == tables.index[item])
    return float(candidates.pairs[row, COLUMN[name]])


def random_taken(seed: int, rows: int = 40, items: int = 12) -> csr_array:
    return csr_array((np.random.default_rng(seed).random((rows, items)) < 0.3).astype(float))


# --- items as vectors -----------------------------------------------------------------------------------------------


def test_a_user_is_folded_in_as_the_library_that_fitted_the_vectors_does_it(seed):
    needs_als()
    taken, settings = random_taken(seed), FactorSettings(factors=6, regularization=0.5, alpha=7.0)
    model = fitted_factors(taken, settings)
    factors = Factors(np.asarray(model.item_factors), settings.regularization, settings.alpha)
    for user in range(5):
        row = csr_matrix(taken[[user]], dtype=np.float32)
        expected = model.recalculate_user(0, row) @ model.item_factors.T
        vector = factors.user(np.flatnonzero(taken[[user]].toarray()[0]))
        found = vector_products(factors, vector, np.arange(taken.shape[1]))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_one_who_took_nothing_has_no_score_by_vectors():
    tables = fit_candidates(random_shop(1), ("purchase",), NOW, PURE.model_copy(update={"sources": ("factor",)}))
    found = retrieve(tables, Query("nobody", (), NOW))
    assert set(found.pairs[:, COLUMN["factor_score"]].tolist()) == {0.0}
    assert "factor" not in {SOURCES[source] for source in found.sources}


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_session_ends_where_nothing_happens_for_longer_than_the_gap_and_the_last_one_has_the_highest_number():
    user = np.array([1, 0, 0, 1, 0])
    times = np.array([0, 5, 15, 40, 60])
    assert sessions_of(user, times, 10).tolist() == [0, 1, 1, 2, 3]
    assert sessions_of(user, times, 45).tolist() == [0, 1, 1, 0, 1]


def test_of_a_long_session_the_last_items_count_and_each_once():
    session, item = np.zeros(5, np.int64), np.array([3, 1, 2, 1, 0])
    assert session_items(session, item, 4, 3).toarray().tolist() == [[1, 1, 1, 0]]
    assert session_items(session, item, 4, 9).toarray().tolist() == [[1, 1, 1, 1]]


def test_co_visits_are_the_cosine_of_faded_counts(seed):
    taken = random_taken(seed)
    fade = np.random.default_rng(seed + 1).random(taken.shape[0])
    dense, items = taken.toarray(), taken.shape[1]
    expected = np.zeros((items, items))
    for one in range(items):
        for other in range(items):
            if one != other:
                both = (dense[:, one] * dense[:, other] * fade).sum()
                norms = np.sqrt((dense[:, one] * fade).sum() * (dense[:, other] * fade).sum())
                expected[one, other] = both / (norms + 3.0)
    np.testing.assert_allclose(co_visits(taken, fade, 3.0).toarray(), expected, atol=1e-12)


def test_the_strongest_of_each_row_come_first_and_rows_of_nothing_are_empty():
    kept = strongest_of(csr_array(np.array([[0.0, 0.5, 0.9, 0.1], [0.0, 0.0, 0.0, 0.0]])), 2)
    assert (kept.starts.tolist(), kept.column.tolist()) == ([0, 2, 2], [2, 1])


def test_sessions_alike_answer_as_a_loop_over_all_of_them_does(seed):
    taken = random_taken(seed)
    sessions = latest_sessions(taken, 30)
    rows = [set(np.flatnonzero(row)) for row in taken.toarray() if row.sum() > 1][-30:]
    trail = np.random.default_rng(seed + 2).permutation(taken.shape[1])[:4]
    alike = []
    for row in rows:
        shared = sum(weight for place, weight in zip(trail, recency_weights(4), strict=True) if place in row)
        alike.append(shared / np.sqrt(len(row)))
    expected = np.zeros(taken.shape[1])
    for item in range(taken.shape[1]):
        often = sum(item in row for row in rows)
        rarity = np.log1p(len(rows) / max(often, 1))
        expected[item] = rarity * sum(weight for row, weight in zip(rows, alike, strict=True) if item in row)
    memory = WorkingMemory(taken.shape[1], len(sessions.items.starts) - 1)
    Scoring(memory, Restriction(ALL_PLACES, memory.closed, active=False)).sessions(sessions, trail)
    np.testing.assert_allclose(memory.items.scores[SPARSE.index("session")], expected, atol=1e-9)
    assert not memory.sessions.scores.any()


def test_only_the_latest_sessions_of_two_items_or_more_are_remembered():
    taken = csr_array(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 1]], dtype=float))
    sessions = latest_sessions(taken, 2)
    assert sessions.items.column.tolist() == [0, 2, 1, 2]
    assert [sessions.of_item.column[sessions.of_item.span(item)].tolist() for item in range(3)] == [[0], [1], [1, 0]]


def test_the_newest_items_are_the_trail_before_the_history_and_no_item_twice():
    tables = fit_candidates(shop([("ann", f"i{n:02}", "purchase", n + 1) for n in range(40)]), ("purchase",), NOW, PURE)
    trail = KnownUser.of(tables, Query("ann", ("i30", "i02"), NOW)).trail
    assert [tables.items[place] for place in trail[:4]] == ["i30", "i02", "i00", "i01"]
    assert len(trail) == len(set(trail.tolist())) == TRAIL


# --- what events count ----------------------------------------------------------------------------------------------


def test_what_was_given_back_was_not_taken_and_is_not_popular():
    rows = [("ann", "pot", "purchase", 50), ("ann", "pot", "return", 2), ("bob", "cup", "purchase", 50)]
    tables = fit_candidates(shop([*rows, ("bob", "pot", "view", 9)]), ("purchase",), NOW, PURE)
    found = retrieve(tables, Query("ann", (), NOW))
    assert value(found, tables, "pot", "own_count") == 0
    popular = dict(zip(tables.items, tables.popular.tolist(), strict=True))
    assert popular["pot"] == pytest.approx(0.2 - 2 ** (-2 / 720) + 2 ** (-50 / 720), abs=0.01)


@pytest.mark.parametrize(("kind", "weight"), list(SHOP.counts.items()))
def test_an_event_counts_what_the_settings_say_of_its_type(kind, weight):
    usual = PURE.model_copy(update={"repeats": True})
    settings = usual.model_copy(update={"weights": {**SHOP.counts, kind: 2 * weight}})
    rows = [("ann", "pot", "purchase", 5), ("ann", "cup", "purchase", 5), ("ann", "pot", kind, 4)]
    for one, times in ((usual, 1), (settings, 2)):
        tables = fit_candidates(shop(rows), ("purchase",), NOW, one)
        expected = max(1 + times * weight, 0) if kind != "purchase" else 2 * times
        assert value(retrieve(tables, Query("ann", (), NOW)), tables, "pot", "own_count") == pytest.approx(expected)


def test_a_weight_that_is_set_leaves_the_others_as_they_are():
    settings = shop_settings(weights={"view": "0.05"})
    assert settings.weights == {**SHOP.counts, "view": 0.05}
    assert settings.counted(("view",))["view"] == 1.0


def test_what_a_user_took_counts_half_after_each_half_life_and_newest_items_count_whole():
    rows = [("ann", "tea", "purchase", 48), ("ann", "cup", "purchase", 24), ("bob", "pot", "purchase", 1)]
    tables = fit_candidates(shop(rows), ("purchase",), NOW, PURE.model_copy(update={"fade_half_life_ms": DAY}))
    known = KnownUser.of(tables, Query("ann", ("pot", "tea"), NOW))
    shares = dict(zip((tables.items[place] for place in known.every), known.shares.tolist(), strict=True))
    assert shares == {"tea": 1.0, "cup": 0.5, "pot": 1.0}


def test_where_nothing_fades_similar_items_are_those_of_ones():
    rows = [(f"u{n % 9}", f"i{(n * n) % 13:02}", "purchase", n + 1) for n in range(60)]
    forever = PURE.model_copy(update={"fade_half_life_ms": 1e18, "ease_l2": 2.0})
    tables = fit_candidates(shop(rows), ("purchase",), NOW, forever)
    taken = np.zeros((9, len(tables.items)))
    for user, item, *_ in rows:
        taken[int(user[1:]), tables.index[item]] = 1
    weights = ease(csr_array(taken), 2.0)
    for place in range(len(tables.items)):
        found = tables.neighbours.total(np.array([place]), len(tables.items))
        np.testing.assert_allclose(found, weights[place], atol=1e-6)


def test_a_younger_pair_of_items_is_more_similar_than_an_older_one():
    old = [(f"o{n}", item, "purchase", 200 * 24) for n in range(6) for item in ("tea", "cup")]
    new = [(f"n{n}", item, "purchase", 24) for n in range(6) for item in ("tea", "pot")]
    tables = fit_candidates(shop([*old, *new]), ("purchase",), NOW, PURE)
    found = tables.neighbours.total(np.array([tables.index["tea"]]), len(tables.items))
    assert found[tables.index["pot"]] > found[tables.index["cup"]]


# --- repeats --------------------------------------------------------------------------------------------------------


def test_where_nobody_comes_back_to_what_they_took_it_is_no_candidate_unless_asked_about():
    rows = [(f"u{n % 7}", f"i{n % 11:02}", "rating", 10 * n + 1) for n in range(77)]
    once = fit_candidates(shop(rows), ("rating",), NOW, PURE)
    assert not once.repeats
    mine = {row[1] for row in rows if row[0] == "u3"}
    assert mine == {f"i{n:02}" for n in range(11)}
    assert len(retrieve(once, Query("u3", (), NOW))) == 0
    assert len(retrieve(once, Query("u3", (), NOW), among=["i03"])) == 1
    again = fit_candidates(shop([*rows, *rows[:5]]), ("rating",), NOW, replace_hours(PURE))
    assert again.repeats is True


def replace_hours(settings: TrainingSettings) -> TrainingSettings:
    """Every event is a session of its own."""
    return settings.model_copy(update={"session_gap_ms": -1})


def test_what_was_only_looked_at_is_a_candidate_where_nothing_repeats():
    rows = [("ann", "pot", "purchase", 9), ("ann", "cup", "view", 8), ("bob", "pen", "purchase", 3)]
    tables = fit_candidates(shop(rows), ("purchase",), NOW, PURE.model_copy(update={"repeats": False}))
    found = retrieve(tables, Query("ann", (), NOW))
    assert {tables.items[place] for place in found.indices} == {"cup", "pen"}


def test_how_often_and_how_regularly_a_user_came_back_is_told():
    rows = [("ann", "tea", "purchase", hours) for hours in (220, 120, 20)] + [("ann", "cup", "purchase", 3)]
    tables = fit_candidates(shop(rows), ("purchase",), NOW, PURE)
    found = retrieve(tables, Query("ann", (), NOW))
    assert tables.repeats
    assert [value(found, tables, item, "own_visits") for item in ("tea", "cup")] == [3, 1]
    assert value(found, tables, "tea", "own_due") == pytest.approx(20 / 100)
    assert np.isnan(value(found, tables, "cup", "own_due"))


# --- what items are -------------------------------------------------------------------------------------------------


def told_shop() -> Interactions:
    rows = [("ann", "mug", "view", 4), ("ann", "pot", "view", 3), ("bob", "pen", "view", 2), ("bob", "cup", "view", 1)]
    return shop(rows, categories=np.array([0, 0, 1, 0]), prices=np.array([2.0, 8.0, np.nan, 16.0]))


def test_the_share_of_the_newest_items_of_a_category_and_the_price_beside_the_usual_one_are_told():
    tables = fit_candidates(told_shop(), ("view",), NOW, PURE)
    found = retrieve(tables, Query(None, ("pot", "pen"), NOW))
    assert value(found, tables, "cup", "category_share") == pytest.approx(1 / 1.5)
    assert value(found, tables, "pen", "category_share") == pytest.approx(0.5 / 1.5)
    assert value(found, tables, "cup", "price_from_habit") == pytest.approx(np.log(16 / 8))
    assert np.isnan(value(found, tables, "pen", "price_from_habit"))


def test_without_such_fields_or_anything_known_of_the_user_nothing_is_told():
    plain = replace(fit_candidates(told_shop(), ("view",), NOW, PURE), category=None, price=None)
    for tables, query in ((plain, Query("ann", (), NOW)), (fit_candidates(told_shop(), ("view",), NOW, PURE), None)):
        found = retrieve(tables, query or Query(None, (), NOW))
        assert len(found)
        for name in ("category_share", "price_from_habit"):
            assert np.isnan(found.pairs[:, COLUMN[name]]).all()


def test_every_candidate_is_taken_to_be_shown_at_the_same_place():
    tables = fit_candidates(random_shop(3), ("purchase",), NOW, PURE)
    assert set(retrieve(tables, Query("u1", (), NOW)).pairs[:, COLUMN["position"]].tolist()) == {POSITION}


# --- together -------------------------------------------------------------------------------------------------------


def test_a_model_has_the_sources_that_the_settings_name_and_says_nothing_of_the_others():
    for sources in ((), ("together",), ("session", "lasting")):
        tables = fit_candidates(random_shop(5), ("purchase",), NOW, PURE.model_copy(update={"sources": sources}))
        pairs = retrieve(tables, Query("u1", ("i03",), NOW)).pairs
        silent = {name for name in PAIR_FEATURES if np.isnan(pairs[:, COLUMN[name]]).all()}
        for source in ("together", "session", "lasting"):
            assert (f"{source}_score" in silent) == (source not in sources)


def test_what_is_asked_about_has_the_same_inputs_as_what_the_sources_name(seed):
    tables = fit_candidates(random_shop(seed), ("purchase",), NOW, PURE)
    query = Query("u2", ("i07", "i01"), NOW)
    found = retrieve(tables, query)
    asked = retrieve(tables, query, among=[tables.items[place] for place in found.indices])
    names = [name for name in PAIR_FEATURES if name != "blended"]
    columns = [COLUMN[name] for name in names]
    np.testing.assert_array_equal(asked.pairs[:, columns], found.pairs[:, columns])
    assert {SOURCES[source] for source in asked.sources} == {"asked"}


@pytest.mark.parametrize("sources", [(), ("together", "session", "lasting")])
def test_tables_come_back_from_their_file_as_they_were(sources, tmp_path, seed):
    tables = fit_candidates(random_shop(seed), ("purchase",), NOW, PURE.model_copy(update={"sources": sources}))
    factors = Factors(np.random.default_rng(seed).random((len(tables.items), 4)).astype(np.float32), 0.5, 2.0)
    tables = replace(tables, factors=factors if sources else None, repeats=not sources)
    np.savez(tmp_path / "c.npz", **candidate_arrays(tables))
    read = candidate_tables(read_arrays(tmp_path / "c.npz"), tmp_path / "c.npz")
    assert read.repeats == tables.repeats
    for query in (Query("u2", ("i07",), NOW), Query(None, (), NOW)):
        one, other = retrieve(tables, query), retrieve(read, query)
        np.testing.assert_array_equal(one.pairs, other.pairs)
        np.testing.assert_array_equal(one.indices, other.indices)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("lasting", np.zeros(3, np.float32)),
        ("own_visits", np.zeros(1, np.float32)),
        ("together_items", np.array([99], np.int32)),
        ("session_starts", np.array([0, 5, 2])),
        ("factors", np.array([np.nan], np.float32)),
        ("factor_settings", np.zeros(2)),
        ("repeats", np.array([], dtype=bool)),
        ("half_life_ms", np.zeros(1)),
    ],
)
def test_further_arrays_that_do_not_fit_are_refused(name, array, tmp_path):
    tables = fit_candidates(random_shop(1), ("purchase",), NOW, PURE)
    tables = replace(tables, factors=Factors(np.ones((len(tables.items), 2), np.float32), 0.5, 2.0))
    path = tmp_path / "c.npz"
    np.savez(path, **{**candidate_arrays(tables), name: array})
    with pytest.raises(ArtefactError, match=r"c\.npz"):
        candidate_tables(read_arrays(path), path)


def test_a_source_whose_arrays_are_not_all_there_is_refused(tmp_path):
    arrays = candidate_arrays(fit_candidates(random_shop(1), ("purchase",), NOW, PURE))
    np.savez(tmp_path / "c.npz", **{name: array for name, array in arrays.items() if name != "together_starts"})
    with pytest.raises(ArtefactError, match="together_starts"):
        read_arrays(tmp_path / "c.npz")


def test_the_memory_of_sessions_is_that_of_their_items():
    rows = SparseRows(np.array([0, 2, 3]), np.array([1, 0, 1], np.int32), np.ones(3, np.float32))
    assert Sessions.of(rows, 2).of_item.column.tolist() == [0, 1, 0]
