"""The file of an artefact's candidate tables: plain one-dimensional arrays, checked when they are read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ArtefactError
from models.recommender.content import BINS, CONTENT, WIDTH, Content, ContentEncoder, ContentRows, content_arrays
from models.recommender.tables import CandidateTables, Factors, Sessions, SparseRows

ARRAYS: Mapping[str, str] = {
    "items": "U",
    "neighbour_starts": "i8",
    "neighbour_items": "i4",
    "neighbour_weights": "f4",
    "popular": "f4",
    "trending": "f4",
    "users": "u8",
    "history_starts": "i8",
    "history_items": "i4",
    "own_count": "f4",
    "own_last_ms": "i8",
    "half_life_ms": "f8",
    "repeats": "b1",
}
"""Array of candidates.npz → its dtype; of ``half_life_ms`` and ``repeats`` there is one value."""

OPTIONAL: Mapping[str, Mapping[str, str]] = {
    "own": {"own_visits": "f4", "own_first_ms": "i8"},
    "lasting": {"lasting": "f4"},
    "first": {"first": "f4"},
    "together": {"together_starts": "i8", "together_items": "i4", "together_weights": "f4"},
    "factors": {"factors": "f4", "factor_settings": "f8"},
    "sessions": {"session_starts": "i8", "session_items": "i4"},
    "category": {"category": "i4"},
    "price": {"price": "f4"},
    "content": CONTENT,
    "content_projection": {"content_projection": "f4", "content_mean": "f4"},
}
"""Optional groups of arrays, each there whole or not at all. ``factors`` is row by row; ``factor_settings`` are
regularization and alpha."""

KINDS = {**ARRAYS, **{name: kind for group in OPTIONAL.values() for name, kind in group.items()}}

Arrays = dict[str, NDArray[Any]]


def candidate_arrays(tables: CandidateTables, content: Content | None = None) -> Arrays:
    """The tables, and what is known of the items' attributes, as the arrays of candidates.npz."""
    arrays = {
        "items": np.array(tables.items, dtype=np.str_),
        **_rows_as("neighbour", tables.neighbours),
        "popular": tables.popular,
        "trending": tables.trending,
        "users": tables.users,
        "history_starts": tables.histories.starts,
        "history_items": tables.histories.column,
        "own_count": tables.own_count,
        "own_last_ms": tables.own_last_ms,
        "half_life_ms": [tables.half_life_ms],
        "repeats": [tables.repeats],
        "own_visits": tables.own_visits,
        "own_first_ms": tables.own_first_ms,
        "lasting": tables.lasting,
        "first": tables.first,
        "category": tables.category,
        "price": tables.price,
    }
    if tables.together is not None:
        arrays |= _rows_as("together", tables.together)
    if tables.factors is not None:
        factors = tables.factors
        arrays |= {"factors": factors.items.ravel(), "factor_settings": [factors.regularization, factors.alpha]}
    if tables.sessions is not None:
        rows = tables.sessions.items
        arrays |= {"session_starts": rows.starts, "session_items": rows.column}
    if content is not None:
        arrays |= content_arrays(content)
    return {name: np.asarray(array, dtype=KINDS[name]) for name, array in arrays.items() if array is not None}


def _rows_as(name: str, rows: SparseRows) -> dict[str, Any]:
    return {f"{name}_starts": rows.starts, f"{name}_items": rows.column, f"{name}_weights": rows.weight}


def read_arrays(path: Path) -> Arrays:
    """The arrays of candidates.npz, each of its dtype; ArtefactError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            present = set(archive.files)
            groups = [group for group in OPTIONAL.values() if present & set(group)]
            arrays = {name: archive[name] for group in (ARRAYS, *groups) for name in group}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _refused(path, f"arrays {', '.join(ARRAYS)}", str(error)) from error
    for name, array in arrays.items():
        kind, dtype = KINDS[name], array.dtype
        if (dtype.kind if kind == "U" else dtype.str[1:]) != kind or array.ndim != 1:
            raise _refused(path, f"array '{name}' of {kind} in one dimension", f"{dtype} in {array.ndim}")
    return arrays


def candidate_tables(arrays: Arrays, path: Path) -> CandidateTables:
    """The tables of these arrays; ArtefactError for inconsistent ones."""
    n, u = len(arrays["items"]), len(arrays["users"])
    neighbours = _sparse(arrays, path, "neighbour", n, n)
    histories = _checked(arrays, path, ("history_starts", "history_items", "own_count"), u, n)
    _same_length(arrays, path, ("popular", "trending", "lasting", "first", "category", "price"), n)
    _same_length(arrays, path, ("own_last_ms", "own_visits", "own_first_ms"), len(histories.column))
    _same_length(arrays, path, ("half_life_ms", "repeats"), 1)
    if not arrays["half_life_ms"][0] > 0:
        raise _refused(path, "a half_life_ms above 0", str(arrays["half_life_ms"][0]))
    return CandidateTables(
        items=tuple(arrays["items"].tolist()),
        neighbours=neighbours,
        popular=arrays["popular"],
        trending=arrays["trending"],
        users=arrays["users"],
        histories=histories,
        own_count=arrays["own_count"],
        own_last_ms=arrays["own_last_ms"],
        own_visits=arrays.get("own_visits"),
        own_first_ms=arrays.get("own_first_ms"),
        lasting=arrays.get("lasting"),
        first=arrays.get("first"),
        together=_sparse(arrays, path, "together", n, n) if "together_starts" in arrays else None,
        factors=_factors(arrays, path, n) if "factors" in arrays else None,
        sessions=_sessions(arrays, path, n) if "session_starts" in arrays else None,
        category=arrays.get("category"),
        price=arrays.get("price"),
        half_life_ms=float(arrays["half_life_ms"][0]),
        repeats=bool(arrays["repeats"][0]),
    )


def _factors(arrays: Arrays, path: Path, items: int) -> Factors:
    _same_length(arrays, path, ("factor_settings",), 2)
    flat, (regularization, alpha) = arrays["factors"], arrays["factor_settings"].tolist()
    if len(flat) % max(items, 1) or not np.isfinite(flat).all() or not regularization > 0:
        raise _refused(path, f"finite factors of {items} items, and a regularization above 0", "others")
    return Factors(flat.reshape(items, -1), regularization, alpha)


def _sessions(arrays: Arrays, path: Path, items: int) -> Sessions:
    column = arrays["session_items"]
    whole = {**arrays, "session_weights": np.ones(len(column), dtype=np.float32)}
    return Sessions.of(_sparse(whole, path, "session", len(arrays["session_starts"]) - 1, items), items)


def item_content(arrays: Arrays, path: Path) -> Content | None:
    """What the arrays hold of the items' attributes; None without. Raises ArtefactError for inconsistent ones."""
    if "content_starts" not in arrays:
        return None
    texts, numbers = (tuple(arrays[name].tolist()) for name in ("content_texts", "content_numbers"))
    tokens, edges = arrays["content_tokens"], arrays["content_edges"]
    rising = bool((np.diff(tokens) > 0).all()) and bool(((tokens >= 0) & (tokens < WIDTH)).all())
    if not rising or not np.isfinite(edges).all():
        raise _refused(path, f"rising content_tokens below {WIDTH}, and finite content_edges", "others")
    _same_length(arrays, path, ("content_edges",), len(numbers) * (BINS - 1))
    _same_length(arrays, path, ("content_idf",), len(tokens))
    _same_length(arrays, path, ("content_rare",), 1)
    names = ("content_starts", "content_columns", "content_weights")
    rows = _checked(arrays, path, names, len(arrays["items"]), WIDTH)
    edges = edges.reshape(len(numbers), BINS - 1)
    encoder = ContentEncoder(texts, numbers, edges, tokens, arrays["content_idf"], float(arrays["content_rare"][0]))
    if "content_mean" not in arrays:
        return Content(encoder, ContentRows(rows))
    mean, projection = arrays["content_mean"], arrays["content_projection"]
    _same_length(arrays, path, ("content_projection",), len(tokens) * len(mean))
    _same_length(arrays, path, ("factors",), len(arrays["items"]) * len(mean))
    return Content(encoder, ContentRows(rows), projection.reshape(len(tokens), len(mean)), mean)


def _same_length(arrays: Arrays, path: Path, names: tuple[str, ...], length: int) -> None:
    wrong = [name for name in names if name in arrays and len(arrays[name]) != length]
    if wrong:
        raise _refused(path, f"array '{wrong[0]}' of {length}", str(len(arrays[wrong[0]])))


def _sparse(arrays: Arrays, path: Path, name: str, rows: int, width: int) -> SparseRows:
    return _checked(arrays, path, (f"{name}_starts", f"{name}_items", f"{name}_weights"), rows, width)


def _checked(arrays: Arrays, path: Path, names: tuple[str, str, str], rows: int, width: int) -> SparseRows:
    starts, column, weight = (arrays[name] for name in names)
    whole = len(starts) == rows + 1 and starts[0] == 0 and starts[-1] == len(column) == len(weight)
    rising = whole and bool((np.diff(starts) >= 0).all())
    inside = rising and bool(((column >= 0) & (column < width)).all())
    if not inside:
        raise _refused(path, f"arrays {', '.join(names)} of {rows} rows over {width} items", "others")
    return SparseRows(starts, column, weight)


def _refused(path: Path, required: str, got: str) -> ArtefactError:
    return ArtefactError(f"artefact file '{path}'", required, got, "Train anew.")
