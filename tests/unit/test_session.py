"""What the connection to Spark's Java says of its end is kept, and not told to a person."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streaming.spark.session import log_gateway


def test_what_the_connection_to_java_says_is_in_the_newest_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("py4j")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    log_gateway(first)
    logging.getLogger("py4j.clientserver").error("one")
    log_gateway(second)
    logging.getLogger("py4j.clientserver").error("two")
    log_gateway(tmp_path / "unused.log")
    assert (first.read_text(), second.read_text()) == ("one\n", "two\n")
    assert capsys.readouterr().err == ""
