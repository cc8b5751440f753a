"""Loading a feature repo: by path, without a trace, and with the file and line of what is wrong."""

import sys
from pathlib import Path

import pytest

from features.definitions.repo import load_repo
from features.errors import DefinitionError, UsageError

ROOT = Path(__file__).parents[2]
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SHOP = """
from features.aggregates import Count
from features.definitions import Entity, FeatureSet, FeatureView, Stream

user = Entity("user", keys={"user_id": "string"})
clicks = Stream("clicks", topic="clicks", fields={"user_id": "string"})
views = [
    FeatureView("short", sets=[FeatureSet(user, clicks, [Count()], ["1h"])]),
    FeatureView("long", sets=[FeatureSet(user, clicks, [Count()], ["7d"])]),
]
"""


def repo(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


DOMAINS = {
    "shop": ("user_activity", "item_activity", "item_catalogue"),
    "cards": ("customer_spending", "customer_recent", "terminal_risk"),
    "machines": ("sensor_habits",),
    "rides": ("zone_now", "route_times", "origins", "destinations"),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_domain_of_the_repo_loads_by_itself_and_beside_the_others(domain: str) -> None:
    alone, every = load_repo(ROOT / "feature_repo" / f"{domain}.py"), load_repo(ROOT / "feature_repo")
    assert set(alone.views) == set(DOMAINS[domain])
    assert set(every.views) == {name for names in DOMAINS.values() for name in names}
    for kind in ("entities", "streams", "views", "models", "recommenders"):
        assert getattr(alone, kind).items() <= getattr(every, kind).items()


def test_a_domain_is_defined_in_less_than_eighty_lines() -> None:
    lines = {
        path.stem: len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "feature_repo").glob("*.py")
        if path.stem != "shop"
    }
    assert max(lines.values()) < 80, lines


def test_the_views_of_the_shop_are_of_a_size_that_a_ranker_can_use() -> None:
    views = load_repo(ROOT / "feature_repo").views
    assert all(40 <= len(views[name].names) <= 60 for name in ("user_activity", "item_activity"))


def test_definitions_in_lists_and_those_that_a_view_uses_are_found(tmp_path: Path) -> None:
    hidden = SHOP.replace("user = ", "_pair = (user := ").replace('"string"})\nclicks', '"string"}),)\nclicks')
    loaded = load_repo(repo(tmp_path, shop=hidden))
    assert (list(loaded.entities), list(loaded.streams), list(loaded.views)) == (
        ["user"],
        ["clicks"],
        ["short", "long"],
    )


def test_a_streams_horizon_is_that_of_the_longest_view_which_reads_it(tmp_path: Path) -> None:
    idle = "from features.definitions import Stream\nidle = Stream('idle', topic='idle', fields={'a': 'string'})"
    loaded = load_repo(repo(tmp_path, shop=SHOP, idle=idle))
    assert loaded.horizon_ms("clicks") == 7 * DAY_MS
    assert loaded.horizon_ms("idle") is None
    assert [view.name for view in loaded.reading("clicks")] == ["short", "long"]


def test_files_of_a_repo_import_from_each_other_with_a_dot(tmp_path: Path) -> None:
    loaded = load_repo(repo(tmp_path, a_first="from .shop import user\nours = user", shop=SHOP))
    assert list(loaded.entities) == ["user"]


def test_a_bare_import_of_a_sibling_is_answered_with_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"other\.py:1 .*No module named 'shop'.*from \.shop import"):
        load_repo(repo(tmp_path, other="from shop import user", shop=SHOP))


def test_loading_leaves_no_trace_in_python_or_in_the_folder(tmp_path: Path) -> None:
    path, modules, finders = list(sys.path), set(sys.modules), list(sys.meta_path)
    load_repo(repo(tmp_path, shop=SHOP))
    with pytest.raises(DefinitionError):
        load_repo(repo(tmp_path, broken="1 / 0"))
    assert (sys.path, set(sys.modules), sys.meta_path) == (path, modules, finders)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["broken.py", "shop.py"]


def test_a_module_of_the_repo_never_hides_one_of_pythons(tmp_path: Path) -> None:
    load_repo(repo(tmp_path, json="import json\nassert json.loads('1') == 1"))


def test_two_repos_with_a_file_of_one_name_never_meet(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    repo(first, shop=SHOP)
    repo(second, shop=SHOP.replace("7d", "30d"))
    assert load_repo(first).horizon_ms("clicks") == 7 * DAY_MS
    assert load_repo(second).horizon_ms("clicks") == 30 * DAY_MS


def test_an_edit_in_the_same_second_and_of_the_same_length_is_seen(tmp_path: Path) -> None:
    assert load_repo(repo(tmp_path, shop=SHOP)).horizon_ms("clicks") == 7 * DAY_MS
    assert load_repo(repo(tmp_path, shop=SHOP.replace("7d", "8d"))).horizon_ms("clicks") == 8 * DAY_MS


def test_a_user_may_write_dataclasses_in_a_repo(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text += "@dataclass\nclass Price:\n    cents: int\n"
    assert not load_repo(repo(tmp_path, shop=text)).views


def test_one_definition_in_two_files_is_one(tmp_path: Path) -> None:
    assert list(load_repo(repo(tmp_path, one=SHOP, two=SHOP)).views) == ["short", "long"]


@pytest.mark.parametrize(
    ("was", "becomes", "what"),
    [
        ('keys={"user_id": "string"}', 'keys={"clicks": "int64"}', "entity 'user'"),
        ('topic="clicks"', 'topic="other"', "stream 'clicks'"),
        ('["7d"]', '["8d"]', "feature view 'long'"),
    ],
)
def test_two_meanings_of_one_name_are_refused_with_both_files(
    tmp_path: Path, was: str, becomes: str, what: str
) -> None:
    other = SHOP.replace(was, becomes).replace('"user_id"', '"clicks"' if "keys" in was else '"user_id"')
    other = other.replace('"clicks": "string"', '"clicks": "int64"')
    with pytest.raises(DefinitionError) as caught:
        load_repo(repo(tmp_path, one=SHOP, two=other))
    assert what in caught.value.where
    assert "two.py" in caught.value.where
    assert "one.py" in caught.value.got


def test_two_meanings_of_one_name_in_one_file_are_refused(tmp_path: Path) -> None:
    text = SHOP + '\nagain = Stream("clicks", topic="other", fields={"user_id": "string"})'
    with pytest.raises(DefinitionError, match="stream 'clicks'"):
        load_repo(repo(tmp_path, shop=text))


@pytest.mark.parametrize(
    ("text", "line", "got"),
    [
        ("import nothing_of_that_name", 1, "No module named 'nothing_of_that_name'"),
        ("x = 1\n\ny = x +", 3, "SyntaxError"),
        ("\n\n1 / 0", 3, "ZeroDivisionError"),
        ("def f():\n    raise KeyError('deep')\n\nf()", 2, "deep"),
        ("raise SystemExit(3)", 1, "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(tmp_path: Path, text: str, line: int, got: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_repo(repo(tmp_path, shop=text))
    assert caught.value.where == f"{tmp_path / 'shop.py'}:{line}"
    assert got in caught.value.got


def test_a_wrong_definition_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_repo(repo(tmp_path, shop=SHOP.replace('"7d"', '"a week"')))
    assert caught.value.where.startswith(f"{tmp_path / 'shop.py'}:9: a window")
    assert caught.value.got == "'a week'"


def test_a_repo_that_is_not_there_or_empty_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing there"):
        load_repo(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"at least one \*.py file"):
        load_repo(tmp_path)
