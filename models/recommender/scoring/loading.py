"""The kernels, loaded once in a process (see features/compiling.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from features.compiling import compiled

_loading = Lock()

READ = {
    "i8": "Array(int64, 1, 'C', readonly=True)",
    "i4": "Array(int32, 1, 'C', readonly=True)",
    "f8": "Array(float64, 1, 'C', readonly=True)",
    "f4": "Array(float32, 1, 'C', readonly=True)",
    "b1": "Array(boolean, 1, 'C', readonly=True)",
    "u1": "Array(uint8, 1, 'C', readonly=True)",
    "i8_2": "Array(int64, 2, 'C', readonly=True)",
    "f8_2": "Array(float64, 2, 'C', readonly=True)",
    "f4_2": "Array(float32, 2, 'C', readonly=True)",
    "f4_3": "Array(float32, 3, 'C', readonly=True)",
}
"""Arrays that a kernel only reads: they may be writable or not."""


def ready() -> None:
    """Every kernel is loaded; call it before the first request."""
    for name in ("add_rows", "nearest", "first_open", "products_of", "fill"):
        _kernel(name)


def add_rows(*arguments: Any) -> None:
    """walks.add_rows, compiled."""
    _kernel("add_rows")(*arguments)


def nearest(*arguments: Any) -> None:
    """walks.nearest, compiled."""
    _kernel("nearest")(*arguments)


def first_open(*arguments: Any) -> int:
    """walks.first_open, compiled."""
    count: int = _kernel("first_open")(*arguments)
    return count


def products_of(*arguments: Any) -> None:
    """walks.products_of, compiled."""
    _kernel("products_of")(*arguments)


def fill(*arguments: Any) -> None:
    """pair_rows.fill, compiled."""
    _kernel("fill")(*arguments)


def _kernel(name: str) -> Callable[..., Any]:
    return _loaded.get(name) or _load(name)


_loaded: dict[str, Callable[..., Any]] = {}


def _load(name: str) -> Callable[..., Any]:
    with _loading:
        if name not in _loaded:
            from models.recommender.scoring import pair_rows, walks

            module = pair_rows if hasattr(pair_rows, name) else walks
            signature = module.SIGNATURES[name].format(**READ)
            _loaded[name] = compiled(getattr(module, name), Path(__file__).parent, signature)
        return _loaded[name]
