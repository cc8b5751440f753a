"""What trains and serves knows no word of the shop: a trade's names are in its feature repo alone."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from source_tree import modules, relative

from features.definitions.repo import load_repo

SHOP = load_repo(Path(__file__).parents[2] / "feature_repo" / "shop.py")
ENGINE = ("training", "serving", "models", "headrace/commands/models")

INTERFACE = {"user_id", "session_id", "item_id", "recommendation_id", "position", "view", "search", "item", "user"}
"""Words of the shop's that HTTP, the served log and metrics have as their own, or that commands are called by."""

ELSEWHERE = {
    "training/protocols/ranklens.py": "reads a file whose format is mapped to the shop's streams",
    "training/protocols/fraud_handbook.py": "is of card payments",
    "serving/http/schema.py": "shows examples of requests",
}
ROLES = {
    "models/recommender/arrays.py": {"category", "price"},
    "training/protocols/new_items.py": {"category"},
    "serving/http/problems.py": {"title"},
    "training/settings.py": {"served"},
    "training/recommender/fit.py": {"served"},
    "headrace/commands/models/train.py": {"served"},
    "serving/server/__init__.py": {"served"},
}
"""Names of a role in an artefact's files and in a report, a field of RFC 9457, a way to train, a function."""


def words_of_the_shop() -> set[str]:
    """The names of its recommender, streams, views, fields, kinds and features."""
    words = {*SHOP.recommenders, *SHOP.streams, *SHOP.views}
    for stream in SHOP.streams.values():
        fields = {} if stream.name == "served" else stream.mapped
        words |= {*fields, *([] if stream.name == "served" else stream.dtypes)}
        words |= {kind for field in fields.values() for kind in field.enum or ()}
    return (words | {name for view in SHOP.views.values() for name in view.names}) - INTERFACE


def literals(path: Path) -> list[tuple[int, str]]:
    """The line and the text of each string literal of the module that stands for itself."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    plain = [
        token
        for token in tokens
        if token.type == tokenize.STRING and "f" not in re.split("['\"]", token.string)[0].lower()
    ]
    return [(token.start[0], str(ast.literal_eval(token.string))) for token in plain]


def test_the_words_are_those_that_the_definitions_have():
    assert {
        "activity",
        "user_activity",
        "event_type",
        "purchase",
        "category",
        "shop-recommender",
    } <= words_of_the_shop()


def test_what_trains_and_serves_has_no_word_of_the_shop():
    words = words_of_the_shop()
    found = {
        f"{relative(path)}:{line}": text
        for path in modules(*ENGINE)
        if relative(path) not in ELSEWHERE
        for line, text in literals(path)
        if text in words - ROLES.get(relative(path), set())
    }
    assert found == {}
