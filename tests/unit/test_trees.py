"""The trees of a fitted classifier as flat arrays: every probability is that of scikit-learn to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from features.arrays import Floats
from models.classifier_file import scorer
from models.trees import flat_trees
from models.trees.kernel import sum_leaves


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of scikit-learn would wait for each other on busy cores."""
    with threadpool_limits(1, user_api="openmp"):
        yield


SIZES = (1, 7, 8, 9, 24, 242)


EXTREMES = (np.inf, -np.inf, 1e300, -1e300, 5e-324, np.finfo(np.float64).max)
"""Numbers that a request may hold and that no classifier can be fitted on without overflows."""


def numbers(rng: np.random.Generator, rows: int, width: int, others: tuple[float, ...] = EXTREMES) -> Floats:
    """Numbers of many sizes, equal ones, ±0, missing ones, and ``others``."""
    values = rng.standard_normal((rows, width)) * np.exp(rng.uniform(-20, 20, width))
    whole = rng.random(width) < 0.4
    values[:, whole] = rng.integers(-3, 4, (rows, int(whole.sum())))
    here = rng.random(values.shape) < rng.choice([0.0, 0.05, 0.5], width)
    values[here] = rng.choice([np.nan, 0.0, -0.0, *others], int(here.sum()))
    return values


def fitted(seed: int, width: int = 9, **settings: object) -> tuple[HistGradientBoostingClassifier, np.random.Generator]:
    rng = np.random.default_rng(seed)
    inputs = numbers(rng, 600, width, (1e100, -1e100))
    inputs[0] = np.arange(width)  # no column is of missing values alone
    kind = np.isnan(inputs[:, 0]) | (np.nan_to_num(inputs[:, 1], posinf=9.0, neginf=-9.0) > rng.standard_normal(600))
    chosen = {
        "max_iter": int(rng.integers(1, 40)),
        "max_leaf_nodes": int(rng.integers(2, 40)),
        "min_samples_leaf": int(rng.integers(1, 30)),
        "max_bins": int(rng.integers(2, 256)),
        **settings,
    }
    model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **chosen)
    return model.fit(inputs, kind ^ (rng.random(600) < 0.1)), rng


@pytest.mark.parametrize("seed", range(40))
def test_probabilities_are_those_of_scikit_learn_to_the_last_bit(seed: int) -> None:
    model, rng = fitted(seed)
    trees = flat_trees(model)
    assert trees is not None
    for rows in SIZES:
        inputs = numbers(rng, rows, 9)
        assert trees.answers(inputs).tobytes() == model.predict_proba(inputs)[:, 1].tobytes()


def test_values_at_a_threshold_and_beside_it_go_where_scikit_learn_sends_them() -> None:
    model, rng = fitted(3, max_iter=30)
    nodes = np.concatenate([tree[0].nodes for tree in model._predictors])
    nodes = nodes[(nodes["is_leaf"] == 0) & np.isfinite(nodes["num_threshold"])]
    assert len(nodes) > 20
    inputs = numbers(rng, 3 * len(nodes), 9)
    for step, aim in enumerate((None, np.inf, -np.inf)):
        at = nodes["num_threshold"]
        rows = np.arange(len(nodes)) + step * len(nodes)
        inputs[rows, nodes["feature_idx"]] = at if aim is None else np.nextafter(at, aim)
    assert scorer(model)(inputs).tobytes() == model.predict_proba(inputs)[:, 1].tobytes()


def test_a_split_between_missing_and_present_values_sends_infinity_to_the_present_ones() -> None:
    inputs = np.concatenate([np.full(100, np.nan), np.linspace(-1, 1, 100)])[:, None]
    model = HistGradientBoostingClassifier(max_iter=3).fit(inputs, np.isnan(inputs[:, 0]))
    assert np.isinf(model._predictors[0][0].nodes["num_threshold"]).any()
    asked = np.array([[np.nan], [np.inf], [-np.inf], [np.finfo(np.float64).max], [0.0]])
    found = scorer(model)(asked)
    assert found.tobytes() == model.predict_proba(asked)[:, 1].tobytes()
    assert found[0] > 0.5 > found[1:].max()


def test_any_memory_layout_and_no_rows_at_all_are_answered() -> None:
    model, rng = fitted(5)
    inputs = numbers(rng, 64, 9)
    expected = model.predict_proba(inputs)[:, 1]
    fixed = inputs.copy()
    fixed.flags.writeable = False
    for given in (np.asfortranarray(inputs), np.repeat(inputs, 2, axis=1)[:, ::2], fixed):
        assert scorer(model)(given).tobytes() == expected.tobytes()
    short = rng.standard_normal((30, 9)).astype(np.float32)
    assert scorer(model)(short).tobytes() == model.predict_proba(short)[:, 1].tobytes()
    assert scorer(model)(inputs[:0]).shape == (0,)


def test_inputs_of_another_width_are_refused() -> None:
    model, _ = fitted(1)
    with pytest.raises(ValueError, match=r"\(n, 9\); got \(2, 8\)"):
        scorer(model)(np.zeros((2, 8)))


def test_threads_share_one_classifier() -> None:
    model, rng = fitted(11)
    asked = [numbers(rng, 40, 9) for _ in range(60)]
    score = scorer(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(score, asked))
    assert all(np.array_equal(one, model.predict_proba(inputs)[:, 1]) for one, inputs in zip(found, asked, strict=True))


def test_models_of_other_kinds_are_asked_themselves() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 5, (300, 3)).astype(np.float64)
    of_categories = HistGradientBoostingClassifier(max_iter=3, categorical_features=[0]).fit(inputs, inputs[:, 0] == 2)
    of_three = HistGradientBoostingClassifier(max_iter=3).fit(inputs, rng.integers(0, 3, 300))

    class Own(HistGradientBoostingClassifier):  # type: ignore[misc]
        def predict_proba(self, inputs: Floats) -> Floats:
            return np.full((len(inputs), 2), 0.25)

    own = Own(max_iter=3).fit(inputs, inputs[:, 1] > 2)
    assert [flat_trees(model) for model in (of_categories, of_three, own, object())] == [None] * 4
    assert scorer(of_categories)(inputs).tobytes() == of_categories.predict_proba(inputs)[:, 1].tobytes()
    assert set(scorer(own)(inputs)) == {0.25}


@pytest.mark.parametrize(
    ("field", "value"),
    [("left", 0), ("right", 10_000), ("left", 2), ("feature_idx", 9), ("feature_idx", -1), ("is_leaf", 1)],
)
def test_trees_that_no_fit_makes_are_refused_before_the_kernel_follows_them(field: str, value: int) -> None:
    model, _ = fitted(5, max_iter=3, max_leaf_nodes=8, min_samples_leaf=1)
    nodes = model._predictors[1][0].nodes
    nodes[field][0] = value
    if field == "left" and value == 2:  # one node twice, another never
        nodes["right"][0] = 2
    with pytest.raises(ValueError, match=r"nodes|column|index"):
        flat_trees(model)


def test_the_kernel_computes_the_same_as_python() -> None:
    model, rng = fitted(8, max_iter=5)
    trees, inputs = flat_trees(model), numbers(rng, 19, 9)
    assert trees is not None
    sums = np.empty(19)
    arrays = (trees.columns, trees.missing, trees.starts, trees.depths, trees.nodes, trees.thresholds, trees.values)
    sum_leaves(inputs, *arrays, trees.baseline, sums)
    assert sums.tobytes() == model.decision_function(inputs).tobytes()
