"""Stable 64-bit hashes of whole columns: for distinct counts, event ids and row checksums.

A text's hash is the multilinear sum of its bytes plus one, each times a fixed odd weight of its position, modulo 2^64
(Lemire and Kaser, "Strongly universal string hashing is fast", 2014), passed through the finalizer of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014). Both are fixed by what is stored: changing them makes every stored sketch and row
foreign.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Uint64s = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64's multipliers."""


def mix(values: Uint64s) -> Uint64s:
    """SplitMix64's finalizer of each value: every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        z = values + GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=4)
def _weights_to(size: int) -> Uint64s:
    return mix(np.arange(size, dtype=np.uint64)) | np.uint64(1)


def weights(count: int) -> Uint64s:
    """At least ``count`` fixed odd multipliers, one per position."""
    return _weights_to(max(1 << 12, 1 << int(count - 1).bit_length()))


def segment_sums(values: Uint64s, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Uint64s:
    """The wrapping sum of values[start:end] for adjoining segments; 0 for an empty segment."""
    sums = np.zeros(len(starts), dtype=np.uint64)
    filled = np.flatnonzero(ends > starts)
    if len(filled):
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums


def hash_texts(texts: pa.Array) -> Uint64s:
    """A 64-bit hash of each text's (or binary value's) bytes; nulls hash as empty."""
    binary = texts.cast(pa.large_binary())
    offsets = np.frombuffer(binary.buffers()[1], dtype=np.int64)[binary.offset : binary.offset + len(binary) + 1]
    if len(binary) == 0:
        return np.empty(0, dtype=np.uint64)
    data = binary.buffers()[2]
    text_bytes = (
        np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]] if data is not None else np.empty(0, np.uint8)
    )
    starts, ends = offsets[:-1] - offsets[0], offsets[1:] - offsets[0]
    lengths = ends - starts
    position = np.arange(len(text_bytes)) - np.repeat(starts, lengths)
    longest = int(lengths.max()) if len(lengths) else 0
    with np.errstate(over="ignore"):
        products = (text_bytes.astype(np.uint64) + np.uint64(1)) * weights(longest + 1).take(position)
        return mix(segment_sums(products, starts, ends) ^ lengths.astype(np.uint64))


SHORT = 64
"""Bytes of a text up to which ``hash_text`` adds them up itself."""

_MASK = (1 << 64) - 1


def hash_text(text: str) -> int:
    """hash_texts of one text, without the arrays that many texts are worth."""
    text_bytes = text.encode()
    if len(text_bytes) > SHORT:
        return int(hash_texts(pa.array([text], pa.string()))[0])
    total = sum((byte + 1) * weight for byte, weight in zip(text_bytes, _first_weights(), strict=False))
    z = (((total & _MASK) ^ len(text_bytes)) + int(GOLDEN)) & _MASK
    z = ((z ^ (z >> 30)) * FIRST) & _MASK
    z = ((z ^ (z >> 27)) * SECOND) & _MASK
    return z ^ (z >> 31)


@lru_cache(maxsize=1)
def _first_weights() -> tuple[int, ...]:
    return tuple(weights(SHORT)[:SHORT].tolist())


def fingerprints(texts: pa.Array) -> Uint64s:
    """Two independent 64-bit hashes of each text, shape (n, 2): together, texts that differ do not meet.

    A text's 8-byte words are taken in one by one, h = mix(h ^ word), from its length and a seed.
    """
    binary = texts.cast(pa.large_binary())
    offsets = np.frombuffer(binary.buffers()[1], dtype=np.int64)[binary.offset : binary.offset + len(binary) + 1]
    result = np.empty((len(binary), len(SEEDS)), dtype=np.uint64)
    lengths = np.diff(offsets)
    data = np.frombuffer(binary.buffers()[2] or b"", dtype=np.uint8)
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        words = _words(data, offsets[:-1][chosen], length)
        for column, seed in enumerate(SEEDS):
            result[chosen, column] = _chained(words, seed ^ np.uint64(length))
    return result


PRINT = pa.binary(16)
"""A fingerprint as an Arrow value."""


def packed_prints(texts: pa.Array) -> pa.FixedSizeBinaryArray:
    """The fingerprint of each text as an Arrow value."""
    prints = np.ascontiguousarray(fingerprints(texts))
    return pa.FixedSizeBinaryArray.from_buffers(PRINT, len(prints), [None, pa.py_buffer(prints)])


def prints_of(ids: pa.Array) -> Uint64s:
    """The fingerprints of texts, or of the result of packed_prints(), shape (n, 2)."""
    if ids.type != PRINT:
        return fingerprints(ids)
    words = np.frombuffer(ids.buffers()[1], dtype="<u8").reshape(-1, 2)
    return words[ids.offset : ids.offset + len(ids)]


SEEDS = (np.uint64(0), GOLDEN)


def _words(data: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> Uint64s:
    """The words of equally long texts, padded with zeros, shape (words, n)."""
    text_bytes = np.zeros((len(starts), -(-length // 8) * 8), dtype=np.uint8)
    text_bytes[:, :length] = data[starts[:, None] + np.arange(length)]
    return text_bytes.view("<u8").T


def _chained(words: Uint64s, start: np.uint64) -> Uint64s:
    state = mix(np.full(words.shape[1], start, dtype=np.uint64))
    for word in words:
        state = mix(state ^ word)
    return state


def hash_numbers(values: NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bool_]) -> Uint64s:
    """A 64-bit hash of each number's bits; -0.0 hashes as 0.0."""
    whole = values + 0.0 if values.dtype == np.float64 else values.astype(np.int64)
    return mix(np.ascontiguousarray(whole).view(np.uint64))
