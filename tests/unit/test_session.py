"""What the connection to Spark's Java says of its end is kept, and not told to a person."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

import pytest
from py4j.java_gateway import GatewayClient, GatewayParameters

from streaming.spark.session import redirect_py4j_log


def test_what_the_connection_to_java_says_is_in_the_newest_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("py4j")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    redirect_py4j_log(first)
    logging.getLogger("py4j.clientserver").error("one")
    redirect_py4j_log(second)
    logging.getLogger("py4j.clientserver").error("two")
    redirect_py4j_log(tmp_path / "unused.log")
    assert (first.read_text(), second.read_text()) == ("one\n", "two\n")
    assert capsys.readouterr().err == ""


def test_a_call_that_java_does_not_answer_is_a_traceback_in_the_file_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Py4j logs this one by the root logger, which no setting of its own logger holds back."""
    monkeypatch.setattr(logging.getLogger("py4j"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("py4j"), "propagate", True)
    monkeypatch.setattr(logging.getLogger(), "filters", [])
    redirect_py4j_log(tmp_path / "gateway.log")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_hang_up, args=[server], daemon=True).start()
        client = GatewayClient(gateway_parameters=GatewayParameters(port=server.getsockname()[1]))
        assert client.send_command("call\n") == "x"
    redirect_py4j_log(tmp_path / "unused.log")
    logged = (tmp_path / "gateway.log").read_text(encoding="utf-8")
    assert "Exception while sending command.\nTraceback" in logged
    assert caplog.records == []


def _hang_up(server: socket.socket) -> None:
    for _ in range(2):
        connection, _ = server.accept()
        with connection:
            connection.recv(1_000)
