"""The file of a fitted classifier or regressor, read without running any code that it holds; and its answers."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from features.arrays import Floats
from features.errors import ArtefactError
from models.trees import flat_trees, walk

HISTOGRAMS = "sklearn.ensemble._hist_gradient_boosting"

CHANCES, NUMBERS = "predict_proba", "predict"
"""The methods by which a classifier and a regressor answer."""

RANKER_TYPES: Mapping[str, tuple[str, ...]] = {
    "builtins.dict": ("DictNode",),
    "builtins.list": ("ListNode",),
    "builtins.str": ("JsonNode", "TypeNode"),
    "builtins.tuple": ("TupleNode",),
    "numpy.ndarray": ("NdArrayNode",),
    "numpy.float64": ("NdArrayNode",),
    "numpy.int64": ("NdArrayNode",),
    "numpy.uint64": ("NdArrayNode",),
    "numpy.random._generator.Generator": ("RandomGeneratorNode",),
    "sklearn._loss._loss.CyAbsoluteError": ("LossNode",),
    "sklearn._loss._loss.CyHalfBinomialLoss": ("LossNode",),
    "sklearn._loss._loss.CyHalfSquaredError": ("LossNode",),
    "sklearn._loss.link.IdentityLink": ("ObjectNode",),
    "sklearn._loss.link.Interval": ("ObjectNode",),
    "sklearn._loss.link.LogitLink": ("ObjectNode",),
    "sklearn._loss.loss.AbsoluteError": ("ObjectNode",),
    "sklearn._loss.loss.HalfBinomialLoss": ("ObjectNode",),
    "sklearn._loss.loss.HalfSquaredError": ("ObjectNode",),
    f"{HISTOGRAMS}.binning._BinMapper": ("ObjectNode",),
    f"{HISTOGRAMS}.gradient_boosting.HistGradientBoostingClassifier": ("ObjectNode",),
    f"{HISTOGRAMS}.gradient_boosting.HistGradientBoostingRegressor": ("ObjectNode",),
    f"{HISTOGRAMS}.predictor.TreePredictor": ("ObjectNode",),
    "sklearn.preprocessing._label.LabelEncoder": ("ObjectNode",),
}
"""The types of a fitted ranker → the skops loaders that may build them. skops' own list is longer, and a file
chooses the loader of each part: to trust a type's name alone would let it choose one that runs arbitrary code."""


def save_ranker(ranker: Any, path: Path) -> None:
    """The fitted ranker stands in a file; ArtefactError for one that ``load_ranker`` would refuse."""
    import skops.io  # type: ignore[import-untyped]

    skops.io.dump(ranker, path)
    _check_types(path)


def load_ranker(path: Path, inputs: int, answers: str = CHANCES) -> Any:
    """The fitted ranker of a file, which holds types of RANKER_TYPES only and takes ``inputs`` columns.

    Args:
        answers: the method by which it answers.
    """
    _check_types(path)
    import skops.io

    try:
        ranker = skops.io.load(path, trusted=sorted(RANKER_TYPES))
    except Exception as error:  # a damaged schema may raise any error
        raise _refused(path, "a fitted ranker", f"{type(error).__name__}: {error}") from error
    if _answering(ranker) != answers or getattr(ranker, "n_features_in_", None) != inputs:
        got = f"{type(ranker).__name__} of {getattr(ranker, 'n_features_in_', 'no')}"
        raise _refused(path, f"a model of {inputs} inputs that answers by {answers}", got)
    try:
        flat_trees(ranker)
    except ValueError as error:
        raise _refused(path, "a fitted ranker", str(error)) from error
    return ranker


Scorer = Callable[[Floats], Floats]
"""Inputs → the classifier's probability of each row, or the regressor's number."""


def scorer(classifier: Any) -> Scorer:
    """The answers of a classifier or a regressor, computed on the calling thread alone.

    What training fits is walked by a compiled kernel, which is ready when this returns; the numbers are those of its
    predict_proba, or of a regressor's predict, to the last bit. Other models are asked themselves.
    """
    trees = flat_trees(classifier)
    if trees is None:
        return partial(_asked, classifier)
    walk()
    return trees.answers


def _asked(classifier: Any, inputs: Floats) -> Floats:
    """As predict_proba or predict gives them; more threads would wait for each other longer than they compute."""
    with _threads().limit(limits=1, user_api="openmp"):
        if _answering(classifier) == CHANCES:
            return np.asarray(classifier.predict_proba(inputs)[:, 1], dtype=np.float64)
        return np.asarray(classifier.predict(inputs), dtype=np.float64)


def _answering(model: Any) -> str | None:
    """The method by which the model answers."""
    return next((name for name in (CHANCES, NUMBERS) if hasattr(model, name)), None)


@lru_cache(maxsize=1)
def _threads() -> Any:
    """The process's thread pools, found once, as that takes milliseconds; the limit is the calling thread's own."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def _check_types(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            schema = json.loads(archive.read("schema.json"))
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        raise _refused(path, "a skops file", f"{type(error).__name__}: {error}") from error
    foreign = sorted({name for name, loader in _types(schema) if loader not in RANKER_TYPES.get(name, ())})
    if foreign:
        raise _refused(path, "types of a ranker that training fits", ", ".join(foreign))


def _types(schema: Any) -> Iterator[tuple[str, str]]:
    """The name of every type in a skops schema, and its loader."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if {"__class__", "__module__", "__loader__"} & node.keys():
                yield f"{node.get('__module__')}.{node.get('__class__')}", str(node.get("__loader__"))
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _refused(path: Path, required: str, got: str) -> ArtefactError:
    return ArtefactError(f"artefact file '{path}'", required, got, "Train anew.")
