"""What a change of definitions is said to mean, and whether the archive has what a rebuild needs."""

from __future__ import annotations

from dataclasses import replace

from features.definitions import Count, Entity, FeatureSet, FeatureView, Last, Stream, Sum, ratio
from features.definitions.changes import StreamHistory, plan_changes, rebuild_of

DAY = 24 * 60 * 60 * 1000
NOW = 100 * DAY
USER = Entity("user", keys={"user_id": "string"})
SHOP = Stream("shop", topic="t", fields={"user_id": "string", "kind": "string", "price": "float64"})
VIEWS = FeatureSet(USER, SHOP, [Count(), Sum("price")], ["1h", "24h"], where={"kind": "view"})
VIEW = FeatureView("by_user", sets=[VIEWS])


def plan(after: FeatureView):
    (one,) = plan_changes({"by_user": VIEW}, {"by_user": after})
    return one


def changed(**parts: object) -> FeatureView:
    return FeatureView("by_user", sets=[replace(VIEWS, **parts)])


def test_the_same_definitions_are_nothing_to_do():
    one = plan(FeatureView("by_user", sets=[replace(VIEWS)]))
    assert (one.status, one.rebuild, one.new, one.removed, one.changed, one.notes) == ("same", False, (), (), (), ())


def test_a_view_that_comes_is_built_and_one_that_goes_is_not():
    other = FeatureView("other", sets=[VIEWS])
    new, gone = plan_changes({"by_user": VIEW}, {"other": other})
    assert (new.view, new.status, new.rebuild, new.new) == ("other", "new", True, other.names)
    assert (gone.view, gone.status, gone.rebuild, gone.removed) == ("by_user", "removed", False, VIEW.names)


def test_a_window_that_comes_and_one_that_goes_are_new_and_removed_features():
    one = plan(changed(windows=["24h", "7d"]))
    assert (one.status, one.rebuild) == ("changed", True)
    assert set(one.new) == {"user_view_count_7d", "user_view_price_sum_7d"}
    assert set(one.removed) == {"user_view_count_1h", "user_view_price_sum_1h"}
    assert (one.renamed, one.changed) == ({}, ())


def test_a_name_alone_that_changes_is_a_renaming_and_the_rows_are_made_anew_as_models_go_by_names():
    one = plan(changed(name="looked"))
    assert one.renamed["user_view_count_1h"] == "user_looked_count_1h"
    assert len(one.renamed) == 4
    assert (one.rebuild, one.new, one.removed, one.changed) == (True, (), (), ())


def test_the_same_name_with_another_meaning_says_which_part_of_it_changed():
    one = plan(changed(where={"kind": "click"}, name="view"))
    assert {change.feature for change in one.changed} == set(VIEW.names)
    assert all(change.parts == ("where.kind: view → click",) for change in one.changed)
    assert one.rebuild


def test_a_derived_feature_is_new_without_a_rebuild():
    derived = {"share": ratio("user_view_count_1h", "user_view_count_24h")}
    one = plan(FeatureView("by_user", sets=[VIEWS], derived=derived))
    assert (one.status, one.rebuild, one.new) == ("changed", False, ("user_share",))


def test_another_ttl_is_told_and_needs_no_rebuild():
    one = plan(FeatureView("by_user", sets=[VIEWS], ttl="30d"))
    assert (one.status, one.rebuild) == ("changed", False)
    assert one.notes == (f"ttl_ms: {DAY} → {30 * DAY}",)


def test_a_version_that_changes_is_a_rebuild_of_the_same_features():
    one = plan(FeatureView("by_user", sets=[VIEWS], version=2))
    assert (one.rebuild, one.notes, one.changed) == (True, ("version: 1 → 2",), ())


def history(days: float, *columns: str) -> dict[str, StreamHistory]:
    return {"shop": StreamHistory(("user_id", "kind", *columns), 5_000, NOW - int(days * DAY), NOW)}


def test_a_rebuild_says_how_many_records_it_reads_and_that_nothing_is_lacking():
    columns = ("event_id", "event_time", "known_at", "partition", "offset", "price")
    found = rebuild_of(VIEW, history(2, *columns), NOW, 1_000.0)
    assert (found.rows, found.seconds, found.lacking) == (5_000, 5.0, ())


def test_a_rebuild_says_which_fields_and_how_much_time_the_archive_lacks():
    lines = rebuild_of(VIEW, history(0.5), NOW, 1_000.0).lacking
    assert "price" in lines[0]
    assert lines[1] == "stream 'shop' has 0.5 d of history of 1.0 d"
    assert "begin with today's events" in rebuild_of(VIEW, {}, NOW, 1_000.0).lacking[0]


def test_another_aggregation_of_the_same_column_is_not_taken_for_a_renaming():
    one = plan(changed(aggregations=[Count(), Last("price")]))
    assert one.renamed == {}
    assert set(one.new) == {"user_view_price_last_1h", "user_view_price_last_24h"}
