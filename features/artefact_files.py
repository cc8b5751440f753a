"""The two binary files of an artefact, read without running anything that they hold."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ArtefactError
from features.recommendation import CandidateTables, SparseRows

HISTOGRAMS = "sklearn.ensemble._hist_gradient_boosting"
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
    "sklearn._loss._loss.CyHalfBinomialLoss": ("LossNode",),
    "sklearn._loss.link.Interval": ("ObjectNode",),
    "sklearn._loss.link.LogitLink": ("ObjectNode",),
    "sklearn._loss.loss.HalfBinomialLoss": ("ObjectNode",),
    f"{HISTOGRAMS}.binning._BinMapper": ("ObjectNode",),
    f"{HISTOGRAMS}.gradient_boosting.HistGradientBoostingClassifier": ("ObjectNode",),
    f"{HISTOGRAMS}.predictor.TreePredictor": ("ObjectNode",),
    "sklearn.preprocessing._label.LabelEncoder": ("ObjectNode",),
}
"""Every type that a fitted ranker is made of, and how skops may build it. skops' own list is longer, and its file says
how each part is built: a trusted type's name alone would let a file choose a way that runs what it likes."""
ARRAYS: Mapping[str, str] = {
    "items": "U",
    "neighbour_starts": "i8",
    "neighbour_items": "i4",
    "neighbour_weights": "f4",
    "popular": "f4",
    "trending": "f4",
    "users": "u8",
    "history_starts": "i8",
    "history_items": "i4",
    "own_count": "f4",
    "own_last_ms": "i8",
}
"""Array of candidates.npz → its dtype."""
Arrays = dict[str, NDArray[Any]]


def candidate_arrays(tables: CandidateTables) -> Arrays:
    """The tables as the arrays of candidates.npz."""
    arrays = {
        "items": np.array(tables.items, dtype=np.str_),
        "neighbour_starts": tables.neighbours.starts,
        "neighbour_items": tables.neighbours.column,
        "neighbour_weights": tables.neighbours.weight,
        "popular": tables.popular,
        "trending": tables.trending,
        "users": tables.users,
        "history_starts": tables.histories.starts,
        "history_items": tables.histories.column,
        "own_count": tables.own_count,
        "own_last_ms": tables.own_last_ms,
    }
    return {name: np.asarray(array, dtype=ARRAYS[name]) for name, array in arrays.items()}


def read_arrays(path: Path) -> Arrays:
    """The arrays of candidates.npz, each of its dtype; ArtefactError for a file that is no such thing."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _refused(path, f"arrays {', '.join(ARRAYS)}", str(error)) from error
    for name, kind in ARRAYS.items():
        dtype = arrays[name].dtype
        if (dtype.kind if kind == "U" else dtype.str[1:]) != kind or arrays[name].ndim != 1:
            raise _refused(path, f"array '{name}' of {kind} in one dimension", f"{dtype} in {arrays[name].ndim}")
    return arrays


def candidate_tables(arrays: Arrays, path: Path) -> CandidateTables:
    """The tables of these arrays; ArtefactError where they do not fit together."""
    n, u = len(arrays["items"]), len(arrays["users"])
    neighbours = _sparse(arrays, path, ("neighbour_starts", "neighbour_items", "neighbour_weights"), n, n)
    histories = _sparse(arrays, path, ("history_starts", "history_items", "own_count"), u, n)
    if not len(arrays["popular"]) == len(arrays["trending"]) == n or len(histories.column) != len(
        arrays["own_last_ms"]
    ):
        raise _refused(path, "arrays whose lengths agree", "others")
    return CandidateTables(
        items=tuple(arrays["items"].tolist()),
        neighbours=neighbours,
        popular=arrays["popular"],
        trending=arrays["trending"],
        users=arrays["users"],
        histories=histories,
        own_count=arrays["own_count"],
        own_last_ms=arrays["own_last_ms"],
    )


def _sparse(arrays: Arrays, path: Path, names: tuple[str, str, str], rows: int, width: int) -> SparseRows:
    starts, column, weight = (arrays[name] for name in names)
    whole = len(starts) == rows + 1 and starts[0] == 0 and starts[-1] == len(column) == len(weight)
    rising = whole and bool((np.diff(starts) >= 0).all())
    inside = rising and bool(((column >= 0) & (column < width)).all())
    if not inside:
        raise _refused(path, f"arrays {', '.join(names)} of {rows} rows over {width} items", "others")
    return SparseRows(starts, column, weight)


def save_ranker(ranker: Any, path: Path) -> None:
    """The fitted ranker stands in a file; ArtefactError for one that ``load_ranker`` would refuse."""
    import skops.io  # type: ignore[import-untyped]

    skops.io.dump(ranker, path)
    _check_types(path)


def load_ranker(path: Path, inputs: int) -> Any:
    """The fitted ranker of a file, which holds types of RANKER_TYPES only and takes ``inputs`` columns."""
    _check_types(path)
    import skops.io

    try:
        ranker = skops.io.load(path, trusted=sorted(RANKER_TYPES))
    except Exception as error:  # what a damaged schema runs into is any error at all
        raise _refused(path, "a fitted ranker", f"{type(error).__name__}: {error}") from error
    if not hasattr(ranker, "predict_proba") or getattr(ranker, "n_features_in_", None) != inputs:
        got = f"{type(ranker).__name__} of {getattr(ranker, 'n_features_in_', 'no')}"
        raise _refused(path, f"a classifier of {inputs} inputs", got)
    return ranker


def chances(classifier: Any, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The classifier's probability of each row of its inputs, computed on the calling thread alone.

    More threads would wait for each other longer than they compute, and on busy cores a hundred times that.
    """
    with _threads().limit(limits=1, user_api="openmp"):
        return np.asarray(classifier.predict_proba(inputs)[:, 1], dtype=np.float64)


@lru_cache(maxsize=1)
def _threads() -> Any:
    """Finds the process's thread pools once, as that takes milliseconds; the limit is the calling thread's own."""
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
    """The name of every type that stands anywhere in a skops schema, and how it is to be built."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if {"__class__", "__module__", "__loader__"} & node.keys():
                yield f"{node.get('__module__')}.{node.get('__class__')}", str(node.get("__loader__"))
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _refused(path: Path, required: str, got: str) -> ArtefactError:
    return ArtefactError(f"artefact file '{path}'", required, got, "Train anew.")
