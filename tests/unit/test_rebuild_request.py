"""Asking the stream that runs for a rebuild, and hearing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from features.errors import StoreError
from features.online_store.stream_status import read_status
from features.times import now_ms
from streaming.generations.rebuild_request import ask_rebuild, rebuilt_by_the_stream, take_rebuild
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


@contextmanager
def meanwhile(home: Path, tells: Callable[[], None]) -> Iterator[None]:
    """A stream that takes the request, and then tells the same again and again."""
    ended = threading.Event()

    def stream() -> None:
        while not take_rebuild(home):
            ended.wait(0.01)
        while not ended.wait(0.01):
            tells()

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_answer_is_the_generation_that_readers_have_then(tmp_path: Path) -> None:
    tell(tmp_path, "1")
    with meanwhile(tmp_path, lambda: tell(tmp_path, "2")):
        assert rebuilt_by_the_stream(tmp_path, print) == "2"


def test_a_generation_that_was_on_its_way_before_is_not_the_answer(tmp_path: Path) -> None:
    """Readers turn to it while the one that was asked for is made."""
    tell(tmp_path, "1")
    told = iter([("2", {"building": True}), ("2", {}), ("3", {})])
    queries = {"fold": {"generation": "1"}, "next": {"generation": "2", "lag": 1}}
    write_status(tmp_path, read_status(tmp_path, now_ms()) | {"queries": queries})
    last: list[tuple[str, dict[str, Any]]] = []

    def tells() -> None:
        last[:] = [next(told, last[0] if last else ("3", {}))]
        tell(tmp_path, last[0][0], **last[0][1])

    with meanwhile(tmp_path, tells):
        assert rebuilt_by_the_stream(tmp_path, print) == "3"


@pytest.mark.parametrize("end", [{"build_error": "the archive cannot be read"}, {"state": "stopped"}])
def test_a_stream_that_cannot_or_ends_is_an_error(tmp_path: Path, end: dict[str, Any]) -> None:
    tell(tmp_path, "1")
    with (
        meanwhile(tmp_path, lambda: tell(tmp_path, "1", **end)),
        pytest.raises(StoreError, match=r"cannot be read|has ended"),
    ):
        rebuilt_by_the_stream(tmp_path, print)
