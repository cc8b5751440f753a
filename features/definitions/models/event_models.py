"""Event models as data: what every kind has, the binary classifier, and rules beside a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from features.definitions.checks import check_mapping, check_model_name, check_name, freeze, nonempty_list
from features.definitions.expressions import (
    NUMERIC,
    Condition,
    Expression,
    FrozenMap,
    check_expression,
    check_where,
    freeze_where,
    largest_number,
)
from features.definitions.models.scored_streams import scored_sources
from features.definitions.streams import Stream
from features.definitions.windows import duration_ms
from features.errors import DefinitionError

SCORE = "score"
"""The name of a model's answer, for derived columns and rules."""

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
        where: numeric field of the event, feature of an entity that it names, name in the model's ``derived``, or (of
            the kinds that say so) the model's own ``score`` → condition; a null meets none.
        once_within: events of one group (the model's ``group``) that meet the rule within this time of one another are
            one incident, of which the first alerts; None alerts on every event.
    """

    name: str
    where: Mapping[str, Any]
    once_within: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, f"rule {self.name!r}")
        _check_once_within(self.once_within, f"rule '{self.name}'")
        freeze(self, where=freeze_where(self.where, f"rule '{self.name}'"))
        if not self.where:
            raise DefinitionError(f"rule '{self.name}'", "at least one condition", "none")

    @property
    def filter(self) -> FrozenMap[Condition]:
        """The checked form of ``where``."""
        return self.where  # type: ignore[return-value]  # __post_init__ froze it


def _check_once_within(once_within: object, where: str) -> None:
    if once_within is not None and duration_ms(once_within, f"{where}: once_within") == 0:  # type: ignore[arg-type]
        raise DefinitionError(f"{where}: once_within", "a time such as '1h', or None", repr(once_within))


class BaseEventModel:
    """What every kind of event model has: a stream, inputs, columns for rules, and rules.

    Each kind is a frozen dataclass of its own, whose fields these are.
    """

    name: str
    stream: Stream
    labels: Stream | None
    inputs: Sequence[str]
    alert: Any
    group: str | None
    label_delay: str
    derived: Mapping[str, Expression] | None
    rules: Sequence[Rule]
    usual: Mapping[str, str] | None = None
    scored: Stream | None = None
    text: str | None = None
    once_within: str | None = None

    OUTPUTS: ClassVar[tuple[str, ...]] = (SCORE,)
    """The model's own answers that derived columns and rules may name."""

    @property
    def where(self) -> str:
        """The definition, as errors name it."""
        return f"event model {self.name!r}"

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The stream of its events and, where there is one, that of their labels."""
        return (self.stream,) if self.labels is None else (self.stream, self.labels)

    def _check_shared(self) -> None:
        """What every kind checks when it is made; the fields are frozen afterwards."""
        where = self.where
        check_model_name(self.name, where)
        if self.group is not None and self.group not in self.stream.dtypes:
            raise DefinitionError(where, "a group that is a field of its stream", repr(self.group))
        for value, parameter in ((self.derived, "derived"), (self.usual, "usual")):
            check_mapping(value, f"{where}: {parameter}")
        duration_ms(self.label_delay)
        inputs, rules = tuple(self.inputs), tuple(self.rules)
        if not all(isinstance(rule, Rule) for rule in rules) or len({rule.name for rule in rules}) < len(rules):
            raise DefinitionError(where, "rules of different names: Rule('velocity', {…})", repr(rules))
        freeze(
            self, inputs=inputs, rules=rules, derived=FrozenMap(self.derived or {}), usual=FrozenMap(self.usual or {})
        )
        if len(set(inputs)) < len(inputs):
            raise DefinitionError(where, "inputs that differ", ", ".join(inputs))
        len(self.scored_fields)  # making them checks them
        _check_once_within(self.once_within, where)
        if self.incidents_ms and self.group is None:
            raise DefinitionError(where, "a group, whose events once_within makes one incident", "none")

    @property
    def input_names(self) -> tuple[str, ...]:
        """The checked form of ``inputs``."""
        return self.inputs  # type: ignore[return-value]  # __post_init__ made it a tuple

    @property
    def derivations(self) -> FrozenMap[Expression]:
        """The checked form of ``derived``."""
        return self.derived  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def usual_names(self) -> FrozenMap[str]:
        """The checked form of ``usual``."""
        return self.usual  # type: ignore[return-value]  # __post_init__ froze it

    @cached_property
    def scored_fields(self) -> FrozenMap[str]:
        """Field of ``scored`` → its path in the message: 'event.FIELD' or a model's column; empty without a stream."""
        return FrozenMap() if self.scored is None else scored_sources(self.scored, self.stream, self.where)

    @property
    def incidents_ms(self) -> dict[str, int]:
        """Source of alerts → its ``once_within`` in ms, of those that alert once an incident."""
        within = {f"model:{self.name}": self.once_within}
        within |= {f"rule:{rule.name}": rule.once_within for rule in self.rules}
        return {source: duration_ms(time) for source, time in within.items() if time is not None}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The answers of the model that derived columns and rules may name; a field of the stream counts before one."""
        return tuple(name for name in self.OUTPUTS if name not in self.stream.dtypes)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every field and feature to read: the inputs, then those that only rules and reasons use."""
        named = [*self.input_names, *self.usual_names.values()]
        named += [operand for expression in self.derivations.values() for operand in expression.operands]
        named += [column for rule in self.rules for column in rule.filter]
        made = {*self.derivations, *self.outputs}
        return tuple(name for name in dict.fromkeys(named) if name not in made)

    @property
    def scored_rules(self) -> frozenset[str]:
        """The rules that ask for an answer of the model, and so are decided only with it."""
        made = {name for name, expression in self.derivations.items() if set(expression.operands) & set(self.outputs)}
        asked = made | set(self.outputs)
        return frozenset(rule.name for rule in self.rules if asked & set(rule.filter))

    def check(self, dtypes: Mapping[str, str]) -> None:
        """Raises DefinitionError for a name that is not among these columns, or is not numeric."""
        where = f"event model '{self.name}'"
        for name in (*self.input_names, *self.usual_names, *self.usual_names.values()):
            if dtypes.get(name) not in NUMERIC:
                required = f"numeric fields of '{self.stream.name}', or features of what its events name"
                raise DefinitionError(where, required, f"'{name}' ({dtypes.get(name, 'unknown')})")
        answers = dict.fromkeys(self.outputs, "float64")
        if both := [name for name in answers if name in dtypes]:
            raise DefinitionError(where, f"no feature called '{both[0]}', as the model's answer is", f"'{both[0]}'")
        for name, expression in self.derivations.items():
            if name in dtypes or name in answers:
                raise DefinitionError(f"{where}: derived", "a name of its own", f"'{name}'")
            check_expression(expression, {**dtypes, **answers}, f"{where}: derived {name!r}")
        known = {**dtypes, **answers, **dict.fromkeys(self.derivations, "float64")}
        numbers = {name: "float64" for name, dtype in known.items() if dtype in NUMERIC}
        for rule in self.rules:
            check_where(rule.filter, numbers, f"{where}: rule '{rule.name}'")
            for name, condition in rule.filter.items():
                if known[name] == "int64" and largest_number(condition) >= EXACT_BELOW:
                    required = f"a number below {EXACT_BELOW}, as a rule reads '{name}' (int64) as a float64"
                    raise DefinitionError(f"{where}: rule '{rule.name}'", required, repr(condition))


@dataclass(frozen=True)
class EventModel(BaseEventModel):
    """A binary classifier of a stream's events, each scored with the features just before it.

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
        once_within: as a rule's, for the alerts of the model itself.
        scored: the stream (scored_stream()) that gets each event with its score, for features to aggregate.
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
    scored: Stream | None = None
    once_within: str | None = None

    OUTPUTS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.stream, Stream) or not isinstance(self.labels, Stream):
            got = f"{self.stream!r}, {self.labels!r}"
            raise DefinitionError(self.where, "stream=Stream(…) and labels=Stream(…)", got)
        if not isinstance(self.alert, TopADay | AtPrecision):
            raise DefinitionError(self.where, "alert=TopADay(…) or AtPrecision(…)", repr(self.alert))
        if self.group not in self.stream.dtypes:
            raise DefinitionError(self.where, "a group that is a field of its stream", repr(self.group))
        nonempty_list(self.inputs, self.where, "input")
        self._check_shared()
