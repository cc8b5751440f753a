"""`headrace bench serve`: rates and times of answers by the model, under load, overload and new champions."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.loop.running import STORES, check_stores, ended_by_ctrl_c, loop_of, own_broker
from headrace.bench.loop.serve.clicks import clicked
from headrace.bench.loop.serve.swaps import held, recovered_s, swapped
from headrace.bench.report import bench_report, write_report
from headrace.client import KEY
from headrace.console import JSON, say
from headrace.loop import KEYS, Loop, own_repo

if TYPE_CHECKING:
    from headrace.bench.loop.serve.worlds import World
    from headrace.bench.loop.serve.wrk import Load
    from headrace.project import Project

CLIENTS, LIST, K = 64, 24, 10

LIVE_RATE = 50

PARTS = ("recommend", "rank24", "filter", "diversity", "swap", "overload", "clicks", "small", "steps", "peers")

OVERLOAD, OVERLOAD_CLIENTS, RECOVERS_WITHIN_S = 3, 512, 30.0

WARM_CLIENTS, WARM_S = 4, 3

STEP_REQUESTS, STEP_WARM = 1_500, 300

VERSIONS = 4

STARTED_WITHIN_S, FOLDED_WITHIN_S = 180.0, 600.0

MOVIELENS = "movielens-small"


@click.command("serve")
@click.option("--items", default=10_000, show_default=True, type=click.IntRange(1_000, 1_000_000), help="Of the shop.")
@click.option("--store", default="sqlite", show_default=True, type=click.Choice(STORES), help="The online store.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 8), help="Of the service.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1, 20), help="Runs of each figure.")
@click.option("--each", default=5, show_default=True, type=click.IntRange(1, 60), help="Seconds of a run.")
@click.option(
    "--seconds", default=60, show_default=True, type=click.IntRange(10, 600), help="Of the swaps, and of the overload."
)
@click.option("--rate", default=100, show_default=True, type=click.IntRange(1, 2_000), help="Requests/s during swaps.")
@click.option(
    "--data",
    default=Path("../shared/data"),
    show_default=True,
    envvar="HEADRACE_DATA",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that has movielens-small.",
)
@click.option("--keys", is_flag=True, help="The service asks for keys, and every request has one.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Measure this part; all of them by default.")
@JSON
def serve_bench(as_json: bool, **chosen: Any) -> None:
    """Answers by a trained model: full ones a second, their times, and where the time goes.

    A broker, a stream and a service of its own run in a folder of their own, and end with it. The shop is made up:
    20,000 users, a ranker of 100 trees; 50 events a second of it go through the stream meanwhile. Requests are each of
    another user, and come from wrk, which shares the processors. A fallback is counted by itself, not as an answer.

    \b
    recommend   10 items, one client and 64; measured in any case
    rank24      24 given items, one client and 64
    filter      recommend with a filter that keeps half of the items, and its ratio to recommend
    diversity   recommend with diversity 0.3, and its ratio to recommend
    swap        --rate requests/s: three promotions, each as soon as the one before is seen, and a rollback
    overload    three times as many requests/s as were answered: what is answered and refused, and the recovery after
    clicks      100 times a click and the next recommendation, over at least two replicas
    small       recommend, of MovieLens' ratings in --data/movielens-small; left out where they are not
    steps       where the time of a request by one client goes
    peers       a constant answer by Ray Serve behind the same HAProxy, and by uvicorn alone

    Exit 1 if during the swaps a request failed or was answered by a version that was no champion, or if a swap was
    not seen within 15 s.

    \b
    Examples:
      headrace bench serve
      headrace bench serve --store redis --json
      headrace bench serve --only recommend --keys
      headrace bench serve --only recommend --only peers --items 100000
    """
    from headrace.bench.loop.serve.wrk import wrk_path
    from headrace.project import Project

    wrk_path()
    check_stores([chosen["store"]], "bench serve")
    options = Options(**chosen)
    with ended_by_ctrl_c():
        ours, peers = ServeBench(own_broker(Project.open(), "bench serve"), options).measured()
    write_report(bench_report("serve", ours, peers or None, over_empty(ours, peers)), as_json, details)
    if "swap" in ours and not held(ours["swap"]):
        sys.exit(1)


def over_empty(ours: Mapping[str, Any], peers: Mapping[str, Any]) -> float | None:
    """Our answers a second over those of the empty handler, by 64 clients; None where that was not measured."""
    if not peers:
        return None
    ratio: float = ours[f"c{CLIENTS}"]["per_s"] / peers["empty_handler"]["per_s"]
    return round(ratio, 4)


@dataclass(frozen=True)
class Options:
    """The command's options."""

    items: int
    store: str
    replicas: int
    repeats: int
    each: int
    seconds: int
    rate: int
    data: Path
    only: tuple[str, ...]
    keys: bool = False

    def has(self, part: str) -> bool:
        """Whether the part is measured."""
        return not self.only or part in self.only


@dataclass
class ServeBench:
    """The bench's parts, measured one after the other on one shop."""

    project: Project
    options: Options
    ours: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, Any] = field(default_factory=dict)

    def measured(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figures of ours and of the peers."""
        options = self.options
        with running(self.project, options.store) as loop:
            if options.keys:
                ask_for_keys(loop)
            world = self._prepared(loop)
            self.ours |= {
                "store": options.store,
                "replicas": options.replicas,
                "keys": options.keys,
                "model": world.size,
            }
            with serving(loop, options.replicas, world) as load:
                self._parts(load, world)
                if options.has("swap"):
                    self.ours["swap"] = self._swap(loop, world)
                if options.has("overload"):
                    self.ours["overload"] = self._overload(loop, load, world)
            if options.has("clicks"):
                self.ours["clicks"] = self._clicks(loop, world)
            if options.has("small"):
                self._small(loop)
            if options.has("peers") or options.has("steps"):
                self._peers(loop, world)
            if options.has("steps"):
                self.ours["steps"] = self._steps(loop, world)
        return self.ours, self.peers

    def _prepared(self, loop: Loop) -> World:
        """The shop's history is in the store and its events come as they happen; the model is the champion."""
        from headrace.bench.loop.serve.worlds import SEED, USERS, shop_world

        options = self.options
        world = shop_world(loop, options.items, VERSIONS if options.has("swap") else 1)
        counts = ["--users", str(USERS), "--items", str(options.items), "--seed", str(SEED)]
        loop.start("traffic", "generate", "--rate", str(LIVE_RATE), *counts)
        # The catalogue, which a filter reads, comes before the first live event.
        say("waiting until the stream has folded the history and the catalogue")
        loop.wait("the fold", lambda: loop.has_counted(world.sent + options.items), FOLDED_WITHIN_S)
        return world

    def _parts(self, load: Load, world: World) -> None:
        bodies: dict[str, tuple[str, Sequence[Mapping[str, Any]]]] = {
            "recommend": ("/v1/recommend", [{"user_id": user, "k": K} for user in world.users]),
            "rank24": ("/v1/rank", [{"user_id": user, "items": items} for user, items in lists_of(world)]),
            "filter": ("/v1/recommend", plain(world, filter={"price": {"max": world.median_price}})),
            "diversity": ("/v1/recommend", plain(world, diversity=0.3)),
        }
        for part, (path, asked) in bodies.items():
            if part == "recommend" or self.options.has(part):
                say(f"{part}: 1 client, then {CLIENTS}")
                figures = self._loops(load, path, asked)
                self.ours |= figures if part == "recommend" else {part: {**figures, **self._over_plain(part, figures)}}

    def _loops(self, load: Load, path: str, bodies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Figures of one client, and of CLIENTS."""
        from headrace.bench.loop.serve.wrk import figures_of_runs

        load.run(path, bodies, WARM_CLIENTS, WARM_S)
        return {
            name: figures_of_runs(
                [load.run(path, bodies, clients, self.options.each) for _ in range(self.options.repeats)]
            )
            for name, clients in (("one", 1), (f"c{CLIENTS}", CLIENTS))
        }

    def _over_plain(self, part: str, figures: Mapping[str, Any]) -> dict[str, Any]:
        if part == "rank24":
            return {}
        return {"ratio": round(figures["one"]["p50_ms"] / self.ours["one"]["p50_ms"], 3)}

    def _swap(self, loop: Loop, world: World) -> dict[str, Any]:
        options = self.options
        say(f"{options.rate} requests a second for {options.seconds} s, with {VERSIONS - 1} promotions and a rollback")
        return swapped(
            (loop.host, loop.port),
            plain(world),
            world.registry,
            world.versions,
            (options.seconds, options.rate),
        )

    def _overload(self, loop: Loop, load: Load, world: World) -> dict[str, Any]:
        """What becomes of OVERLOAD times as many requests as 64 clients were answered, and how soon it is over."""
        peak, seconds = self.ours[f"c{CLIENTS}"]["per_s"], self.options.seconds
        offered = max(round(OVERLOAD * peak), 1)
        say(f"{offered} requests a second for {seconds} s")
        run = load.run("/v1/recommend", plain(world), OVERLOAD_CLIENTS, seconds, offered)
        address, ended = (loop.host, loop.port), time.perf_counter()
        answered = run.full + run.fallbacks + run.refused + run.failed
        return {
            "offered_per_s": offered,
            "sent_per_s": round(answered / run.seconds, 1),
            "full_per_s": round(run.per_s, 1),
            "goodput": round(run.per_s / peak, 3) if peak else None,
            "refused": round(run.refused / max(answered, 1), 3),
            "without_retry_after": run.hasty,
            "fallbacks": run.fallbacks,
            "failed": run.failed,
            "p99_ms": run.p99_ms,
            "recovery_s": recovered_s(address, plain(world), ended, RECOVERS_WITHIN_S),
        }

    def _clicks(self, loop: Loop, world: World) -> dict[str, Any]:
        """A click and the next recommendation, over two replicas at least."""
        replicas = max(self.options.replicas, 2)
        with serving(loop, replicas, world):
            say("clicks")
            return clicked((loop.host, loop.port), world, replicas)

    def _small(self, loop: Loop) -> None:
        """Recommendations of MovieLens' ratings, by a service of their own, beside the same stream."""
        from features.machine import free_port
        from headrace.bench.loop.serve.worlds import movielens_world

        folder = self.options.data / MOVIELENS
        if not (folder / "ratings.csv").exists():
            say(f"no {folder}: recommend_small is left out")
            return
        home = loop.home / "small"
        home.mkdir()
        if self.options.keys:
            shutil.copy(loop.home / KEYS, home / KEYS)
        repo = own_repo(loop.repo, home)
        uri = f"sqlite:///{home / 'mlflow.db'}"
        with Loop(loop.root, loop.settings, home, repo, free_port(), uri, loop.bootstrap) as small:
            world = movielens_world(small, folder)
            with serving(small, self.options.replicas, world) as load:
                say("recommend_small")
                figures = self._loops(load, "/v1/recommend", plain(world))
        self.ours["recommend_small"] = {**figures, "model": world.size}

    def _peers(self, loop: Loop, world: World) -> None:
        from headrace.bench.loop.serve.peers import PEERS, peer
        from headrace.bench.loop.serve.wrk import Load

        for name in PEERS:
            say(f"peer: {name}")
            with peer(name, loop.root, loop.home / "logs" / f"{name}.log") as address:
                figures = self._loops(Load(address, loop.home), "/v1/recommend", plain(world))
            self.peers[name] = {"per_s": figures[f"c{CLIENTS}"]["per_s"], **figures}

    def _steps(self, loop: Loop, world: World) -> dict[str, float]:
        """Step → ms of the mean request by one client; they add up to the mean of ours.one.

        ``server`` is what the peer's constant answer takes. The steps between are of the service in this process.
        ``beside`` is what is left: the machine's other work, and more of the server's for a longer request.
        """
        from headrace.bench.loop.serve.steps import config_of, steps_of

        say("steps: the service in this process")
        inside = steps_of(config_of(loop), "/v1/recommend", plain(world)[:STEP_REQUESTS], STEP_WARM)
        total, server = self.ours["one"]["mean_ms"], self.peers["empty_handler"]["one"]["mean_ms"]
        beside = round(total - server - sum(inside.values()), 4)
        return {"server": server, **inside, "beside": beside, "total": total}


@contextmanager
def running(project: Project, store: str) -> Iterator[Loop]:
    """A loop with a broker and a stream, in a folder of its own, with a store of that kind."""
    from features.machine import free_port

    with loop_of(project, free_port(), store) as loop:
        say("starting a broker and the stream")
        loop.start_broker()
        loop.start("stream", "stream")
        yield loop


def ask_for_keys(loop: Loop) -> None:
    """The loop's service asks for keys from now on, and all requests of this process have one, of a rate above any."""
    from features.online_store import read_settings_of
    from features.times import now_ms
    from serving.access import HIGHEST_RATE, added

    tenant = loop.settings.serving.tenant or read_settings_of(loop.repo / "feature_store.yaml").project
    made = added(loop.home / KEYS, "bench", ("read", "events:*", "ops"), tenant, HIGHEST_RATE, now_ms())
    os.environ[KEY] = made.text


@contextmanager
def serving(loop: Loop, replicas: int, world: World) -> Iterator[Load]:
    """The service of the loop answers by the model and knows the items during the block."""
    from headrace.bench.loop.serve.wrk import Load

    say("starting the service")
    child = loop.start("serve", "serve", "--replicas", str(replicas))
    try:
        loop.wait("the service", lambda: (loop.ask("/v1/models") or {}).get("current"), STARTED_WITHIN_S)
        known = 0.9 * len(world.items)
        loop.wait("the items", lambda: (loop.ask("/readyz") or {}).get("items", 0) >= known, STARTED_WITHIN_S)
        yield Load(loop.url, loop.home)
    finally:
        loop.end(child)


def plain(world: World, **more: Any) -> list[dict[str, Any]]:
    """A request for recommendations for each user."""
    return [{"user_id": user, "k": K, **more} for user in world.users]


def lists_of(world: World) -> Iterator[tuple[str, list[str]]]:
    """Each user with LIST items, other ones each time."""
    items = world.items
    for number, user in enumerate(world.users):
        first = number * LIST % (len(items) - LIST)
        yield user, items[first : first + LIST]


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    ours, peers = report["ours"], report["peer"] or {}
    lines = [("shop", ", ".join(f"{name} {value}" for name, value in ours["model"].items()))]
    parts = {"recommend": ours, **{name: ours[name] for name in (*PARTS, "recommend_small") if name in ours}, **peers}
    for name, part in parts.items():
        if "one" in part:
            over = f"; {part['ratio']} × plain" if "ratio" in part else ""
            lines += [(name, f"1 client: {_times(part['one'])}{over}"), ("", f"{CLIENTS}: {_times(part['c64'])}")]
    if "overload" in ours:
        over = ours["overload"]
        text = f"{over['offered_per_s']} requests/s: {over['full_per_s']} answered, {over['refused']:.0%} refused"
        lines.append(("overload", f"{text}, {over['fallbacks']} fallbacks; over after {over['recovery_s']} s"))
    if "clicks" in ours:
        clicks = ours["clicks"]
        text = f"{clicks['changed']} of {clicks['clicks']} changed the next answer over {clicks['replicas']} replicas"
        lines.append(("clicks", f"{text}; the pair p50 {clicks['p50_ms']} ms, p99 {clicks['p99_ms']} ms"))
    if "swap" in ours:
        swap = ours["swap"]
        counts = f"{swap['requests']} requests, {swap['failed']} failed, {swap['fallbacks']} fallbacks"
        times = f"p50 {swap['p50_ms']} ms, p99 {swap['p99_ms']} ms; seen after {swap['visible_s']} s"
        lines += [("hot swap", counts), ("", times)]
    if "steps" in ours:
        lines.append(("steps", ", ".join(f"{name} {ms:.3f}" for name, ms in ours["steps"].items()) + " ms"))
    if report["ratio"] is not None:
        lines.append(("ratio", f"{report['ratio']} of an empty handler's answers a second"))
    return lines


def _times(figures: Mapping[str, Any]) -> str:
    low, high = figures["spread"]["per_s"]
    rates = f"{figures['per_s']} a second ({low} to {high})"
    return f"p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms, {rates}, {figures['fallbacks']} fallbacks"
