"""TODO: docstring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows under their names; texts to the left, numbers to the right."""
    names = list(rows[0])
    cells = [[f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    left = [isinstance(rows[0][name], str) for name in names]
    return [
        "  ".join(_padded(*cell) for cell in zip(line, widths, left, strict=True)).rstrip() for line in [names, *cells]
    ]


def _padded(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)
