"""Event models as data: the inputs, labels and threshold of a classifier of a stream's events, and rules beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.definitions.checks import check_mapping, check_model_name, check_name, freeze, nonempty_list
from features.definitions.expressions import (
    Condition,
    Expression,
    FrozenMap,
    check_expression,
    check_where,
    freeze_where,
    largest_number,
)
from features.definitions.streams import Stream
from features.definitions.windows import duration_ms
from features.errors import DefinitionError

EXACT_BELOW = 2**53
"""Of a number below this, any int64 as a float64 is on the same side as the int64 itself."""


@dataclass(frozen=True)
class TopADay:
    """Alert on at most ``count`` events a day, on average over the test days of the model."""

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise DefinitionError("TopADay", "a whole number of alerts from 1 on", repr(self.count))


@dataclass(frozen=True)
class AtPrecision:
    """Alert on as many events as possible while this share of alerts is right, measured on the model's test days."""

    share: float

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise DefinitionError("AtPrecision", "a share above 0, at most 1", repr(self.share))


@dataclass(frozen=True)
class Rule:
    """A filter over an event and the features just before it: every event that meets all of ``where`` alerts.

    Args:
        where: numeric field of the event, feature of an entity that it names, or name in the model's ``derived`` →
            condition; a null meets none.
    """

    name: str
    where: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_name(self.name, f"rule {self.name!r}")
        freeze(self, where=freeze_where(self.where, f"rule '{self.name}'"))
        if not self.where:
            raise DefinitionError(f"rule '{self.name}'", "at least one condition", "none")

    @property
    def filter(self) -> FrozenMap[Condition]:
        """The checked form of ``where``."""
        return self.where  # type: ignore[return-value]  # __post_init__ froze it


@dataclass(frozen=True)
class EventModel:
    """A classifier of a stream's events, each scored with the features just before it.

    Args:
        name: that of the registered model.
        stream: the events.
        labels: a stream whose events name, by the same event_id, those that were positive.
        inputs: numeric fields of the stream, and numeric features of the entities that its events name, in order.
        alert: how the threshold is chosen: TopADay(100) or AtPrecision(0.9).
        group: a field that positives share, such as an account; the test counts each group once a day.
        label_delay: time from an event until its label is known.
        derived: further columns for rules: name → expression of fields and features.
        rules: each an alert source of its own.
        usual: input → the feature with its usual value, which reasons show beside it.
    """

    name: str
    stream: Stream
    labels: Stream
    inputs: Sequence[str]
    alert: TopADay | AtPrecision
    group: str
    label_delay: str = "0s"
    derived: Mapping[str, Expression] | None = None
    rules: Sequence[Rule] = ()
    usual: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        where = f"event model {self.name!r}"
        check_model_name(self.name, where)
        if not isinstance(self.stream, Stream) or not isinstance(self.labels, Stream):
            raise DefinitionError(where, "stream=Stream(…) and labels=Stream(…)", f"{self.stream!r}, {self.labels!r}")
        if not isinstance(self.alert, TopADay | AtPrecision):
            raise DefinitionError(where, "alert=TopADay(…) or AtPrecision(…)", repr(self.alert))
        if self.group not in self.stream.dtypes:
            raise DefinitionError(where, "a group that is a field of its stream", repr(self.group))
        for value, parameter in ((self.derived, "derived"), (self.usual, "usual")):
            check_mapping(value, f"{where}: {parameter}")
        duration_ms(self.label_delay)
        inputs, rules = tuple(nonempty_list(self.inputs, where, "input")), tuple(self.rules)
        self._check_rules(rules, where)
        freeze(
            self, inputs=inputs, rules=rules, derived=FrozenMap(self.derived or {}), usual=FrozenMap(self.usual or {})
        )
        if len(set(inputs)) < len(inputs):
            raise DefinitionError(where, "inputs that differ", ", ".join(inputs))

    def _check_rules(self, rules: Sequence[Rule], where: str) -> None:
        if not all(isinstance(rule, Rule) for rule in rules) or len({rule.name for rule in rules}) < len(rules):
            raise DefinitionError(where, "rules of different names: Rule('velocity', {…})", repr(rules))

    @property
    def input_names(self) -> tuple[str, ...]:
        """The checked form of ``inputs``."""
        return self.inputs  # type: ignore[return-value]  # __post_init__ made it a tuple

    @property
    def derivations(self) -> FrozenMap[Expression]:
        """The checked form of ``derived``."""
        return self.derived  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def habits(self) -> FrozenMap[str]:
        """The checked form of ``usual``."""
        return self.usual  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def needed(self) -> tuple[str, ...]:
        """Every field and feature to read: the inputs, then those that only rules and reasons use."""
        named = [*self.input_names, *self.habits.values()]
        named += [operand for expression in self.derivations.values() for operand in expression.operands]
        named += [column for rule in self.rules for column in rule.filter]
        return tuple(name for name in dict.fromkeys(named) if name not in self.derivations)

    def check(self, dtypes: Mapping[str, str]) -> None:
        """Raises DefinitionError for a name that is not among these columns, or is not numeric."""
        where = f"event model '{self.name}'"
        for name in (*self.input_names, *self.habits, *self.habits.values()):
            if dtypes.get(name) not in ("int64", "float64"):
                required = f"numeric fields of '{self.stream.name}', or features of what its events name"
                raise DefinitionError(where, required, f"'{name}' ({dtypes.get(name, 'unknown')})")
        for name, expression in self.derivations.items():
            if name in dtypes:
                raise DefinitionError(f"{where}: derived", "a name of its own", f"'{name}'")
            check_expression(expression, dtypes, f"{where}: derived {name!r}")
        known = {**dtypes, **dict.fromkeys(self.derivations, "float64")}
        numbers = {name: "float64" for name, dtype in known.items() if dtype in ("int64", "float64")}
        for rule in self.rules:
            check_where(rule.filter, numbers, f"{where}: rule '{rule.name}'")
            for name, condition in rule.filter.items():
                if known[name] == "int64" and largest_number(condition) >= EXACT_BELOW:
                    required = f"a number below {EXACT_BELOW}, as a rule reads '{name}' (int64) as a float64"
                    raise DefinitionError(f"{where}: rule '{rule.name}'", required, repr(condition))
