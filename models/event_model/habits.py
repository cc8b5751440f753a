"""A fitted anomaly model: how far events are from the habits of their entities, and how rare such distances are.

The file habits.json has it whole, as numbers: nothing in it can run.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from features.arrays import Bools, Floats
from features.errors import ArtefactError

HABITS = "habits.json"

LEAST_WIDTH = 1e-3
"""The least width of a habit, as a share of the size of its numbers: a constant number has a width, too."""

TINY = 1e-9
"""The least width of a habit of zeros."""


class RarityCurve(BaseModel):
    """How rare distances from a habit are: −log10 of the share of what was learned from that is as far or farther.

    Between the points it is a line, and beyond the last a power law.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    distances: tuple[float, ...]
    """Rising, from 0 on."""
    rarities: tuple[float, ...]
    """Of each distance; rising from 0 on."""
    exponent: float
    """Of the power law: the rarity rises by this for ten times the last distance."""

    def of(self, distances: Floats) -> Floats:
        """The rarity of each distance; continuous and rising."""
        known, last = np.array(self.distances), self.distances[-1]
        beyond = self.exponent * np.log10(np.maximum(distances, last) / last) if last > 0 else 0.0
        return np.asarray(np.interp(distances, known, np.array(self.rarities)) + beyond, dtype=np.float64)


class FittedHabit(BaseModel):
    """A habit by the columns of the inputs, and the rarity of distances from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: int
    low: int | None
    high: int | None
    middle: int | None
    spread: int | None
    curve: RarityCurve

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns that it reads."""
        return tuple(one for one in (self.of, self.low, self.high, self.middle, self.spread) if one is not None)

    def distances(self, inputs: Floats) -> Floats:
        """(n,) how far each number is from the habit, in its widths; NaN where one of them has no value."""
        value = inputs[:, self.of]
        if self.low is None or self.high is None:
            width, size = self._column(inputs, self.spread), np.abs(self._column(inputs, self.middle))
        else:
            low, high = inputs[:, self.low], inputs[:, self.high]
            width, size = high - low, (np.abs(low) + np.abs(high)) / 2
        if self.middle is not None:
            apart = np.abs(value - inputs[:, self.middle])
        else:
            below, above = self._column(inputs, self.low) - value, value - self._column(inputs, self.high)
            apart = np.maximum(np.maximum(below, above), 0.0)
        distance = apart / np.maximum(width, LEAST_WIDTH * size + TINY)
        return np.where(np.isfinite(distance), distance, np.nan)

    def usual(self, inputs: Floats) -> Floats:
        """(n,) the usual number nearest to each: the middle, or the end of the band."""
        if self.middle is not None:
            return inputs[:, self.middle]
        return np.clip(inputs[:, self.of], self._column(inputs, self.low), self._column(inputs, self.high))

    @staticmethod
    def _column(inputs: Floats, column: int | None) -> Floats:
        return np.full(len(inputs), np.nan) if column is None else inputs[:, column]


class FittedHabits(BaseModel):
    """Every habit of an anomaly model; the score of an event is the mean rarity over them.

    A habit without a value says nothing (0), and an event below one of ``least`` has the score 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: int
    """The number of the inputs."""
    habits: tuple[FittedHabit, ...]
    least: tuple[tuple[int, float], ...]
    """Column and the least that it must be for an event to be judged."""

    def rarities(self, inputs: Floats) -> Floats:
        """(n, habits) the rarity of each event's distance from each habit."""
        found = [habit.curve.of(np.nan_to_num(habit.distances(inputs), nan=0.0)) for habit in self.habits]
        return np.column_stack(found) * self.judged(inputs)[:, np.newaxis]

    def judged(self, inputs: Floats) -> Bools:
        """(n,) whether enough is known of each event's entity."""
        enough = np.ones(len(inputs), dtype=bool)
        for column, number in self.least:
            enough &= inputs[:, column] >= number
        return enough

    def scores(self, inputs: Floats) -> Floats:
        """(n,) the score of each event."""
        return np.asarray(self.rarities(inputs).mean(axis=1), dtype=np.float64)

    @cached_property
    def columns(self) -> int:
        """One more than the highest column that it reads."""
        read = [column for habit in self.habits for column in habit.columns] + [column for column, _ in self.least]
        return max(read) + 1


def save_habits(fitted: FittedHabits, path: Path) -> None:
    """The fitted habits stand in a file."""
    path.write_text(fitted.model_dump_json(indent=1), encoding="utf-8")


def load_habits(path: Path, inputs: int) -> FittedHabits:
    """The fitted habits of a file, of so many inputs; ArtefactError for others."""
    try:
        fitted = FittedHabits.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtefactError(f"artefact file '{path}'", "fitted habits", str(error), "Train anew.") from error
    lowest = min(column for habit in fitted.habits for column in habit.columns)
    if fitted.inputs != inputs or not 0 <= lowest <= fitted.columns <= inputs:
        got = f"of {fitted.inputs}, reading column {fitted.columns - 1}"
        raise ArtefactError(f"artefact file '{path}'", f"habits of {inputs} inputs", got, "Train anew.")
    return fitted
