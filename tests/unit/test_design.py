"""docs/design.md names functions that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMED = re.compile(r"`((?:features|models|streaming|serving|training|headrace)(?:\.\w+){2,})`")


def names_in(document: str) -> list[str]:
    return sorted(set(NAMED.findall((DOCS / document).read_text("utf-8"))))


@pytest.mark.parametrize("name", names_in("design.md"))
def test_what_the_walks_name_is_there(name):
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part)
        return
    pytest.fail(f"no module of {name}")


def test_the_design_walks_through_the_code_three_times():
    text = (DOCS / "design.md").read_text("utf-8")
    walks = re.split(r"^\*\*.*\*\*$", text.split("## Three walks")[1].split("\n## ")[0], flags=re.MULTILINE)[1:]
    assert [len(NAMED.findall(walk)) >= 8 for walk in walks] == [True] * 3
