"""A fitted classifier of several classes: linear in numbers and in the hashed words of a text.

The file classes.npz has it whole, as arrays of numbers and texts: nothing in it can run.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.errors import ArtefactError

CLASSES = "classes.npz"

HASHES = 2**18
"""Columns that words and pairs of words are hashed to, and as many more for parts of words."""

GOLDEN_WORDS = ("not", "a", "good", "day", "never", "thank", "you", "late", "great", "the", "why", "is", "it")
"""The words of made-up texts."""

Texts = NDArray[np.object_]
"""(n,) texts; an event without one has ''."""

ARRAYS = ("classes", "target", "middle", "width", "numbers", "columns", "words", "offset")


def words_of(texts: Texts) -> Any:
    """(n, 2 · HASHES) the hashed words, pairs of words, and parts of words of each text: a sparse matrix."""
    from scipy.sparse import hstack  # type: ignore[import-untyped]
    from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]

    words = HashingVectorizer(n_features=HASHES, ngram_range=(1, 2), alternate_sign=False)
    parts = HashingVectorizer(n_features=HASHES, analyzer="char_wb", ngram_range=(2, 5), alternate_sign=False)
    return hstack([words.transform(texts), parts.transform(texts)]).tocsr()


def made_up_texts(rows: Int64s) -> Texts:
    """(n,) texts that name nobody: the same for the same row number, always."""
    texts = np.empty(len(rows), dtype=object)
    texts[:] = [
        " ".join(GOLDEN_WORDS[(row * step) % len(GOLDEN_WORDS)] for step in (1, 3, 5, 7)) for row in rows.tolist()
    ]
    return texts


@dataclass(frozen=True)
class FittedClasses:
    """A linear classifier: the log odds of each class beside the others are sums over numbers and words.

    Args:
        classes: (classes,) their names.
        target: the place of the class whose probability is the score.
        middle, width: (inputs,) by which numbers are scaled; one without a value is in the middle.
        numbers: (inputs, classes) the weights of scaled numbers.
        columns: the hashes that have a weight, rising.
        words: (columns, classes) their weights.
        offset: (classes,).
    """

    classes: tuple[str, ...]
    target: int
    middle: Floats
    width: Floats
    numbers: Floats
    columns: Int64s
    words: Floats
    offset: Floats

    def probabilities(self, inputs: Floats, texts: Texts | None) -> Floats:
        """(n, classes) the probability of each class; each row by itself, whatever the others are."""
        scaled = np.where(np.isfinite(inputs), (inputs - self.middle) / self.width, 0.0)
        odds = np.tile(self.offset, (len(inputs), 1))
        for column in range(scaled.shape[1]):  # one by one: a product of matrices adds up by the shape
            odds += scaled[:, column, np.newaxis] * self.numbers[column]
        if texts is not None:
            odds += np.asarray(words_of(texts) @ self._weights)
        alone = 1.0 / (1.0 + np.exp(-np.clip(odds, -500, 500)))
        return np.asarray(alone / alone.sum(axis=1, keepdims=True), dtype=np.float64)

    @cached_property
    def _weights(self) -> Floats:
        """(2 · HASHES, classes)."""
        weights = np.zeros((2 * HASHES, len(self.classes)))
        weights[self.columns] = self.words
        return weights


def save_classes(fitted: FittedClasses, path: Path) -> None:
    """The fitted classifier stands in a file."""
    arrays = {name: getattr(fitted, name) for name in ARRAYS}
    arrays |= {"classes": np.array(fitted.classes, dtype=np.str_), "target": np.array(fitted.target)}
    np.savez_compressed(path, **arrays)


def load_classes(path: Path, inputs: int) -> FittedClasses:
    """The fitted classifier of a file, of so many numbers; ArtefactError for another file."""
    where = f"artefact file '{path}'"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactError(where, "a fitted classifier", f"{type(error).__name__}: {error}", "Train anew.") from error
    classes, columns = arrays["classes"], arrays["columns"]
    shapes = {
        "middle": (inputs,),
        "width": (inputs,),
        "numbers": (inputs, len(classes)),
        "words": (len(columns), len(classes)),
        "offset": (len(classes),),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape or arrays[name].dtype != np.float64]
    is_inside = columns.dtype == np.int64 and bool(((columns >= 0) & (columns < 2 * HASHES)).all())
    if wrong or not is_inside or classes.dtype.kind != "U" or not 0 <= int(arrays["target"]) < len(classes):
        raise ArtefactError(
            where, f"a classifier of {inputs} numbers", ", ".join(wrong) or "other arrays", "Train anew."
        )
    arrays |= {"classes": tuple(classes.tolist()), "target": int(arrays["target"])}
    return FittedClasses(**arrays)
