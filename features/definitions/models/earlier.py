"""Recommenders by the settings that were there before definitions: the one place with their names and defaults.

Where a feature repo defines no recommender, one is made of these defaults, if the repo has the stream and the views.
Names in the settings count over those of definitions, and a note says what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from features.definitions.models.recommenders import Recommender, numeric_features
from features.definitions.streams import SERVED_FIELDS, Stream
from features.definitions.views import FeatureView
from features.errors import DefinitionError, UsageError

D = TypeVar("D", Stream, FeatureView)

REPLACED_SETTINGS = {
    "name": "name",
    "stream": "stream",
    "user_view": "user_view",
    "item_view": "item_view",
    "targets": "targets",
    "weights": "weights",
    "sources": "sources",
    "repeats": "repeats",
    "category_field": "category",
    "price_field": "price",
    "served_stream": "served",
}
"""Key of the section [training] → the parameter of Recommender(…) that replaces it."""

REPLACED_NAMES = ("name", "stream", "user_view", "item_view", "category_field", "price_field", "served_stream")
"""Those of them that name something; the others are values, which training reads itself."""

USUAL = {
    "name": "shop-recommender",
    "stream": "activity",
    "user_view": "user_activity",
    "item_view": "item_activity",
    "category_field": "category",
    "price_field": "price",
    "served_stream": "served",
}
KIND, SESSION, CATALOGUE = "event_type", "session_id", "item_catalogue"
TARGETS = ("purchase", "rating", "cart", "click", "view")
WEIGHTS = {
    "view": 0.2,
    "click": 0.2,
    "favorite": 0.4,
    "cart": 0.5,
    "rating": 1.0,
    "purchase": 1.0,
    "remove": -0.3,
    "return": -1.0,
    "dislike": -1.0,
}
TRENDING = {"item_engaged_decayed_count_24h_30d": 1.0}
POPULAR = {"item_purchase_count_30d": 10.0, "item_cart_count_30d": 3.0, "item_view_count_30d": 1.0}


@dataclass(frozen=True)
class ChosenRecommenders:
    """The recommenders of a project, by name, and what is said of settings that definitions replace."""

    by_name: Mapping[str, Recommender]
    notes: tuple[str, ...] = ()

    @property
    def default(self) -> Recommender | None:
        """The only one, or the one that is marked as the default; None without."""
        marked = [one for one in self.by_name.values() if one.default or len(self.by_name) == 1]
        return marked[0] if marked else None

    def named(self, name: str | None, where: str) -> Recommender:
        """The recommender of this name, or the default. Raises UsageError where there is none."""
        found = self.default if name is None else self.by_name.get(name)
        if found is None:
            known = ", ".join(self.by_name) or "none: the feature repo defines no Recommender(…)"
            raise UsageError(where, f"the name of a recommender ({known})", "none" if name is None else repr(name))
        return found


def replaced_names(written: Mapping[str, Any]) -> dict[str, str]:
    """The names in the section [training] that count over those of the default recommender's definition."""
    return {key: str(value) for key, value in written.items() if key in REPLACED_NAMES}


def chosen_recommenders(
    defined: Mapping[str, Recommender],
    streams: Mapping[str, Stream],
    views: Mapping[str, FeatureView],
    written: Mapping[str, Any] | None = None,
) -> ChosenRecommenders:
    """The defined recommenders, the default one by the names in the settings; one of the usual names without any.

    Args:
        written: the section [training] of the settings, as it is written.

    Raises:
        UsageError: the settings name what the repo lacks.
    """
    names = replaced_names(written or {})
    replaced = [key for key in REPLACED_SETTINGS if key in (written or {})]
    default = ChosenRecommenders(defined).default
    if defined and default is None:
        if replaced:
            listed = ", ".join(defined)
            raise UsageError(f"[training] {', '.join(replaced)}", "a default recommender that they are of", listed)
        return ChosenRecommenders(defined)
    if default is not None:
        fresh = with_names(default, names, streams, views)
        note = (_replaced_note(replaced, fresh.name),) if replaced else ()
        every = (fresh if one is default else one for one in defined.values())
        return ChosenRecommenders({one.name: one for one in every}, note)
    made = _usual(names, streams, views)
    if made is None:
        return ChosenRecommenders({})
    return ChosenRecommenders({made.name: made}, (_undefined_note(made, replaced),))


def _replaced_note(replaced: Sequence[str], name: str) -> str:
    parameters = ", ".join(f"{REPLACED_SETTINGS[key]}=" for key in replaced)
    return (
        f"[training] {', '.join(replaced)}: write {parameters} of Recommender('{name}', …) in the feature repo instead"
    )


def _undefined_note(made: Recommender, replaced: Sequence[str]) -> str:
    """The note of a recommender that the settings and the usual names make."""
    by = f"the usual names and [training] {', '.join(replaced)}" if replaced else "the usual names"
    define = f"define Recommender('{made.name}', stream=…, user_view=…, …) in the feature repo"
    return f"recommender '{made.name}' is made of {by} (stream '{made.stream.name}'): {define} instead"


def with_names(
    recommender: Recommender, names: Mapping[str, str], streams: Mapping[str, Stream], views: Mapping[str, FeatureView]
) -> Recommender:
    """The recommender by these of REPLACED_NAMES. Raises UsageError for what the repo lacks, or does not fit."""
    changed: dict[str, Any] = {"name": names["name"]} if "name" in names else {}
    if "stream" in names:
        changed["stream"] = _found(streams, names["stream"], "stream")
    for role in ("user", "item"):
        if f"{role}_view" in names:
            view = _found(views, names[f"{role}_view"], "feature view")
            changed |= {role: view.entity, f"{role}_view": view, f"{role}_inputs": None}
    if "item_view" in changed:
        changed |= {"trending": None, "popular": None}
    changed |= {REPLACED_SETTINGS[key]: names[key] or None for key in ("category_field", "price_field") if key in names}
    if "served_stream" in names:
        changed["served"] = streams.get(names["served_stream"])
    try:
        return replace(recommender, **changed) if changed else recommender
    except DefinitionError as error:
        raise UsageError(error.where, error.required, error.got, error.next_step) from error


def _found(definitions: Mapping[str, D], name: str, kind: str) -> D:
    if name not in definitions:
        raise UsageError(f"training's {kind}", f"one of {', '.join(definitions) or 'none'}", repr(name))
    return definitions[name]


def _usual(
    names: Mapping[str, str], streams: Mapping[str, Stream], views: Mapping[str, FeatureView]
) -> Recommender | None:
    """The recommender of the usual names under those of the settings; None where the repo lacks a usual one."""
    named = {**USUAL, **names}
    lacking = (named["stream"] not in streams) or any(named[key] not in views for key in ("user_view", "item_view"))
    if lacking and not set(names) & {"stream", "user_view", "item_view"}:
        return None
    stream = _found(streams, named["stream"], "stream")
    user, item = (_found(views, named[f"{role}_view"], "feature view") for role in ("user", "item"))
    kinds = stream.mapped[KIND].enum if KIND in stream.mapped else None
    numeric = numeric_features(item)
    category, price = named["category_field"], named["price_field"]
    served, catalogue = streams.get(named["served_stream"]), views.get(CATALOGUE)
    try:
        return Recommender(
            named["name"],
            stream,
            user.entity,
            item.entity,
            user,
            item,
            targets=[kind for kind in TARGETS if kinds is None or kind in kinds] or TARGETS,
            weights={kind: weight for kind, weight in WEIGHTS.items() if kinds is None or kind in kinds},
            kind=KIND,
            catalogue=catalogue if catalogue is not None and catalogue.entity == item.entity else None,
            session=SESSION if stream.dtypes.get(SESSION) == "string" else None,
            trending={name: weight for name, weight in TRENDING.items() if name in numeric} or None,
            popular={name: weight for name, weight in POPULAR.items() if name in numeric} or None,
            category=category if stream.dtypes.get(category) == "string" else None,
            price=price if stream.dtypes.get(price) == "float64" else None,
            served=served if served is not None and set(SERVED_FIELDS) <= set(served.dtypes) else None,
        )
    except DefinitionError as error:
        if names:
            raise UsageError(error.where, error.required, error.got, error.next_step) from error
        return None
