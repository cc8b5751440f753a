"""`headrace bench serve`: rates and times of recommendations; a new champion loses no request."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.report import bench_report, write_report
from headrace.console import JSON, say
from headrace.loop import Loop, LoopError, own_repo, temporary_home, with_group_gone

if TYPE_CHECKING:
    from headrace.settings import Settings
    from models.recommender import Artefact
    from training.registry import ModelRegistry, Version

USERS, ITEMS, DAYS, SEED = 2_000, 1_000, 12.0, 7

VERSIONS = 4

WORKERS, CLIENTS = 24, 64

STARTED_WITHIN_S, SWAPPED_WITHIN_S = 180.0, 15.0

BARE_BYTES = 1_000

OK = 200

Asgi = Callable[[Mapping[str, Any]], Awaitable[None]]


@click.command("serve")
@click.option(
    "--seconds", default=60, show_default=True, type=click.IntRange(10, 600), help="Of load with swaps in it."
)
@click.option("--rate", default=100, show_default=True, type=click.IntRange(1, 2_000), help="Requests a second.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 8), help="Of the service.")
@JSON
def serve_bench(seconds: int, rate: int, replicas: int, as_json: bool) -> None:
    """Recommendations by a trained model: by 1 and by 64 clients, then at a rate with three promotions and a rollback.

    A service runs in a folder of its own, with a store and a registry of a made-up shop, and ends with it. Beside it an
    HTTP server that answers the same requests with a constant: what HTTP costs here without any recommending. Times
    include the client, which shares the processors. Exit 1 unless every request was answered, by a version that was
    champion, and every swap was seen within 15 s.

    \b
    Examples:
      headrace bench serve
      headrace bench serve --seconds 20 --rate 50 --json
    """
    from headrace.bench.loop.running import ended_by_ctrl_c
    from headrace.project import Project

    project = Project.open()
    with ended_by_ctrl_c(), temporary_home(project.home, "bench-") as home:
        ours = of_headrace(project.root, project.settings, home, (seconds, rate, replicas))
        peer = of_bare_server(project.root, home)
    ratio = round(ours["clients_64"]["per_s"] / peer["clients_64"]["per_s"], 4)
    write_report(bench_report("serve", ours, peer, ratio), as_json, details)
    if not held(ours["swap"]):
        sys.exit(1)


def held(swap: Mapping[str, Any]) -> bool:
    """Every request was answered by a version that was champion, and every swap was seen in time."""
    late = any(seconds is None or seconds > SWAPPED_WITHIN_S for seconds in swap["visible_s"])
    return not (swap["failed"] or swap["strangers"] or late)


def of_headrace(root: Path, settings: Settings, home: Path, load: tuple[int, int, int]) -> dict[str, Any]:
    """The figures of our service, which runs for them only."""
    from features.machine import free_port

    seconds, rate, replicas = load
    repo, uri = own_repo(root / settings.stream.repo, home), f"sqlite:///{home / 'mlflow.db'}"
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update={"host": "127.0.0.1"})})
    with Loop(root, settings, home, repo, free_port(), uri) as loop:
        registry, versions = shop_with_models(loop)
        loop.start("serve", "serve", "--replicas", str(replicas))
        loop.wait("the service", lambda: (loop.ask("/v1/models") or {}).get("current"), STARTED_WITHIN_S)
        address = (settings.serving.host, loop.port)
        figures = closed_loops(address)
        return {**figures, "replicas": replicas, "swap": swapped(address, registry, versions, seconds, rate)}


def of_bare_server(root: Path, home: Path) -> dict[str, Any]:
    """The figures of a server with a constant answer."""
    from features.machine import free_port

    port = free_port()
    with bare_server(root, port, home / "logs" / "bare.log"):
        return {"name": "bare uvicorn, a constant answer", **closed_loops(("127.0.0.1", port))}


@contextmanager
def bare_server(root: Path, port: int, log: Path) -> Iterator[None]:
    """uvicorn answers with ``bare`` on this port."""
    words = ["-m", "uvicorn", "headrace.bench.loop.serve:bare", "--port", str(port), "--log-level", "error"]
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, *words], cwd=root, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(10)
        with_group_gone(process.pid)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        if Caller(("127.0.0.1", port)).recommend("u1").status == OK:
            return
        time.sleep(0.1)
    raise LoopError("the bare server", "an answer", "none")


async def bare(scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Asgi) -> None:
    """An ASGI application that reads the request and answers with BARE_BYTES."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = json.dumps({"model": None, "items": [], "filler": "x" * BARE_BYTES}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def shop_with_models(loop: Loop) -> tuple[ModelRegistry, list[Version]]:
    """A store with a made-up shop's users and items, and a registry with a model of them in VERSIONS versions.

    The gate judges the first; the others are the same model, made at another time. The first is the champion.
    """
    from features.definitions import load_repo
    from features.events import from_columns
    from headrace.simulators import ShopSimulator
    from training.data import Domain
    from training.judging import Judge
    from training.registry import ModelRegistry
    from training.settings import TrainingSettings

    say("making a shop, and a model of it")
    now_ms = time.time_ns() // 1_000_000
    recommender = load_repo(loop.repo).chosen_recommenders().named(None, "headrace bench serve")
    domain, chosen = Domain.of(recommender), TrainingSettings.of(recommender, {"moments": 1_000, "test_users": 500})
    history = ShopSimulator(SEED, USERS, ITEMS).history(DAYS, now_ms)
    events = {domain.stream.name: from_columns(history, domain.stream).events}
    _fill_store(loop.home / "online.db", events, (domain.user, domain.item), now_ms)
    from training.recommender import train
    from training.run import TrainingRun

    trained = train(TrainingRun.of(events, domain, chosen), now_ms)
    verdict = Judge.of_trained(trained).verdict(trained.artefact, trained.rows)
    registry = ModelRegistry(loop.tracking_uri, loop.root)
    versions = [registry.register(_made_at(trained.artefact, now_ms + number), {}, {}) for number in range(VERSIONS)]
    versions = [registry.judge(version, verdict.promoted, verdict.reason) for version in versions]
    registry.promote(versions[0], now_ms)
    return registry, versions


def _fill_store(path: Path, events: Mapping[str, Any], views: tuple[Any, Any], now_ms: int) -> None:
    from features.online_store import Marker, build_generation
    from features.online_store.sqlite import SqliteRows

    rows = SqliteRows(path)
    build_generation(rows.generation(1), list(views), 1, events, Marker(0, {}, {}, 0), now_ms)
    for view in views:
        rows.set_current(view.name, 1)


def _made_at(artefact: Artefact, created_ms: int) -> Artefact:
    return replace(artefact, manifest=artefact.manifest.model_copy(update={"created_ms": created_ms}))


@dataclass(frozen=True)
class TimedResponse:
    """A response: HTTP's status (0 for none), the model's version, and the clock when it was read."""

    status: int
    version: str | None
    fallback: bool
    took_ms: float
    at: float


class Caller:
    """Requests over one connection, which is opened anew after a failure."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._connection = http.client.HTTPConnection(*address, timeout=10)

    def recommend(self, user: str, due: float | None = None) -> TimedResponse:
        """Ten items for the user; the time is from when the request was due."""
        began = time.perf_counter() if due is None else due
        try:
            status, body = self._request({"user_id": user, "k": 10})
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            self._connection = http.client.HTTPConnection(*self._address, timeout=10)
            status, body = 0, {}
        now = time.perf_counter()
        version = (body.get("model") or {}).get("version")
        return TimedResponse(status, version, bool(body.get("fallback", {}).get("used")), 1e3 * (now - began), now)

    def _request(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        self._connection.request(
            "POST", "/v1/recommend", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def closed_loops(address: tuple[str, int], seconds: float = 8.0) -> dict[str, Any]:
    """Figures of one client, and of CLIENTS clients, each with one request open at any time."""
    closed_loop(address, 4, 2.0)  # warm
    single, many = closed_loop(address, 1, seconds), closed_loop(address, CLIENTS, seconds)
    return {**single, f"clients_{CLIENTS}": many}


def closed_loop(address: tuple[str, int], clients: int, seconds: float) -> dict[str, Any]:
    """Times, responses a second, and the numbers of failures and fallbacks."""
    until = time.perf_counter() + seconds

    def client(number: int) -> list[TimedResponse]:
        caller, rng, answers = Caller(address), random.Random(number), []
        while time.perf_counter() < until:
            answers.append(caller.recommend(f"u{rng.randrange(USERS)}"))
        return answers

    with ThreadPoolExecutor(clients) as pool:
        answers = list(itertools.chain.from_iterable(pool.map(client, range(clients))))
    return {**figures_of(answers), "per_s": round(len(answers) / seconds, 1)}


def figures_of(answers: list[TimedResponse]) -> dict[str, Any]:
    """Times of the good responses, and the numbers of requests, failures and fallbacks."""
    good = [answer for answer in answers if answer.status == OK]
    if not good:
        raise LoopError("the bench's requests", "answers", f"none to {len(answers)}")
    counts = {
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "fallbacks": sum(answer.fallback for answer in good),
    }
    from streaming.fold import ages_of

    return {**ages_of([answer.took_ms for answer in good]), **counts}


def swapped(
    address: tuple[str, int], registry: ModelRegistry, versions: list[Version], seconds: int, rate: int
) -> dict[str, Any]:
    """Figures at the rate, while each version in turn becomes champion and the last one is rolled back."""
    say(f"{rate} requests a second for {seconds} s, with {VERSIONS - 1} promotions and a rollback")
    moves: list[tuple[str, float]] = []
    starting = time.perf_counter()

    def moving() -> None:
        for number in range(1, VERSIONS + 1):
            time.sleep(max(0.0, starting + number * seconds / (VERSIONS + 1.5) - time.perf_counter()))
            moves.append((_moved(registry, versions, number), time.perf_counter()))

    mover = threading.Thread(target=moving)
    mover.start()
    answers = at_rate(address, seconds, rate, starting)
    mover.join()
    champions = {version.version for version in versions}
    strangers = sum(answer.version not in champions for answer in answers if answer.status == OK)
    return {
        **figures_of(answers),
        "strangers": strangers,
        "versions": [version for version, _ in moves],
        "visible_s": [_visible(answers, *move) for move in moves],
    }


def _moved(registry: ModelRegistry, versions: list[Version], number: int) -> str:
    """The champion after this move: the next version, or after the last one the one before it."""
    if number < len(versions):
        return registry.promote(versions[number], time.time_ns() // 1_000_000).version
    return registry.rollback(versions[0].name).version


def _visible(answers: list[TimedResponse], version: str, moved_at: float) -> float | None:
    """Seconds from the alias's move to the first response of this version; None where there is none."""
    seen = [answer.at - moved_at for answer in answers if answer.version == version and answer.at > moved_at]
    return round(min(seen), 2) if seen else None


def at_rate(address: tuple[str, int], seconds: int, rate: int, starting: float) -> list[TimedResponse]:
    """All responses to requests that are due at even times, answered or not (an open loop)."""
    due = itertools.count()
    answers: list[TimedResponse] = []

    def worker(seed: int) -> None:
        caller, rng = Caller(address), random.Random(seed)
        while (number := next(due)) < seconds * rate:
            at = starting + number / rate
            time.sleep(max(0.0, at - time.perf_counter()))
            answers.append(caller.recommend(f"u{rng.randrange(USERS)}", at))

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(worker, range(WORKERS)))
    return answers


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    lines = []
    for name in ("ours", "peer"):
        single, many = report[name], report[name][f"clients_{CLIENTS}"]
        lines += [(name, f"1 client: {_times(single)}"), ("", f"{CLIENTS} clients: {_times(many)}")]
    swap = report["ours"]["swap"]
    counts = f"{swap['requests']} requests, {swap['failed']} failed, {swap['fallbacks']} fallbacks"
    times = f"p50 {swap['p50_ms']} ms, p99 {swap['p99_ms']} ms; seen after {swap['visible_s']} s"
    return [*lines, ("hot swap", counts), ("", times)]


def _times(figures: Mapping[str, Any]) -> str:
    return f"p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms, {figures['per_s']} a second"
