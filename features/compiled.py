"""Loads the compiled kernels: from the disk, or (the first time on a machine) by compiling them, which takes seconds.

Numba keeps what it compiled beside the source, below the user's cache folder where that cannot be written, or in
NUMBA_CACHE_DIR. Where it can keep it nowhere, each process compiles its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

_one_at_a_time = Lock()


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
    with _one_at_a_time:
        return _load(name)


@cache
def _load(name: str) -> Callable[..., Any]:
    from numba import njit

    from features.kernels import fold as folding
    from features.kernels import walk

    function = getattr(folding if hasattr(folding, name) else walk, name)
    # Numba looks for changes in the file of this function only; by its name it looks for those of all kernels.
    function.__qualname__ = f"{name}_{_digest(Path(walk.__file__).parent)}"
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def _digest(folder: Path) -> str:
    sources = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]
