"""Recommenders as data: what a definition may say, which one is the default, and what earlier settings come to."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from features.definitions import (
    Count,
    DecayedCount,
    Entity,
    FeatureSet,
    FeatureView,
    Last,
    LastK,
    Recommender,
    Stream,
    above,
)
from features.definitions.repo import load_repo
from features.errors import DefinitionError, UsageError

SHOP = Path(__file__).parents[2] / "feature_repo" / "shop.py"
REPO = load_repo(SHOP)
DEFINED = REPO.recommenders["shop-recommender"]

LISTENER = Entity("listener", keys={"who": "int64"})
SONG = Entity("song", keys={"song": "string"})
PLAYS = Stream(
    "plays",
    topic="plays",
    fields={"who": "int64", "song": "string", "what": "string", "genre": "string", "tab": "string"},
)
SONGS = Stream("songs", topic="songs", fields={"song": "string", "genre": "string", "licences": "int64"})
LISTENERS = FeatureView("listeners", sets=[FeatureSet(LISTENER, PLAYS, [Count(), LastK("song", 5)], ["7d"])])
CHARTS = FeatureView(
    "charts",
    sets=[
        FeatureSet(SONG, PLAYS, [Count()], ["1h", "7d"], where={"what": "heard"}),
        FeatureSet(SONG, PLAYS, [Count()], ["7d"], where={"what": "skipped"}),
        FeatureSet(SONG, PLAYS, [Count(), DecayedCount("1h"), DecayedCount("2d")], ["7d"]),
    ],
)
SHELF = FeatureView("shelf", sets=[FeatureSet(SONG, SONGS, [Last("genre"), Last("licences")], ["365d"])])

MUSIC = Recommender(
    "music",
    stream=PLAYS,
    user=LISTENER,
    item=SONG,
    user_view=LISTENERS,
    item_view=CHARTS,
    kind="what",
    weights={"heard": 1.0, "skipped": -0.5},
    targets=["heard"],
)


# --- what a definition says -------------------------------------------------------------------------------------------


def test_the_repo_has_the_recommender_of_the_shop_and_what_it_names():
    assert list(REPO.recommenders) == ["shop-recommender"]
    assert DEFINED.stream == REPO.streams["activity"]
    assert DEFINED.recent_feature == "user_engaged_item_id_last_10_7d"
    assert REPO.chosen_recommenders().default == DEFINED
    assert REPO.chosen_recommenders().notes == ()


def test_the_definition_of_the_shop_is_what_the_usual_names_come_to():
    """Titles and brands are new; the kinds that it leaves out are no kinds of its stream."""
    without = replace(REPO, recommenders={}).chosen_recommenders().default
    known = {"title": "title", "brand": "brand"}
    assert without is not None
    assert dict(without.counts) == dict(DEFINED.counts)
    assert replace(without, weights=DEFINED.weights, session_kinds=DEFINED.session_kinds, **known) == DEFINED


def test_all_numeric_features_are_inputs_unless_the_definition_names_them():
    assert DEFINED.user_features == tuple(
        feature.name for feature in DEFINED.user_view.features if feature.dtype in ("int64", "float64")
    )
    assert replace(MUSIC, item_inputs=["song_count_7d"]).item_features == ("song_count_7d",)


def test_kinds_that_count_say_what_a_session_is_about_unless_the_definition_does():
    assert MUSIC.remembered_kinds == ("heard",)
    assert replace(MUSIC, session_kinds=["heard", "skipped"]).remembered_kinds == ("heard", "skipped")


def test_what_is_popular_and_trending_follows_from_kinds_and_counts():
    assert dict(MUSIC.popular_weights) == {"song_heard_count_7d": 1.0}
    assert dict(MUSIC.trending_weights) == {"song_decayed_count_2d_7d": 1.0}
    assert dict(replace(MUSIC, popular={"song_count_7d": 3}).popular_weights) == {"song_count_7d": 3.0}


def test_events_of_one_kind_need_no_field_of_kinds():
    one = replace(MUSIC, kind=None, weights=None, session_kinds=None)
    assert (dict(one.counts), one.remembered_kinds) == ({"heard": 1.0}, ("heard",))
    assert dict(one.popular_weights) == {"song_count_7d": 1.0}


def test_availability_is_by_features_of_the_catalogue_whatever_the_definition_calls_them():
    by_attribute = replace(MUSIC, catalogue=SHELF, available={"licences": above(0)})
    by_feature = replace(MUSIC, catalogue=SHELF, available={"song_licences_last_365d": above(0)})
    assert dict(by_attribute.availability) == dict(by_feature.availability) == {"song_licences_last_365d": above(0)}
    assert dict(replace(MUSIC, catalogue=SHELF).availability) == {}


def test_definitions_are_equal_and_hash_by_what_they_say():
    assert replace(MUSIC) == MUSIC
    assert hash(replace(MUSIC)) == hash(MUSIC)
    assert replace(MUSIC, repeats=False) != MUSIC


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "no name"}, "letters"),
        ({"stream": "plays"}, "Stream"),
        ({"user": SONG}, "user_view of entity 'song'; got one of 'listener'"),
        ({"item": "song"}, "item=Entity"),
        ({"item_view": LISTENERS}, "item_view of entity 'song'"),
        ({"stream": SONGS}, "field 'who' \\(int64\\) in stream 'songs'"),
        ({"kind": "wat"}, "a field \\(string\\) of stream 'plays'"),
        ({"kind": "who"}, "a field \\(string\\) of stream 'plays'"),
        ({"kind": None}, "kind="),
        ({"targets": []}, "at least one kind"),
        ({"targets": "heard"}, "at least one kind"),
        ({"targets": ["heard", "heard"]}, "differ"),
        ({"targets": ["skipped"]}, "count above 0"),
        ({"weights": ["heard"]}, "mapping of kind"),
        ({"weights": {"heard": "much"}}, "'heard' requires a number"),
        ({"weights": {"heard": float("nan")}}, "a number"),
        ({"weights": {"heard": True}}, "a number"),
        ({"session_kinds": []}, "at least one kind"),
        ({"session": "who"}, "session requires a field \\(string\\)"),
        ({"session": "sid"}, "no such field"),
        ({"catalogue": LISTENERS}, "a view of entity 'song'"),
        ({"available": {"licences": above(0)}}, "catalogue="),
        ({"catalogue": SHELF, "available": {"licence": above(0)}}, "known columns"),
        ({"catalogue": SHELF, "available": {"genre": above(0)}}, "condition on string"),
        ({"sources": ["magic"]}, "together"),
        ({"exclude": "seen"}, "bought, seen"),
        ({"exclude": ["watched"]}, "bought, seen"),
        ({"user_inputs": ["song_count_7d"]}, "numeric features of view 'listeners'"),
        ({"user_inputs": ["listener_song_last_5_7d"]}, "numeric features"),
        ({"item_inputs": ["song_count_7d", "song_count_7d"]}, "differ"),
        ({"trending": {"nothing": 1.0}}, "trending requires numeric features"),
        ({"popular": ["song_count_7d"]}, "mapping of feature"),
        ({"category": "tempo"}, "category requires a field of 'plays' or an attribute"),
        ({"price": "genre"}, "price requires"),
        ({"repeats": "yes"}, "True or False"),
        ({"served": PLAYS}, "served_log"),
        ({"default": "yes"}, "True or False"),
    ],
)
def test_a_wrong_definition_says_where_what_is_required_and_what_came(changed, said):
    with pytest.raises(DefinitionError, match=said):
        replace(MUSIC, **{"session_kinds": None, **changed})


def test_a_kind_that_the_field_does_not_have_is_refused():
    with pytest.raises(DefinitionError, match="weights requires kinds that 'event_type' has"):
        replace(DEFINED, weights={**DEFINED.counts, "purchse": 1.0}, session_kinds=None)


def test_the_example_of_the_documents_loads(tmp_path: Path):
    text = (SHOP.parents[1] / "docs" / "recommenders.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "library.py").write_text("".join(code), encoding="utf-8")
    (library,) = load_repo(tmp_path).recommenders.values()
    assert dict(library.popular_weights) == {"book_count_30d": 1.0}
    assert dict(library.availability) == {"book_copies_last_365d": above(0)}


# --- several in a repo ------------------------------------------------------------------------------------------------


def loaded(tmp_path: Path, more: str):
    (tmp_path / "shop.py").write_text(SHOP.read_text(encoding="utf-8") + more, encoding="utf-8")
    return load_repo(tmp_path)


SECOND = "\nfrom dataclasses import replace\nsecond = replace(recommender, name='second', targets=['view']{more})\n"


def test_of_several_one_is_the_default_where_it_is_marked(tmp_path: Path):
    repo = loaded(tmp_path, SECOND.format(more=", default=True"))
    assert list(repo.recommenders) == ["shop-recommender", "second"]
    chosen = repo.chosen_recommenders()
    assert chosen.default == repo.recommenders["second"]
    assert chosen.named("shop-recommender", "x") == DEFINED


def test_of_several_without_a_mark_none_is_the_default(tmp_path: Path):
    chosen = loaded(tmp_path, SECOND.format(more="")).chosen_recommenders()
    assert chosen.default is None
    with pytest.raises(UsageError, match=r"the name of a recommender \(shop-recommender, second\); got none"):
        chosen.named(None, "headrace train")
    with pytest.raises(UsageError, match="got 'third'"):
        chosen.named("third", "headrace train")


def test_two_defaults_and_two_meanings_of_a_name_are_refused(tmp_path: Path):
    marked = SECOND.format(more=", default=True") + "third = replace(second, name='third')\n"
    with pytest.raises(DefinitionError, match="at most one recommender with default=True; got second, third"):
        loaded(tmp_path, marked)
    with pytest.raises(DefinitionError, match=r"recommender 'shop-recommender' in .* one meaning"):
        loaded(tmp_path, "\nfrom dataclasses import replace\nagain = replace(recommender, repeats=True)\n")


# --- earlier settings -------------------------------------------------------------------------------------------------


def test_names_in_the_settings_count_over_the_definition_and_a_note_says_what_replaces_them():
    chosen = REPO.chosen_recommenders({"name": "books", "category_field": "", "weights": {"view": 1}, "k": 20})
    assert chosen.default == replace(DEFINED, name="books", category=None)
    (note,) = chosen.notes
    assert "[training] name, weights, category_field" in note
    assert "name=, weights=, category= of Recommender('books', …)" in note


def test_a_repo_without_a_recommender_has_one_of_the_usual_names_and_a_note_says_so():
    chosen = replace(REPO, recommenders={}).chosen_recommenders()
    assert list(chosen.by_name) == ["shop-recommender"]
    assert "define Recommender('shop-recommender'" in chosen.notes[0]


def test_a_repo_without_the_usual_stream_has_no_recommender_unless_the_settings_name_its_own():
    cards = load_repo(SHOP.parent / "cards.py")
    assert cards.chosen_recommenders().by_name == {}
    with pytest.raises(UsageError, match="training's stream requires one of transactions, fraud_labels; got 'nope'"):
        cards.chosen_recommenders({"stream": "nope"})


def test_settings_name_a_view_that_the_repo_lacks():
    with pytest.raises(UsageError, match=r"training's feature view requires one of .*; got 'nope'"):
        REPO.chosen_recommenders({"item_view": "nope"})
