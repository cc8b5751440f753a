"""Loads the compiled kernels from the disk, or (the first time on a machine) compiles them, which takes seconds.

Numba keeps what it compiled beside the source, below the user's cache folder where that cannot be written, or in
NUMBA_CACHE_DIR. Where none can be written, each process compiles its own. Of the kernels of other versions, those that
were compiled last stay (KEPT_VERSIONS): 1.3 MB each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from features.arrays import Int64s
from features.hashing import weights
from features.rows.kernels import Stored

_loading = Lock()

KEPT_VERSIONS = 3


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
    from numba import njit

    from features.rows.kernels import fold as folding
    from features.rows.kernels import walk

    function = getattr(folding if hasattr(folding, name) else walk, name)
    # Numba looks for changes in the file of this function only; by its name it looks for those of all kernels.
    function.__qualname__ = f"{name}_{_digest(Path(walk.__file__).parent)}"
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
    if compiled.stats.cache_path is not None:
        forget_versions(Path(compiled.stats.cache_path), name, function.__qualname__)
    return compiled


def forget_versions(folder: Path, name: str, current: str) -> None:
    """Numba's files of a kernel are those of its current version, and of the versions compiled last before.

    Args:
        current: the function's name with the digest of its version.
    """
    compiled_at: dict[str, float] = {}
    files: dict[str, list[Path]] = {}
    with suppress(OSError):  # another process may remove them too; one that wants them compiles them again
        for path in folder.glob(f"*.{name}_*.nb[ic]"):
            version = path.name.partition(".")[2].partition("-")[0]
            files.setdefault(version, []).append(path)
            compiled_at[version] = max(path.stat().st_mtime, compiled_at.get(version, 0.0))
        others = sorted(compiled_at.keys() - {current}, key=lambda version: compiled_at[version], reverse=True)
        for version in others[KEPT_VERSIONS - 1 :]:
            for path in files[version]:
                path.unlink(missing_ok=True)


def _digest(folder: Path) -> str:
    sources = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


ONE_BYTE = np.zeros(1, dtype=np.uint8)


def stored_rows(rows: pa.Array, as_of: Int64s) -> Stored:
    """Rows without nulls as a kernel takes them, each to be read at its ``as_of`` (ms)."""
    _, bounds, content = rows.buffers()
    offsets = np.frombuffer(bounds, dtype=np.int32)[rows.offset : rows.offset + len(rows) + 1]
    data = np.frombuffer(content, dtype=np.uint8) if content is not None else ONE_BYTE
    # One type of array for a kernel, whoever made the buffer.
    data.flags.writeable = offsets.flags.writeable = False
    return Stored(data, offsets, weights(1), as_of)
