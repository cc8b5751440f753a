"""Recommenders as data: whose events are learnt from, what each kind of them counts, and the views that describe both.

shop = Recommender(
    "shop-recommender", stream=activity, user=user, item=item, user_view=user_activity, item_view=item_activity,
    kind="event_type", weights={"view": 0.2, "purchase": 1.0, "return": -1.0}, targets=["purchase", "view"],
    catalogue=item_catalogue, available={"stock": above(0)},
)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from features.definitions.aggregations import Count, DecayedCount, Last, LastK
from features.definitions.checks import check_model_name, freeze, nonempty_list
from features.definitions.expressions import Condition, FrozenMap, check_where, freeze_where
from features.definitions.streams import SERVED_FIELDS, Entity, Stream
from features.definitions.views import Feature, FeatureView
from features.errors import DefinitionError

Source = Literal["together", "factor", "session", "lasting"]
SOURCES: tuple[Source, ...] = get_args(Source)
EXCLUSIONS = ("bought", "seen")
INPUTS = ("int64", "float64", "bool")
"""Dtypes of features that a ranker can take."""

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Recommender:
    """A model that recommends items to users, learnt from what users did with items.

    Args:
        name: that of the registered model.
        stream: what users did with items; its events have the keys of both entities.
        user: whoever is recommended to.
        item: what is recommended.
        user_view: the features of a user.
        item_view: the features of an item.
        targets: kinds of events that can be predicted, the best first.
        weights: kind → what an event of it counts: more where the user gave more for it, below 0 where it takes
            something back. Other kinds count nothing; 1 for each target by default.
        kind: the field with the event's kind; None for a stream of events of one kind, which is the only target.
        catalogue: the view with the newest attributes of items; with one, only its items are recommended.
        available: attribute or feature of the catalogue → condition that a recommended item meets.
        session: the field that holds an event's session.
        session_kinds: kinds of events that say what a session is about; those that count above 0 by default.
        sources: candidate sources besides similar, popular and trending items and the user's own; None is training's.
        user_inputs: features of the user that the ranker takes; None takes all numeric ones.
        item_inputs: features of the item that the ranker takes; None takes all numeric ones.
        trending: feature of the item → weight; their sum ranks what is trending. By default a decayed count.
        popular: feature of the item → weight; their sum ranks what is popular. By default counts by kind.
        repeats: whether items that a user took are recommended again; None decides by the events.
        exclude: what a request leaves out unless it says otherwise: "bought", "seen".
        category: the item's category, a field of the stream or an attribute of items; so are the next three.
        price: its price.
        title: its title.
        brand: its brand.
        served: the stream of the served log (served_log()); without one, answers are not logged.
        default: whether requests that name no recommender are for this one, where there are several.
    """

    name: str
    stream: Stream
    user: Entity
    item: Entity
    user_view: FeatureView
    item_view: FeatureView
    targets: Sequence[str]
    weights: Mapping[str, float] | None = None
    kind: str | None = None
    catalogue: FeatureView | None = None
    available: Mapping[str, Any] | None = None
    session: str | None = None
    session_kinds: Sequence[str] | None = None
    sources: Sequence[Source] | None = None
    user_inputs: Sequence[str] | None = None
    item_inputs: Sequence[str] | None = None
    trending: Mapping[str, float] | None = None
    popular: Mapping[str, float] | None = None
    repeats: bool | None = None
    exclude: Sequence[str] = ()
    category: str | None = None
    price: str | None = None
    title: str | None = None
    brand: str | None = None
    served: Stream | None = None
    default: bool = False

    def __post_init__(self) -> None:
        check_model_name(self.name, f"recommender {self.name!r}")
        where = f"recommender '{self.name}'"
        if not isinstance(self.stream, Stream):
            raise DefinitionError(where, "stream=Stream(…)", repr(self.stream))
        self._check_entity("user", self.user, self.user_view, where)
        self._check_entity("item", self.item, self.item_view, where)
        self._check_kinds(where)
        self._check_catalogue(where)
        self._check_fields(where)
        self._check_inputs(where)
        self._check_choices(where)

    def _check_entity(self, role: str, entity: object, view: object, where: str) -> None:
        if not isinstance(entity, Entity) or not isinstance(view, FeatureView):
            raise DefinitionError(where, f"{role}=Entity(…) and {role}_view=FeatureView(…)", f"{entity!r}, {view!r}")
        if view.entity != entity:
            raise DefinitionError(where, f"a {role}_view of entity '{entity.name}'", f"one of '{view.entity.name}'")
        self.stream.check_keys(entity, where)

    def _check_kinds(self, where: str) -> None:
        targets = tuple(nonempty_list(self.targets, f"{where}: targets", "kind"))
        weights = dict.fromkeys(targets, 1.0) if self.weights is None else self.weights
        _check_weights(weights, f"{where}: weights", "kind")
        if len(set(targets)) < len(targets) or not all(isinstance(kind, str) for kind in targets):
            raise DefinitionError(f"{where}: targets", "kinds that differ, as texts", ", ".join(map(repr, targets)))
        wrong = [kind for kind in targets if weights.get(kind, 1.0) <= 0]
        if wrong:
            raise DefinitionError(f"{where}: targets", "kinds that count above 0", f"'{wrong[0]}': {weights[wrong[0]]}")
        liked = tuple(kind for kind, weight in weights.items() if weight > 0)
        given = (
            liked
            if self.session_kinds is None
            else nonempty_list(self.session_kinds, f"{where}: session_kinds", "kind")
        )
        freeze(
            self,
            targets=targets,
            weights=FrozenMap({kind: float(weight) for kind, weight in weights.items()}),
            session_kinds=tuple(given),
        )
        self._check_kind(where)

    def _check_kind(self, where: str) -> None:
        targets, weights = tuple(self.targets), self.counts
        if self.kind is None:
            if len(targets) > 1 or set(weights) - set(targets):
                required = "kind=, the field that tells kinds apart, or one target alone"
                raise DefinitionError(where, required, ", ".join({**dict.fromkeys(targets), **weights}))
            return
        field = self.stream.mapped.get(self.kind)
        if field is None or field.dtype != "string":
            got = "no such field" if field is None else field.dtype
            raise DefinitionError(f"{where}: kind", f"a field (string) of stream '{self.stream.name}'", got)
        for parameter, kinds in (("targets", targets), ("weights", weights), ("session_kinds", self.remembered_kinds)):
            unknown = [str(kind) for kind in kinds if field.enum is not None and kind not in field.enum]
            if unknown:
                required = f"kinds that '{self.kind}' has ({', '.join(field.enum or ())})"
                raise DefinitionError(f"{where}: {parameter}", required, ", ".join(unknown))

    def _check_catalogue(self, where: str) -> None:
        if self.catalogue is None:
            if self.available is not None:
                raise DefinitionError(where, "catalogue=FeatureView(…) beside available=", "none")
            return
        if not isinstance(self.catalogue, FeatureView) or self.catalogue.entity != self.item:
            raise DefinitionError(f"{where}: catalogue", f"a view of entity '{self.item.name}'", repr(self.catalogue))
        location = f"{where}: available"
        conditions = freeze_where(self.available, location)
        dtypes = {feature.name: feature.dtype for feature in self.catalogue.features}
        newest = attributes_of(self.catalogue)
        check_where(conditions, {**dtypes, **{name: feature.dtype for name, feature in newest.items()}}, location)
        freeze(self, available=conditions if self.available is not None else None)

    def _check_fields(self, where: str) -> None:
        if self.session is not None and self.stream.dtypes.get(self.session) != "string":
            got = self.stream.dtypes.get(self.session, "no such field")
            raise DefinitionError(f"{where}: session", f"a field (string) of stream '{self.stream.name}'", got)
        known = dict(self.stream.dtypes)
        for view in (self.item_view, self.catalogue):
            known |= {} if view is None else {name: feature.dtype for name, feature in attributes_of(view).items()}
        numbers = ("price",)
        for role in ("category", "price", "title", "brand"):
            name = getattr(self, role)
            dtypes = ("int64", "float64") if role in numbers else ("string",)
            if name is not None and known.get(name) not in dtypes:
                required = f"a field of '{self.stream.name}' or an attribute of items ({' or '.join(dtypes)})"
                raise DefinitionError(f"{where}: {role}", required, f"'{name}' ({known.get(name, 'unknown')})")

    def _check_inputs(self, where: str) -> None:
        for parameter, view in (("user_inputs", self.user_view), ("item_inputs", self.item_view)):
            if getattr(self, parameter) is not None:
                names = tuple(nonempty_list(getattr(self, parameter), f"{where}: {parameter}", "feature"))
                _check_numeric(names, view, f"{where}: {parameter}")
                if len(set(names)) < len(names):
                    raise DefinitionError(f"{where}: {parameter}", "features that differ", ", ".join(names))
                freeze(self, **{parameter: names})
        for parameter in ("trending", "popular"):
            weights = getattr(self, parameter)
            if weights is not None:
                _check_weights(weights, f"{where}: {parameter}", "feature")
                _check_numeric(weights, self.item_view, f"{where}: {parameter}")
                freeze(self, **{parameter: FrozenMap({name: float(weight) for name, weight in weights.items()})})

    def _check_choices(self, where: str) -> None:
        for parameter, choices in (("sources", SOURCES), ("exclude", EXCLUSIONS)):
            values = getattr(self, parameter)
            if values is None:
                continue
            if isinstance(values, str) or not isinstance(values, Sequence) or set(values) - set(choices):
                raise DefinitionError(f"{where}: {parameter}", f"a list of {', '.join(choices)}", repr(values))
            freeze(self, **{parameter: tuple(dict.fromkeys(values))})
        for parameter, allowed in (("repeats", (True, False, None)), ("default", (True, False))):
            if getattr(self, parameter) not in allowed:
                raise DefinitionError(f"{where}: {parameter}", "True or False", repr(getattr(self, parameter)))
        if self.served is not None and not (
            isinstance(self.served, Stream) and set(SERVED_FIELDS) <= set(self.served.dtypes)
        ):
            raise DefinitionError(f"{where}: served", "served_log(TOPIC)", repr(self.served))

    # --- the checked forms ---

    @property
    def counts(self) -> FrozenMap[float]:
        """Kind → what an event of it counts: the checked form of ``weights``."""
        return self.weights  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def remembered_kinds(self) -> tuple[str, ...]:
        """The kinds of events that say what a session is about: the checked form of ``session_kinds``."""
        return self.session_kinds  # type: ignore[return-value]  # __post_init__ made it a tuple

    @cached_property
    def user_features(self) -> tuple[str, ...]:
        """The features of the user that the ranker takes, in order."""
        return _inputs(self.user_view, self.user_inputs)

    @cached_property
    def item_features(self) -> tuple[str, ...]:
        """The features of the item that the ranker takes, in order."""
        return _inputs(self.item_view, self.item_inputs)

    @cached_property
    def availability(self) -> FrozenMap[Condition]:
        """Feature of the catalogue → the condition that a recommended item meets; empty for none."""
        if self.catalogue is None or self.available is None:
            return FrozenMap({})
        newest = attributes_of(self.catalogue)
        return FrozenMap(
            {newest[name].name if name in newest else name: condition for name, condition in self.available.items()}
        )

    @cached_property
    def recent_feature(self) -> str | None:
        """The user view's first list of the item's keys: the items of the user's last events."""
        (key,) = self.item.keys if len(self.item.keys) == 1 else (None,)
        lists = (feature for feature in self.user_view.aggregated if isinstance(feature.aggregation, LastK))
        return next((feature.name for feature in lists if getattr(feature.aggregation, "column", None) == key), None)

    @cached_property
    def trending_weights(self) -> Mapping[str, float]:
        """Feature of the item → weight of what is trending.

        By default the decayed count whose half-life is nearest to a day; none where the view has none.
        """
        if self.trending is not None:
            return self.trending
        decayed = {
            feature.name: abs(math.log(feature.aggregation.half_life_ms / DAY_MS))
            for feature in self.item_view.aggregated
            if isinstance(feature.aggregation, DecayedCount)
        }
        return {min(decayed, key=decayed.__getitem__): 1.0} if decayed else {}

    @cached_property
    def popular_weights(self) -> Mapping[str, float]:
        """Feature of the item → weight of what is popular.

        By default the longest count of each kind that counts above 0, by what it counts; else the longest count of all.
        """
        if self.popular is not None:
            return self.popular
        of_kind = {
            self._longest_count({self.kind: kind}): weight
            for kind, weight in self.counts.items()
            if self.kind is not None and weight > 0
        }
        found = {name: weight for name, weight in of_kind.items() if name is not None}
        every = self._longest_count({})
        return found or ({} if every is None else {every: 1.0})

    def _longest_count(self, where: Mapping[str | None, str]) -> str | None:
        counts = [
            (feature.window.length_ms, feature.name)
            for feature in self.item_view.aggregated
            if isinstance(feature.aggregation, Count)
            and feature.aggregation.column is None
            and not feature.aggregation.where
            and feature.window is not None
            and feature.feature_set is not None
            and dict(feature.feature_set.filter) == where
        ]
        return max(counts)[1] if counts else None


def attributes_of(view: FeatureView) -> dict[str, Feature]:
    """Attribute → the feature with its newest value, of the longest window: what requests filter by.

    An attribute is the column of a ``Last`` without a condition.
    """
    newest = [
        (feature.aggregation.column, feature)
        for feature in view.aggregated
        if isinstance(feature.aggregation, Last) and not feature.aggregation.where
    ]
    newest.sort(key=lambda entry: 0 if entry[1].window is None else entry[1].window.length_ms)
    return dict(newest)


def numeric_features(view: FeatureView) -> tuple[str, ...]:
    """The view's features that a ranker can take, in order."""
    return tuple(feature.name for feature in view.features if feature.dtype in INPUTS)


def _inputs(view: FeatureView, names: Sequence[str] | None) -> tuple[str, ...]:
    return numeric_features(view) if names is None else tuple(names)


def _check_weights(weights: object, where: str, key: str) -> None:
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise DefinitionError(where, f"a mapping of {key} to a number", repr(weights))
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise DefinitionError(f"{where}: '{name}'", "a number", repr(weight))


def _check_numeric(names: Iterable[str], view: FeatureView, where: str) -> None:
    numeric = numeric_features(view)
    if wrong := [str(name) for name in names if name not in numeric]:
        next_step = "'headrace features list' shows them."
        raise DefinitionError(where, f"numeric features of view '{view.name}'", ", ".join(wrong), next_step)
