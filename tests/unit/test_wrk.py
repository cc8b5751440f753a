"""wrk as the load generator of the bench: what was answered in full, by a fallback, or refused; and what is missing."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from http_stub import Answer, http_stub

from headrace.bench.loop.serve.wrk import Load, WrkRun, figures_of_runs
from headrace.cli import cli
from headrace.loop import LoopError

BODIES = [{"user_id": f"u{number}"} for number in range(50_000)]


def needs_wrk() -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")


@contextmanager
def server() -> Iterator[tuple[str, Counter[str]]]:
    """Answers by the user's number: a multiple of 5 is refused, one more a fallback, two more an error.

    Of two refusals one has Retry-After.
    """
    asked: Counter[str] = Counter()

    def answer(body: dict[str, str]) -> Answer:
        user = body["user_id"]
        asked[user] += 1
        number = int(user[1:])
        status = {0: 429, 2: 500}.get(number % 5, 200)
        headers = {"Retry-After": "1"} if status == 429 and number % 10 else {}
        return status, headers, {"fallback": {"used": number % 5 == 1}}

    with http_stub(answer) as (host, port):
        yield f"http://{host}:{port}", asked


def test_a_fallback_and_a_refusal_are_no_answers_and_no_user_asks_twice(tmp_path: Path) -> None:
    needs_wrk()
    with server() as (address, asked):
        load = Load(address, tmp_path)
        runs = [load.run("/v1/recommend", BODIES, 2, 1) for _ in range(2)]
    figures = figures_of_runs(runs)
    counted = Counter(int(user[1:]) % 5 for user in asked)
    assert max(asked.values()) == 1
    # wrk drops what is on its way when a run ends: one request of each connection and run.
    for name, numbers in (("refused", [0]), ("fallbacks", [1]), ("failed", [2]), ("full", [3, 4])):
        assert 0 <= sum(counted[number] for number in numbers) - figures[name] <= 4, name
    assert abs(sum(run.hasty for run in runs) - figures["refused"] / 2) <= 4
    assert figures["full"] > 0
    assert figures["per_s"] == pytest.approx(figures["full"] / sum(run.seconds for run in runs), rel=0.5)


def test_requests_at_a_rate_are_as_many_as_are_due_and_no_more(tmp_path: Path) -> None:
    needs_wrk()
    with server() as (address, asked):
        Load(address, tmp_path).run("/v1/recommend", BODIES, 8, 2, rate=50.0)
    assert 10 <= sum(asked.values()) <= 110


def test_without_wrk_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_: None)
    done = CliRunner().invoke(cli, ["bench", "serve"])
    assert done.exit_code == 2
    assert "apt install wrk" in done.output


def test_a_wrk_that_reports_nothing_is_an_error() -> None:
    with pytest.raises(LoopError, match="Segmentation"):
        WrkRun.of("Running 1s test\nSegmentation fault")
