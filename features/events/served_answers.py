"""The served log: what an answer was made of, as an event of a stream like any other; written by serving, for training.

One event is one answer: who asked, which model answered as of when, and each item with the row of ranker inputs that it
was scored by. Lists stand in it as JSON text; a reader checks by ``inputs`` that the rows mean what it takes them for.
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
    """16 hex digits for these columns in this order."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def items_text(items: Sequence[tuple[str, float | None, str]], rows: Floats) -> str:
    """The field ``items``: each item's id, score and source, and its row; null for a row without any value.

    Args:
        rows: (items, inputs), NaN for null.
    """
    absent: Bools = np.asarray(np.isnan(rows).all(axis=1)) if rows.size else np.ones(len(items), dtype=bool)
    listed = [
        [item, score, source, None if none else [None if np.isnan(value) else value for value in row]]
        for (item, score, source), row, none in zip(items, rows.tolist(), absent.tolist(), strict=True)
    ]
    return json.dumps(listed, separators=(",", ":"))


@dataclass(frozen=True)
class ShownItems:
    """n items that were shown, in the order of the log: in which answer, at which rank (from 1), by which inputs.

    Args:
        answer: place of the answer in the log's table.
        inputs: (n, inputs), NaN for null.
    """

    answer: Int64s
    rank: Int64s
    items: list[str]
    inputs: Floats


def shown_items(log: pa.Table, names: Sequence[str]) -> ShownItems:
    """Every item of the log's answers that has a row of these inputs; answers by other inputs are left out.

    Raises:
        UsageError: there are answers, and all of them are by other inputs.
    """
    wanted = inputs_hash(names)
    answers = [(place, text) for place, (by, text) in enumerate(_texts(log)) if by == wanted]
    if log.num_rows and not answers:
        raise UsageError("the served log", f"answers by the inputs {wanted} of this model", "none", "Log for a while.")
    found = [
        (place, rank, item, row)
        for place, text in answers
        for rank, (item, _, _, row) in enumerate(json.loads(text), start=1)
        if row is not None
    ]
    inputs = np.array([row for *_, row in found], dtype=np.float64).reshape(len(found), len(names))
    answer, rank = (np.array([one[at] for one in found], dtype=np.int64) for at in (0, 1))
    return ShownItems(answer, rank, [item for _, _, item, _ in found], inputs)


def _texts(log: pa.Table) -> list[tuple[str, str]]:
    return list(zip(log["inputs"].to_pylist(), log["items"].to_pylist(), strict=True))
