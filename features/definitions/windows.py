"""Windows, their tiles and bounds. All times are int64 epoch milliseconds.

A window of length W and delay D covers, for a read at ``as_of``,

* on the left, events from ``floor_tile(as_of - D - W)`` on (inclusive);
* on the right, with no delay, every event in a tile that starts at or before ``as_of``, so that an event at ``as_of``
  counts (up to ``floor_tile(as_of) + tile``, exclusive); with a delay, up to ``floor_tile(as_of - D)``, exclusive.

Tiles of the windows of one view nest: each is a whole multiple of the next smaller one. That lets one row keep a single
run of tiles, fine while a short window can still see them and coarse after that (the hop structure of Chronon's
"sawtooth" windows, https://chronon.ai/Tiled_Architecture.html), and yet answer each window exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

from features.errors import DefinitionError

if TYPE_CHECKING:
    from features.arrays import Int64s

SECOND_MS = 1_000

UNITS_MS = {"ms": 1, "s": SECOND_MS, "m": 60 * SECOND_MS, "h": 3_600 * SECOND_MS, "d": 86_400 * SECOND_MS}

TILES_PER_WINDOW = 60

LONGEST_MS = 36_500 * UNITS_MS["d"]

FUTURE_TOLERANCE_MS = 5 * UNITS_MS["m"]
"""An event further than this ahead of its ``known_at`` is a dead letter."""


def duration_ms(text: str | int, where: str = "a duration") -> int:
    """Milliseconds of a text like '5m', '24h' or '7d', or of an int of milliseconds."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise DefinitionError(where, "a whole number and a unit of ms, s, m, h or d, such as '5m'", repr(text))
    return int(match[1]) * UNITS_MS[match[2]]


def duration_text(milliseconds: int) -> str:
    """The shortest text of a duration, as in feature names: 24h, 7d, 90s."""
    for unit in ("d", "h", "m", "s"):
        least_units = 2 if unit == "d" else 1
        if milliseconds % UNITS_MS[unit] == 0 and milliseconds >= least_units * UNITS_MS[unit]:
            return f"{milliseconds // UNITS_MS[unit]}{unit}"
    return f"{milliseconds}ms"


@dataclass(frozen=True)
class Window:
    """A sliding window: its length, the tile by which its ends move (by default length / 60), and a delay."""

    length: str | int
    tile: str | int | None = None
    delay: str | int = 0

    def __post_init__(self) -> None:
        where = f"window {self.length!r}"
        if not 0 < self.length_ms <= LONGEST_MS or duration_ms(self.delay, where) > LONGEST_MS:
            required = f"a length above zero, and that and the delay at most {duration_text(LONGEST_MS)}"
            raise DefinitionError(where, required, f"{self.length!r}, delay {self.delay!r}")
        if self.tile is not None and not 0 < duration_ms(self.tile, where) <= self.length_ms:
            raise DefinitionError(where, "a tile above zero and at most the window", repr(self.tile))
        # One text for one duration: '1d' and '24h' are the same window, in every comparison and hash.
        object.__setattr__(self, "length", duration_text(self.length_ms))
        object.__setattr__(self, "tile", None if self.tile is None else duration_text(duration_ms(self.tile)))
        object.__setattr__(self, "delay", duration_text(self.delay_ms) if self.delay_ms else 0)

    @cached_property
    def length_ms(self) -> int:
        """The length of the window, exact up to a tile."""
        return duration_ms(self.length, "a window")

    @cached_property
    def delay_ms(self) -> int:
        """The distance from the window's end to ``as_of``; 0 for a window that ends there."""
        return duration_ms(self.delay, "a window's delay")

    @cached_property
    def requested_tile_ms(self) -> int:
        """The tile before nesting: as set, or the largest divisor of the length up to length / 60."""
        if self.tile is not None:
            return duration_ms(self.tile, "a window's tile")
        most = max(self.length_ms // TILES_PER_WINDOW, 1)
        return next(tile for tile in range(most, 0, -1) if self.length_ms % tile == 0)

    @property
    def label(self) -> str:
        """The part of a feature's name that stands for the window: '24h', '7d_delay_7d'."""
        text = duration_text(self.length_ms)
        return f"{text}_delay_{duration_text(self.delay_ms)}" if self.delay_ms else text


@dataclass(frozen=True)
class Bounds:
    """A window with its tile in a view: the input of the kernels."""

    length_ms: int
    delay_ms: int
    tile_ms: int

    def left(self, as_of: Int64s) -> Int64s:
        """First event time inside, per as_of (inclusive)."""
        return floored(as_of - (self.delay_ms + self.length_ms), self.tile_ms)

    def right(self, as_of: Int64s) -> Int64s:
        """First event time outside, per as_of (exclusive)."""
        if self.delay_ms:
            return floored(as_of - self.delay_ms, self.tile_ms)
        return floored(as_of, self.tile_ms) + self.tile_ms


class Tiling:
    """The tiles of a view: the nested tile of each window, and the coarsest tile allowed at each age."""

    def __init__(self, windows: Sequence[Window], tile_ms: Mapping[Window, int] | None = None) -> None:
        self.windows = tuple(dict.fromkeys(windows))
        self._tile_ms = nested_tiles(self.windows) if tile_ms is None else {w: tile_ms[w] for w in self.windows}
        self._bounds = {w: Bounds(w.length_ms, w.delay_ms, tile) for w, tile in self._tile_ms.items()}

    def subset(self, windows: Sequence[Window]) -> Tiling:
        """The tiling of some of the windows, each with the tile that it has here."""
        return Tiling(windows, self._tile_ms)

    def bounds(self, window: Window) -> Bounds:
        """The window with its tile."""
        return self._bounds[window]

    def all_bounds(self) -> tuple[Bounds, ...]:
        """The bounds of every window."""
        return tuple(self._bounds.values())

    @cached_property
    def horizon_ms(self) -> int:
        """The longest delay + length: an event with a larger known_at - event_time is late."""
        return max(window.delay_ms + window.length_ms for window in self.windows)

    @cached_property
    def finest_ms(self) -> int:
        """The smallest tile; all others are multiples of it."""
        return min(self._tile_ms.values())

    @cached_property
    def _edges(self) -> tuple[tuple[int, int], ...]:
        """(age, tile) of each window end that a tile passes as it ages, youngest first."""
        ends = [(w.delay_ms + w.length_ms, self._tile_ms[w]) for w in self.windows]
        ends += [(w.delay_ms, self._tile_ms[w]) for w in self.windows if w.delay_ms]
        return tuple(sorted(ends))

    @cached_property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(age, tile) steps, youngest first: past that age a tile of that size is fine enough for every later end."""
        levels: list[tuple[int, int]] = []
        for position, (age, _) in enumerate(self._edges[:-1]):
            later = min(tile for _, tile in self._edges[position + 1 :])
            coarsest = levels[-1][1] if levels else self.finest_ms
            if later > coarsest:
                levels.append((age, later))
        return tuple(levels)

    def oldest(self, clock: Int64s) -> Int64s:
        """First tile start that a read at ``clock`` or later can still see."""
        return minimum([bounds.left(clock) for bounds in self._bounds.values()])

    def widest(self, as_of: Int64s) -> tuple[Int64s, Int64s]:
        """[left, right) of all windows together."""
        return self.oldest(as_of), -minimum([-bounds.right(as_of) for bounds in self._bounds.values()])


def floored(times: Int64s, tile_ms: int) -> Int64s:
    """Each time's multiple of the tile at or before it (numpy divides by a number faster than it takes the rest)."""
    return times // tile_ms * tile_ms


def minimum(arrays: list[Int64s]) -> Int64s:
    """The elementwise minimum."""
    import numpy as np

    return reduce(np.minimum, arrays)


def nested_tiles(windows: Sequence[Window]) -> dict[Window, int]:
    """The tile of each window: as requested, rounded down to a multiple of the next smaller tile of the view."""
    tiles: dict[Window, int] = {}
    smaller = 1
    for window in sorted(windows, key=lambda w: (w.requested_tile_ms, w.length_ms, w.delay_ms)):
        tile = window.requested_tile_ms // smaller * smaller
        if window.tile is not None and tile != window.requested_tile_ms:
            required = f"a tile that is a whole multiple of the view's next smaller tile, {duration_text(smaller)}"
            raise DefinitionError(f"window {window.label}", required, repr(window.tile))
        tiles[window] = smaller = tile
    return tiles


def age_text(milliseconds: int) -> str:
    """A duration in the largest unit that fits into it: 3.2 d, 14.0 h."""
    unit = next((name for name in ("d", "h", "m", "s") if milliseconds >= UNITS_MS[name]), "ms")
    return f"{milliseconds / UNITS_MS[unit]:,.1f} {unit}"
