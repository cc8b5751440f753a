"""Asking the stream that runs for a rebuild, and hearing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features.errors import StoreError
from streaming.online_sink import now_ms
from streaming.rebuild_request import ask_rebuild, rebuilt_by_the_stream, take_rebuild
from streaming.status import write_status


def tell(home: Path, generation: str, **more: Any) -> None:
    queries = {"fold": {"generation": generation}}
    write_status(home, {"state": "running", "updated_at": now_ms(), "queries": queries} | more)


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    assert not take_rebuild(tmp_path)
    ask_rebuild(tmp_path)
    ask_rebuild(tmp_path)
    assert (take_rebuild(tmp_path), take_rebuild(tmp_path)) == (True, False)


def test_without_a_stream_that_runs_nobody_is_asked(tmp_path: Path) -> None:
    assert rebuilt_by_the_stream(tmp_path, print) is None
    write_status(tmp_path, {"state": "stopped", "updated_at": now_ms(), "queries": {}})
    assert rebuilt_by_the_stream(tmp_path, print) is None
    assert not take_rebuild(tmp_path)


def meanwhile(home: Path, then: Callable[[], None]) -> threading.Thread:
    def stream() -> None:
        while not take_rebuild(home):
            threading.Event().wait(0.01)
        then()

    thread = threading.Thread(target=stream)
    thread.start()
    return thread


def test_the_answer_is_the_generation_that_readers_have_then(tmp_path: Path) -> None:
    tell(tmp_path, "1")
    thread = meanwhile(tmp_path, lambda: tell(tmp_path, "2"))
    assert rebuilt_by_the_stream(tmp_path, print) == "2"
    thread.join()


@pytest.mark.parametrize("end", [{"build_error": "the archive cannot be read"}, {"state": "stopped"}])
def test_a_stream_that_cannot_or_ends_is_an_error(tmp_path: Path, end: dict[str, Any]) -> None:
    tell(tmp_path, "1")
    thread = meanwhile(tmp_path, lambda: tell(tmp_path, "1", **end))
    with pytest.raises(StoreError, match=r"cannot be read|has ended"):
        rebuilt_by_the_stream(tmp_path, print)
    thread.join()
