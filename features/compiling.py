"""Compiles kernels with numba, or loads from the disk what an earlier process compiled, which takes seconds less.

Numba keeps what it compiled beside the source, below the user's cache folder where that cannot be written, or in
NUMBA_CACHE_DIR. Where none can be written, each process compiles its own. Of the kernels of other versions, those that
were compiled last stay (KEPT_VERSIONS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

_loading = Lock()

KEPT_VERSIONS = 3


def compiled(
    function: Callable[..., Any], sources: Path, signature: str | None = None, more: Sequence[Path] = ()
) -> Callable[..., Any]:
    """The function, compiled without the global interpreter lock; the caller keeps it.

    Args:
        sources: the kernel's file, or the folder of all files that it is compiled from.
        more: files of others that it is compiled from.
        signature: numba's text of its types; without one, each new set of types is compiled when it is first called.
    """
    from numba import njit

    name = function.__name__
    with _loading:
        # Numba looks for changes in the file of this function only; by its name it looks for those of all sources.
        function.__qualname__ = f"{name}_{_digest(sources, more)}"
        try:
            kernel = njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:
            return njit(signature, nogil=True)(function)
        if kernel.stats.cache_path is not None:
            forget_versions(Path(kernel.stats.cache_path), name, function.__qualname__)
    return kernel


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


def _digest(sources: Path, more: Sequence[Path]) -> str:
    files = [*(sorted(sources.glob("*.py")) if sources.is_dir() else [sources]), *more]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
