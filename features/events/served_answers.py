"""The served log: an event of a stream per answer, with its items and their inputs; written by serving, for training.

An event has the user, the model, ``as_of``, and each item with the row of ranker inputs that it was scored by. Lists
are JSON text; a reader compares ``inputs`` with the hash of the columns that it expects in the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Floats, Int64s
from features.definitions import served_log
from features.errors import UsageError

__all__ = ["ShownItems", "inputs_hash", "items_text", "served_log", "shown_items"]


def inputs_hash(names: Sequence[str]) -> str:
    """16 hex digits that identify these columns in this order."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def items_text(items: Sequence[tuple[str, float | None, str]], rows: Floats) -> str:
    """The field ``items``: each item's id, score, source and row; null for a row without any value.

    Args:
        rows: (items, inputs), NaN for null.
    """
    absent: Bools = np.asarray(np.isnan(rows).all(axis=1)) if rows.size else np.ones(len(items), dtype=bool)
    listed = [
        [item, score, source, None if is_absent else [None if np.isnan(value) else value for value in row]]
        for (item, score, source), row, is_absent in zip(items, rows.tolist(), absent.tolist(), strict=True)
    ]
    return json.dumps(listed, separators=(",", ":"))


@dataclass(frozen=True)
class ShownItems:
    """n items that were shown, in the order of the log: their answer, rank (from 1), id and inputs.

    Args:
        answer: row of the answer in the log's table.
        inputs: (n, inputs), NaN for null.
    """

    answer: Int64s
    rank: Int64s
    items: list[str]
    inputs: Floats


def shown_items(log: pa.Table, names: Sequence[str]) -> ShownItems:
    """Every item of the log's answers that has a row of these inputs; answers with other inputs are left out.

    Raises:
        UsageError: there are answers, and all of them have other inputs.
    """
    expected = inputs_hash(names)
    answers = [(number, text) for number, (inputs, text) in enumerate(_texts(log)) if inputs == expected]
    if log.num_rows and not answers:
        raise UsageError(
            "the served log", f"answers by the inputs {expected} of this model", "none", "Log for a while."
        )
    shown = [
        (number, rank, item, row)
        for number, text in answers
        for rank, (item, _, _, row) in enumerate(json.loads(text), start=1)
        if row is not None
    ]
    inputs = np.array([row for *_, row in shown], dtype=np.float64).reshape(len(shown), len(names))
    answer, rank = (np.array([entry[column] for entry in shown], dtype=np.int64) for column in (0, 1))
    return ShownItems(answer, rank, [item for _, _, item, _ in shown], inputs)


def _texts(log: pa.Table) -> list[tuple[str, str]]:
    return list(zip(log["inputs"].to_pylist(), log["items"].to_pylist(), strict=True))
