"""An event model's columns: its inputs, the expressions derived from them, and the rules that events meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Floats
from features.definitions import EventModel, FeatureRepo, evaluate, matches
from models.event_model.inputs import EventInputs


@dataclass(frozen=True)
class EventModelColumns:
    """A model with where each of its columns comes from; the matrices that it takes have ``model.needed`` columns."""

    model: EventModel
    source: EventInputs

    @classmethod
    def of(cls, repo: FeatureRepo, model: EventModel) -> EventModelColumns:
        """The model with the repo's views; UsageError for a name that the repo lacks, or that is no number."""
        return cls(model, EventInputs.of(repo, model.stream.name, model.needed))

    def inputs(self, matrix: Floats) -> Floats:
        """(n, inputs): the columns that the classifier takes, in its order."""
        return matrix[:, : len(self.model.input_names)]

    def by_name(self, matrix: Floats) -> dict[str, Floats]:
        """Every column, those derived from them included, (n,) each; NaN where there is no value."""
        found = dict(zip(self.model.needed, matrix.T, strict=True))
        return found | {name: evaluate(one, found) for name, one in self.model.derivations.items()}

    def rules_met(self, matrix: Floats) -> Mapping[str, Bools]:
        """Rule → which of the n events meet it."""
        if not self.model.rules:
            return {}
        columns = pa.table({name: pa.array(one, from_pandas=True) for name, one in self.by_name(matrix).items()})
        return {rule.name: matches(columns, rule.filter) for rule in self.model.rules}


def usual_of(columns: EventModelColumns, matrix: Floats, typical: Floats) -> Floats:
    """(n, inputs): what is usual for each input: the entity's own habit where the model names one, else ``typical``.

    Args:
        typical: (inputs,) the middle of what training saw.
    """
    position = {name: number for number, name in enumerate(columns.model.needed)}
    usual = np.tile(typical, (len(matrix), 1))
    for number, name in enumerate(columns.model.input_names):
        if name in columns.model.habits:
            habit = matrix[:, position[columns.model.habits[name]]]
            usual[:, number] = np.where(np.isnan(habit), typical[number], habit)
    return usual


def filled(inputs: Floats) -> Floats:
    """The inputs as a classifier of training's takes them: ``rounded``, and 0 where there is no value."""
    return rounded(np.nan_to_num(inputs, nan=0.0))


def rounded(inputs: Floats) -> Floats:
    """The inputs to seven digits.

    Sums of the same numbers in another order differ in their last bits, and a tree that is cut between two such would
    say something else of an event in the stream than in history.
    """
    return inputs.astype(np.float32).astype(np.float64)
