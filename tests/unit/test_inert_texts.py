"""Texts of strangers, wherever they are shown: no character steers the terminal, the order of reading, or a log."""

from __future__ import annotations

import ast
import json
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.redaction import inert, inert_json, inert_line, redact_output
from headrace.commands.stream.alerts import line_of
from headrace.console import aligned, echo, print_json
from serving.http.problems import field_problem, problem_of

COMMANDS = Path(__file__).parents[2] / "headrace" / "commands"

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HOSTILE = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "a\rb",
    "\x08" * 9,
    "\x00",
    "\x7f",
    f"evil{BIDI}",
    "\u2028line",
    "\ud800",
    "\U000e0041",
    "\ufeff",
]
TEXTS = st.sampled_from(HOSTILE) | st.text() | st.text(st.sampled_from("a\x1b\x9b\r\n\t\u202e\ud800é日👩"))


def steers(text: str) -> bool:
    """Whether a terminal would do more than show the text, line by line and from left to right."""
    return any(
        (unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one not in "\n\t")
        or unicodedata.bidirectional(one) in ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI")
        or one in BIDI
        for one in text
    )


@given(TEXTS)
def test_nothing_that_is_shown_steers_and_what_is_plain_stays(text):
    assert not steers(inert(text))
    assert inert(inert(text)) == inert(text)
    assert "\n" not in inert_line(text)
    assert not steers(inert_line(text))
    if text.isprintable():
        assert inert_line(text) == text


def test_what_was_there_can_be_told():
    assert inert("a\x1b[2Jb\u202e") == r"a\x1b[2Jb\u202e"
    assert inert("a\nb\tc") == "a\nb\tc"
    assert inert_line("a\nb") == r"a\nb"
    assert inert("שלום 日本 👩‍🚀 می‌خواهم") == "שלום 日本 👩‍🚀 می‌خواهم"


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_json_has_the_same_value_and_steers_nothing(value):
    text = inert_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert not steers(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_every_way_out_of_a_command_is_inert(text, capsys):
    echo(text)
    echo(text, err=True)
    print_json({text: [text]})
    echo("\n".join(aligned(["name", text], [[text, "b"]])))
    said = capsys.readouterr()
    assert not steers(said.out + said.err)


@given(TEXTS)
def test_a_cell_of_a_table_is_in_one_line(text):
    assert len(aligned(["a", "b"], [[text, "b"]])) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_a_problem_is_inert_and_has_the_text(text):
    response = problem_of(field_problem("user_id", "another", text))
    assert response is not None
    assert not steers(bytes(response.body).decode())


@pytest.mark.parametrize("text", [*HOSTILE, "a\n2026-01-01 ERROR forged"])
def test_a_log_record_is_one_line_that_steers_nothing(text, monkeypatch):
    made = logging.getLogRecordFactory()
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("threading.excepthook", None)
    try:
        redact_output()
        record = logging.getLogRecordFactory()("a", logging.INFO, "", 0, "refused reason=%s", (text,), None)
        assert "\n" not in record.getMessage()
        assert not steers(record.getMessage())
    finally:
        logging.setLogRecordFactory(made)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_an_alert_is_inert(text):
    reason = {"feature": text, "value": None, "usual": None}
    alert = {"event_id": text, "source": text, "score": None, "reasons": [reason]}
    assert not steers(inert_line(str(line_of(alert))))


def test_commands_show_texts_through_the_console_alone():
    """A progress line that returns to its beginning is the one exception."""
    found = [
        f"{path.relative_to(COMMANDS)}: {ast.unparse(node)[:18]}"
        for path in sorted(COMMANDS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print")
    ]
    assert found == ["stream/import_.py: click.echo(f'\\r{su"]
