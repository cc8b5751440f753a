"""The compiled kernels over rows, loaded once in a process (see features/compiling.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from features import double_double
from features.arrays import Int64s
from features.compiling import compiled
from features.hashing import weights
from features.rows.kernels import Stored

_loading = Lock()


def walk() -> Callable[..., int]:
    """kernels.walk.answer_rows, compiled; call it once before the first request does."""
    return _compiled("answer_rows")


def gather() -> Callable[..., None]:
    """kernels.walk.gather_texts, compiled."""
    return _compiled("gather_texts")


def read_heads() -> Callable[..., int]:
    """kernels.fold.read_heads, compiled."""
    return _compiled("read_heads")


def fold_rows() -> Callable[..., int]:
    """kernels.fold.fold_rows, compiled."""
    return _compiled("fold_rows")


def _compiled(name: str) -> Callable[..., Any]:
    with _loading:
        return _load(name)


@cache
def _load(name: str) -> Callable[..., Any]:
    from features.rows.kernels import fold as folding
    from features.rows.kernels import walk

    function = getattr(folding if hasattr(folding, name) else walk, name)
    return compiled(function, Path(walk.__file__).parent, more=[Path(double_double.__file__)])


ONE_BYTE = np.zeros(1, dtype=np.uint8)


def stored_rows(rows: pa.Array, as_of: Int64s) -> Stored:
    """Rows without nulls as a kernel takes them, each to be read at its ``as_of`` (ms)."""
    _, bounds, content = rows.buffers()
    offsets = np.frombuffer(bounds, dtype=np.int32)[rows.offset : rows.offset + len(rows) + 1]
    data = np.frombuffer(content, dtype=np.uint8) if content is not None else ONE_BYTE
    # One type of array for a kernel, whoever made the buffer.
    data.flags.writeable = offsets.flags.writeable = False
    return Stored(data, offsets, weights(1), as_of)
