"""An event model's columns: its inputs, the expressions derived from them, and the rules that events meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Floats
from features.definitions import BaseEventModel, FeatureRepo, evaluate, matches
from models.event_model.inputs import EventInputs
from models.event_model.texts import Texts


@dataclass(frozen=True)
class EventModelColumns:
    """An event model and the sources of its columns; its matrices have the columns ``model.needed``."""

    model: BaseEventModel
    source: EventInputs

    @classmethod
    def of(cls, repo: FeatureRepo, model: BaseEventModel) -> EventModelColumns:
        """The model with the repo's views; UsageError for a name that the repo lacks, or that is no number."""
        return cls(model, EventInputs.of(repo, model.stream.name, model.needed))

    def inputs(self, matrix: Floats) -> Floats:
        """(n, inputs): the columns that the classifier takes, in its order."""
        return matrix[:, : len(self.model.input_names)]

    def texts(self, events: pa.Table) -> Texts | None:
        """(n,) the text of each event, '' where it has none; None for a model without."""
        name = self.model.text
        if name is None:
            return None
        texts = np.empty(events.num_rows, dtype=object)
        texts[:] = ["" if text is None else text for text in events[name].to_pylist()]
        return texts

    def by_name(self, matrix: Floats, answers: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
        """Every column, those derived from them included, (n,) each; NaN where there is no value.

        Args:
            answers: of the model, those of ``model.outputs`` that there are.
        """
        none = np.full(len(matrix), np.nan)
        needed = dict(zip(self.model.needed, matrix.T, strict=True))
        needed |= {name: (answers or {}).get(name, none) for name in self.model.outputs}
        derived = {name: evaluate(expression, needed) for name, expression in self.model.derivations.items()}
        return needed | derived

    def rules_met(self, matrix: Floats, answers: Mapping[str, Floats] | None = None) -> Mapping[str, Bools]:
        """Rule → (n,) a mask of the events that meet it; none meets one that asks for an answer that is not there."""
        if not self.model.rules:
            return {}
        columns = pa.table(
            {name: pa.array(values, from_pandas=True) for name, values in self.by_name(matrix, answers).items()}
        )
        return {rule.name: matches(columns, rule.filter) for rule in self.model.rules}


def usual_of(columns: EventModelColumns, matrix: Floats, typical: Floats) -> Floats:
    """(n, inputs) the usual value of each input: the entity's habit where the model names one, else ``typical``.

    Args:
        typical: (inputs,) the medians of training.
    """
    position = {name: column for column, name in enumerate(columns.model.needed)}
    usual = np.tile(typical, (len(matrix), 1))
    for column, name in enumerate(columns.model.input_names):
        if name in columns.model.usual_names:
            habit = matrix[:, position[columns.model.usual_names[name]]]
            usual[:, column] = np.where(np.isnan(habit), typical[column], habit)
    return usual


def filled(inputs: Floats) -> Floats:
    """The inputs of a classifier fitted by training: ``rounded``, with 0 for no value."""
    return rounded(np.nan_to_num(inputs, nan=0.0))


def rounded(inputs: Floats) -> Floats:
    """The inputs to seven digits.

    Sums of the same numbers in another order differ in their last bits; a tree that splits between two such sums would
    score an event differently in the stream than in history.
    """
    return inputs.astype(np.float32).astype(np.float64)
