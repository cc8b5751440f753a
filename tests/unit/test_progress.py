"""What a training says while it goes on: lines, and on a terminal a bar."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from training.progress import SHARES, Stage, progress_display, reached


def test_a_line_that_begins_a_stage_is_the_line_for_those_who_only_read_it():
    stage = Stage("examples", "moments to learn from")
    assert (str(stage), stage.name, stage.done) == ("moments to learn from", "examples", 0.0)


def test_stages_come_one_after_the_other_and_end_with_the_last():
    found = [reached(Stage(name, "")) for name in SHARES]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert reached(Stage("registering", "", 1.0)) == 1.0
    half = reached(Stage("search", "", 0.5))
    assert reached(Stage("search", "")) < half < reached(Stage("dataset", ""))


def test_on_a_terminal_the_lines_stand_above_a_bar_that_is_gone_at_the_end():
    shown = StringIO()
    with progress_display(Console(file=shown, force_terminal=True, width=100)) as say:
        say("a sample: 5 of 9 events")
        say(Stage("ranker", "a ranker from [9] examples"))
    text = shown.getvalue()
    assert "a sample: 5 of 9 events" in text
    assert "a ranker from [9] examples" in text
    assert f"{100 * reached(Stage('ranker', '')):.0f}%" in text
    assert text.rstrip().endswith("\x1b[2K")


def test_elsewhere_there_are_plain_lines_on_stderr(capsys):
    with progress_display() as say:
        say(Stage("ranker", "a ranker from 9 examples"))
        say("and 3 that were shown")
    captured = capsys.readouterr()
    assert captured.err == "a ranker from 9 examples\nand 3 that were shown\n"
    assert captured.out == ""
