"""A fitted histogram gradient boosting classifier or regressor as flat arrays, walked by a compiled kernel.

The answers are those of scikit-learn's predict_proba, or predict, to the last bit: the same comparisons of the same
numbers, leaf values added in the same order, and the same sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.compiling import compiled
from models.trees import kernel
from models.trees.kernel import LANES, LARGEST


@dataclass(frozen=True)
class FlatTrees:
    """The trees of a binary classifier or of a regressor, in the arrays of kernel.sum_leaves.

    Args:
        width: the number of columns of its inputs.
        baseline: the log odds, or the number, before the first tree.
        is_classifier: whether the sums are log odds.
    """

    width: int
    baseline: float
    columns: NDArray[np.int32]
    missing: Floats
    starts: Int64s
    depths: Int64s
    nodes: Int64s
    thresholds: Floats
    values: Floats
    is_classifier: bool = True

    def answers(self, inputs: Floats) -> Floats:
        """(n,) the probability of each row of (n, width) inputs, or its number; NaN in them for a missing value.

        Raises ValueError for inputs of another shape.
        """
        from scipy.special import expit  # type: ignore[import-untyped]

        inputs = np.ascontiguousarray(inputs, dtype=np.float64)
        if inputs.shape != (len(inputs), self.width):
            message = f"inputs must be (n, {self.width}); got {inputs.shape}"
            raise ValueError(message)
        sums = np.empty(len(inputs))
        walk()(
            inputs,
            self.columns,
            self.missing,
            self.starts,
            self.depths,
            self.nodes,
            self.thresholds,
            self.values,
            self.baseline,
            sums,
        )
        return np.asarray(expit(sums), dtype=np.float64) if self.is_classifier else sums


@cache
def walk() -> Callable[..., None]:
    """kernel.sum_leaves, compiled; call it once before the first request does."""
    return compiled(kernel.sum_leaves, Path(kernel.__file__), kernel.SIGNATURE)


def flat_trees(classifier: Any) -> FlatTrees | None:
    """The trees of a fitted HistGradientBoostingClassifier of two classes, or of a regressor of its kind.

    None for other models, for other losses than these, and for categories. Raises ValueError for trees that a fit does
    not make: the kernel checks no index.
    """
    from sklearn._loss.loss import AbsoluteError, HalfBinomialLoss, HalfSquaredError  # type: ignore[import-untyped]
    from sklearn.ensemble import (  # type: ignore[import-untyped]
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    losses = {
        HistGradientBoostingClassifier: (HalfBinomialLoss,),
        HistGradientBoostingRegressor: (AbsoluteError, HalfSquaredError),
    }
    if type(getattr(classifier, "_loss", None)) not in losses.get(type(classifier), ()):
        return None
    try:
        return _of_trees(classifier, [iteration[0].nodes for iteration in classifier._predictors])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _of_trees(classifier: Any, trees: Sequence[NDArray[Any]]) -> FlatTrees | None:
    finite = all((tree["num_threshold"][np.isfinite(tree["num_threshold"])] < LARGEST).all() for tree in trees)
    if not finite or any(tree["is_categorical"].any() for tree in trees):
        return None
    slots: dict[tuple[int, bool], int] = {}
    laid = [_laid_out(tree, slots) for tree in trees]
    width = int(classifier.n_features_in_)
    if not all(0 <= column < width for column, _ in slots):
        message = f"a tree has a column that is not among {width}"
        raise ValueError(message)
    lengths = np.array([len(tree) for tree in trees], dtype=np.int64)
    nodes, thresholds, values = (np.concatenate([tree[part] for tree in laid]) for part in range(3))
    return FlatTrees(
        width=width,
        baseline=float(classifier._baseline_prediction[0, 0]),
        columns=np.array([column for column, _ in slots], dtype=np.int32),
        missing=np.array([-np.inf if left else np.inf for _, left in slots]),
        starts=np.cumsum(lengths) - lengths,
        depths=np.array([tree[3] for tree in laid], dtype=np.int64),
        nodes=nodes,
        thresholds=thresholds,
        values=values,
        is_classifier=hasattr(classifier, "classes_"),
    )


def _laid_out(tree: NDArray[Any], slots: dict[tuple[int, bool], int]) -> tuple[Int64s, Floats, Floats, int]:
    """Nodes, thresholds and values of a tree, level by level, the children of a node side by side; and its depth.

    Args:
        slots: (column, whether a missing value goes left) → its number; new ones are added.
    """
    size = len(tree)
    nodes, thresholds, values = np.zeros(size, dtype=np.int64), np.full(size, np.inf), np.zeros(size)
    order, levels = [0], [0]
    for place in range(size):
        node = tree[order[place]]
        if node["is_leaf"]:
            nodes[place], values[place] = place << 32, node["value"]
            continue
        slot = slots.setdefault((int(node["feature_idx"]), bool(node["missing_go_to_left"])), len(slots))
        nodes[place] = len(order) << 32 | slot * LANES
        thresholds[place] = min(node["num_threshold"], LARGEST)
        order += [int(node["left"]), int(node["right"])]
        levels += [levels[place] + 1] * 2
    if len(set(order)) != size or len(order) != size:
        message = f"a tree has {size} nodes and {len(order)} places for them"
        raise ValueError(message)
    return nodes, thresholds, values, levels[-1]
