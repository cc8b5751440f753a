"""Event ids as sorted blocks: the last accepted event of each, by two 64-bit hashes of the id.

A block is immutable: 32 bytes an id (two hashes, sequence, known_at), in the order of the first hash. Two ids that
share both hashes would be taken for one: with 10^9 ids at a time, that happens once in 10^20 pairs of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from features.arrays import Int64s
from features.events import Prior
from features.hashing import Uint64s

MOST_MERGED = 1 << 22
"""Most ids of a merged block: merging more would stop a batch for longer than looking them up costs."""


@dataclass(frozen=True)
class Block:
    """n ids with the last accepted event of each: columns (n,), sorted by ``first``."""

    first: Uint64s
    second: Uint64s
    seq: Int64s
    known_at: Int64s

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def of(cls, prints: Uint64s, last: Prior) -> Block:
        """The ids with these fingerprints, shape (n, 2)."""
        order = np.argsort(prints[:, 0], kind="stable")
        return cls(prints[order, 0], prints[order, 1], last.seq[order], last.known_at[order])

    @classmethod
    def nothing(cls) -> Block:
        """No ids."""
        return cls.read(b"")

    def pieces(self, most: int) -> list[Block]:
        """The block cut into blocks of at most so many ids, in their order."""
        parts = [slice(at, at + most) for at in range(0, len(self), most)]
        return [Block(self.first[part], self.second[part], self.seq[part], self.known_at[part]) for part in parts]

    @classmethod
    def read(cls, content: bytes) -> Block:
        """The inverse of to_bytes()."""
        columns = np.frombuffer(content, dtype="<u8").reshape(4, -1)
        return cls(columns[0], columns[1], columns[2].view(np.int64), columns[3].view(np.int64))

    def to_bytes(self) -> bytes:
        """The concatenated columns, little-endian."""
        columns = (self.first, self.second, self.seq.view(np.uint64), self.known_at.view(np.uint64))
        return b"".join(column.astype("<u8", copy=False).tobytes() for column in columns)

    def index_of(self, prints: Uint64s) -> Int64s:
        """The index of each id; -1 if the block does not have it."""
        index = np.searchsorted(self.first, prints[:, 0])
        result = np.full(len(prints), -1, dtype=np.int64)
        left = np.arange(len(prints))
        while len(left):  # more than once only where two ids share the first hash
            left = left[index[left] < len(self)]
            left = left[self.first[index[left]] == prints[left, 0]]
            same = self.second[index[left]] == prints[left, 1]
            result[left[same]] = index[left[same]]
            left = left[~same]
            index[left] += 1
        return result


def merged(blocks: Iterable[Block]) -> Block:
    """The blocks, oldest first, merged into one: the newest block's entry of an id counts."""
    parts = list(blocks)
    columns = [np.concatenate([getattr(block, name) for block in parts]) for name in ("first", "second")]
    values = [np.concatenate([getattr(block, name) for block in parts]) for name in ("seq", "known_at")]
    order = np.argsort(columns[0], kind="stable")
    first, second = (column[order] for column in columns)
    if (first[1:] == first[:-1]).any():
        order = np.lexsort((columns[1], columns[0]))
        first, second = (column[order] for column in columns)
        newest = np.append((first[1:] != first[:-1]) | (second[1:] != second[:-1]), [True] * bool(len(first)))
        order, first, second = order[newest], first[newest], second[newest]
    return Block(first, second, values[0][order], values[1][order])


@dataclass
class SeenIds:
    """Blocks to look ids up in: few, however many were added, as small ones are merged."""

    blocks: list[Block] = field(default_factory=list)

    def add(self, block: Block) -> None:
        """Add the newest ids."""
        if not len(block):
            return
        self.blocks.append(block)
        while len(self.blocks) > 1 and self._worth_merging(*self.blocks[-2:]):
            self.blocks[-2:] = [merged(self.blocks[-2:])]

    @staticmethod
    def _worth_merging(older: Block, newer: Block) -> bool:
        return len(older) <= 2 * len(newer) and len(older) + len(newer) <= MOST_MERGED


def prior_of(parts: Iterable[SeenIds], prints: Uint64s) -> Prior:
    """The last accepted event of each id, by the newest block that has it; ``parts`` are oldest first."""
    order = np.argsort(prints[:, 0])  # neighbours are near each other then: several times as fast
    prints = prints[order]
    prior = Prior.nothing(len(prints))
    left = np.arange(len(prints))
    for block in reversed([block for part in parts for block in part.blocks]):
        index = block.index_of(prints[left])
        is_known = index >= 0
        prior.seq[order[left[is_known]]] = block.seq[index[is_known]]
        prior.known_at[order[left[is_known]]] = block.known_at[index[is_known]]
        left = left[~is_known]
    return prior
