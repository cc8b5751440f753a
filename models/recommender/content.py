"""Items by their attributes: words of texts, quantiles of numbers, weighted by how rare they are. Pure functions.

Training fits the encoder, and a projection of the tokens to the item vectors of the model's matrix factorisation;
serving encodes items that came later, so that they have a vector and neighbours before anybody took them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Floats, Int64s, plain_array, row_bounds, run_starts
from features.hashing import hash_texts
from models.recommender.tables import SparseRows, places_among

Columns = Mapping[str, pa.Array]
"""Attribute → its values, one for each item, null where it is not known."""

WIDTH = 1 << 20
"""Tokens are hashed to this many columns: of 100,000 different ones, one in twenty shares its column."""

LEAST_ITEMS = 2
"""A token of fewer items has no weight of its own: it counts as one that the training did not see."""

BINS = 16
"""Quantiles of a number's values; also taken four at a time, so that near values share a token."""

NUMBER_WEIGHT = 0.3
"""The weight of a number in an item's vector; a text has 1."""

CONTENT = {
    "content_texts": "U",
    "content_numbers": "U",
    "content_edges": "f8",
    "content_tokens": "i4",
    "content_idf": "f4",
    "content_rare": "f8",
    "content_starts": "i8",
    "content_columns": "i4",
    "content_weights": "f4",
}
"""Array of candidates.npz → its dtype; those of a Content without projection."""


@dataclass(frozen=True)
class ContentEncoder:
    """Attributes of items → sparse rows of length 1 over WIDTH columns.

    Args:
        texts: the attributes that are texts; a truth value is one too.
        numbers: the attributes that are numbers.
        edges: (numbers, BINS - 1) the inner quantiles of each number.
        tokens: the columns of the tokens of LEAST_ITEMS items and more, rising.
        idf: (tokens,) the weight of each: the logarithm of how rare it is.
        rare: the weight of every other token.
    """

    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    edges: Floats
    tokens: NDArray[np.int32]
    idf: NDArray[np.float32]
    rare: float

    @classmethod
    def fit(cls, columns: Columns, items: int) -> ContentEncoder:
        """The encoder of these items' attributes: texts, truth values and numbers; others are left out."""
        texts = tuple(name for name, column in columns.items() if _is_text(column.type))
        numbers = tuple(name for name, column in columns.items() if _is_number(column.type))
        edges = np.array([_quantiles(columns[name]) for name in numbers]).reshape(len(numbers), BINS - 1)
        nothing = cls(texts, numbers, edges, np.empty(0, np.int32), np.empty(0, np.float32), 0.0)
        parts = [token for _, _, token in nothing._entries(columns)]
        tokens, counts = np.unique(np.concatenate([np.empty(0, np.int64), *parts]), return_counts=True)
        kept = counts >= LEAST_ITEMS
        idf = np.log((1 + items) / (1 + counts[kept])) + 1
        rare = float(np.log((1 + items) / 2) + 1)
        return cls(texts, numbers, edges, tokens[kept].astype(np.int32), idf.astype(np.float32), rare)

    def rows(self, columns: Columns, items: int) -> SparseRows:
        """(items, WIDTH) a row of length 1 for each item; an empty one for an item without attributes."""
        parts = []
        for weight, row, token in self._entries(columns):
            value = self._weights(token)
            length = np.sqrt(np.bincount(row, value**2, minlength=items))
            parts.append((row, token, weight * value / length[row]))
        row, token, value = (np.concatenate([np.empty(0), *(part[i] for part in parts)]) for i in range(3))
        row = row.astype(np.int64)
        order = np.argsort(row, kind="stable")
        length = np.sqrt(np.bincount(row, value**2, minlength=items))
        value = value / length[row]
        return SparseRows(row_bounds(row, items), token[order].astype(np.int32), value[order].astype(np.float32))

    def _entries(self, columns: Columns) -> list[tuple[float, Int64s, Int64s]]:
        """For each attribute that the columns have: its weight, and (row, token) of each entry, each once."""
        texts = [
            (1.0, *_words(name, columns[name]))
            for name in self.texts
            if name in columns and _is_text(columns[name].type)
        ]
        numbers = [
            (NUMBER_WEIGHT, *_bins(name, columns[name], edges))
            for name, edges in zip(self.numbers, self.edges, strict=True)
            if name in columns and _is_number(columns[name].type)
        ]
        return texts + numbers

    def _weights(self, token: Int64s) -> Floats:
        """(n,) the weight of each token."""
        weights = np.full(len(token), self.rare)
        at, known = places_among(self.tokens, token)
        weights[known] = self.idf[at]
        return weights


@dataclass(frozen=True)
class ContentRows:
    """The rows of items (see ContentEncoder.rows), with the items of each token."""

    rows: SparseRows

    def __len__(self) -> int:
        return len(self.rows.starts) - 1

    @cached_property
    def of_tokens(self) -> tuple[NDArray[np.int32], SparseRows]:
        """The tokens of the rows, rising; and for each the items that have it, with their weights."""
        row = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.rows.starts))
        order = np.argsort(self.rows.column, kind="stable")
        sorted_tokens = self.rows.column[order]
        first = run_starts(sorted_tokens)
        return sorted_tokens[first], SparseRows(np.append(first, len(order)), row[order], self.rows.weight[order])

    def products(self, tokens: NDArray[np.int32], weights: NDArray[np.float32]) -> Floats:
        """(n,) the product of each row with these entries."""
        own, items = self.of_tokens
        at, there = places_among(own, tokens)
        return items.total(at, len(self), weights[there].astype(np.float64))

    def picked(self, items: Int64s) -> ContentRows:
        """The rows of these items."""
        entries, lengths = self.rows.at(items)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return ContentRows(SparseRows(starts, self.rows.column[entries], self.rows.weight[entries]))

    def then(self, more: ContentRows) -> ContentRows:
        """These rows, and the others after them."""
        return ContentRows(
            SparseRows(
                np.concatenate([self.rows.starts, more.rows.starts[1:] + self.rows.starts[-1]]),
                np.concatenate([self.rows.column, more.rows.column]),
                np.concatenate([self.rows.weight, more.rows.weight]),
            )
        )


@dataclass(frozen=True)
class Content:
    """What a model knows of its items' attributes.

    Args:
        encoder: fitted to them.
        own: of the items of the fit, n.
        projection: (tokens of the encoder, f) → the item vectors of the model's factors; None where it has none.
        mean: (f,) the vector of an item of which nothing is known; None with ``projection``.
        later: of the items that came after them.
    """

    encoder: ContentEncoder
    own: ContentRows
    projection: NDArray[np.float32] | None = None
    mean: NDArray[np.float32] | None = None
    later: ContentRows | None = None

    def vectors(self, rows: SparseRows) -> NDArray[np.float32] | None:
        """(m, f) the item vectors that rows of the encoder are likely to have; None without a projection."""
        if self.projection is None or self.mean is None:
            return None
        vectors = np.tile(self.mean.astype(np.float64), (len(rows.starts) - 1, 1))
        row, token, weight = self.known_entries(rows)
        for factor in range(vectors.shape[1]):
            vectors[:, factor] += np.bincount(row, weight * self.projection[token, factor], minlength=len(vectors))
        return vectors.astype(np.float32)

    def known_entries(self, rows: SparseRows) -> tuple[Int64s, Int64s, Floats]:
        """Row, position among the encoder's tokens, and weight of each entry whose token the training saw."""
        row = np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))
        at, known = places_among(self.encoder.tokens, rows.column)
        return row[known], at, rows.weight[known].astype(np.float64)

    def likeness(self, item: int) -> Floats:
        """(n + later,) the cosine between this item and every item, 0 to 1; 0 for all where nothing is known of it."""
        parts = [self.own] if self.later is None else [self.own, self.later]
        n = len(self.own)
        rows, row = (self.own.rows, item) if item < n or self.later is None else (self.later.rows, item - n)
        span = rows.span(row)
        return np.concatenate([part.products(rows.column[span], rows.weight[span]) for part in parts])


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_boolean(dtype))


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype))


def _values(column: pa.Array) -> Floats:
    """The numbers as float64, NaN for null and infinity."""
    floats = plain_array(column).cast(pa.float64(), safe=False)
    values = np.asarray(floats.to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _quantiles(column: pa.Array) -> Floats:
    values = _values(column)
    known = values[~np.isnan(values)]
    return np.quantile(known, np.arange(1, BINS) / BINS) if len(known) else np.zeros(BINS - 1)


def _words(name: str, column: pa.Array) -> tuple[Int64s, Int64s]:
    """(row, token) of each word, and of each two that stand side by side, of the lower-case texts."""
    texts = pc.utf8_lower(plain_array(column).cast(pa.string()))
    split = pc.split_pattern_regex(pc.fill_null(texts, ""), r"[^\pL\pN]+")
    words, row = split.flatten(), np.asarray(pc.list_parent_indices(split), dtype=np.int64)
    there = np.asarray(pc.not_equal(words, ""), dtype=bool)
    words, row = words.filter(pa.array(there)), row[there]
    beside = np.flatnonzero(row[1:] == row[:-1])
    pairs = pc.binary_join_element_wise(words.take(pa.array(beside)), words.take(pa.array(beside + 1)), " ")
    return _distinct(np.concatenate([row, row[beside]]), name, pa.concat_arrays([words, pairs]))


def _bins(name: str, column: pa.Array, edges: Floats) -> tuple[Int64s, Int64s]:
    """(row, token) of each number's quantile, and of the four quantiles around it."""
    values = _values(column)
    row = np.flatnonzero(~np.isnan(values))
    fine = np.searchsorted(edges, values[row], side="right")
    labels = [f"{name} {index}" for index in range(BINS)] + [f"{name} near {index}" for index in range(BINS // 4)]
    codes = np.concatenate([fine, BINS + fine // 4])
    return _distinct(np.concatenate([row, row]), "", pa.array(labels).take(pa.array(codes)))


def _distinct(row: Int64s, name: str, texts: pa.Array) -> tuple[Int64s, Int64s]:
    """(row, token) of these texts of an attribute, each once, by row."""
    named = pc.binary_join_element_wise(pa.scalar(name), texts, "\x1f")
    token = (hash_texts(named) % np.uint64(WIDTH)).astype(np.int64)
    entries = np.unique(row * WIDTH + token)
    return entries // WIDTH, entries % WIDTH


def content_arrays(content: Content) -> dict[str, Any]:
    """The table as arrays of candidates.npz (see CONTENT)."""
    encoder = content.encoder
    arrays: dict[str, Any] = {
        "content_texts": encoder.texts,
        "content_numbers": encoder.numbers,
        "content_edges": encoder.edges.ravel(),
        "content_tokens": encoder.tokens,
        "content_idf": encoder.idf,
        "content_rare": [encoder.rare],
        "content_starts": content.own.rows.starts,
        "content_columns": content.own.rows.column,
        "content_weights": content.own.rows.weight,
    }
    if content.projection is not None and content.mean is not None:
        arrays |= {"content_projection": content.projection.ravel(), "content_mean": content.mean}
    return arrays
