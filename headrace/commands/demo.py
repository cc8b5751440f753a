"""`headrace demo`: the whole loop step by step, from an empty folder to recommendations that follow five clicks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from features.machine import free_port
from headrace.console import echo, print_report
from headrace.loop import Loop, LoopError, interrupts_end_it, own_repo, temporary_home

USERS, ITEMS, DAYS, SEED = 1_000, 300, 10.0, 7

NEWCOMER, CLICKS = "newcomer", 5

FOLDED_WITHIN_S, SERVING_WITHIN_S, SEEN_WITHIN_S = 180.0, 120.0, 30.0


@click.command()
@click.option("--once", is_flag=True, help="Check the loop, leave nothing running, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print the results as JSON.")
def demo(once: bool, as_json: bool) -> None:
    """Run the whole loop on this machine with a simulated shop, and print each step, until Ctrl-C.

    \b
    Examples:
      headrace demo
      headrace demo --once --json
    """
    from headrace.project import Project

    project = Project.open()
    started = time.monotonic()
    try:
        with interrupts_end_it(), temporary_home(project.home, "demo-") as home:
            tracking = f"sqlite:///{home / 'mlruns' / 'mlflow.db'}"
            repo = own_repo(project.definitions, home, domains=["shop"])
            with Loop(project.root, project.settings, home, repo, free_port(), tracking) as loop:
                steps = Demo(loop, started)
                facts = steps.run()
                if once:
                    _end(facts, as_json)
                else:
                    steps.go_on()
    except KeyboardInterrupt:
        echo("\nstopped; everything that was started has ended", err=True)
        sys.exit(130 if once else 0)


def _end(facts: Mapping[str, Any], as_json: bool) -> None:
    """Prints the checks; exits with 1 where one does not hold."""
    print_report(facts, as_json, lambda facts: _check_lines(facts["checks"]))
    if not all(facts["checks"].values()):
        sys.exit(1)


def _check_lines(checks: Mapping[str, bool]) -> list[str]:
    return [f"{'ok    ' if holds else 'FAILED'} {name}" for name, holds in checks.items()]


@dataclass
class Demo:
    """The steps of the demo, and their results."""

    loop: Loop
    started: float
    facts: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """The facts of all steps, from nothing to a recommendation that has followed five clicks."""
        self.say("broker", f"Kafka answers on {self.loop.start_broker()}")
        self.loop.start("stream", "stream")
        sent = self.send_history()
        self.wait_until_folded(sent)
        self.train()
        self.serve()
        self.click_five()
        self.facts |= {"seconds": round(time.monotonic() - self.started, 1), "checks": self.checks}
        return self.facts

    def say(self, part: str, what: str) -> None:
        """Prints a line with the seconds since the start."""
        echo(f"{time.monotonic() - self.started:6.1f} s  {part:<10} {what}", err=True)

    def send_history(self) -> int:
        """The number of events sent: days of a simulated shop, all acknowledged."""
        from headrace.simulators import ShopSimulator

        shop, now = ShopSimulator(SEED, USERS, ITEMS), _now_ms()
        self.shop = shop
        history = shop.history(DAYS, now)
        tables = [("catalogue", shop.catalogue(now)), ("activity", history)]
        began = time.monotonic()
        self.loop.send(tables)
        took = time.monotonic() - began
        sent = sum(int(table.num_rows) for _, table in tables)
        self.facts["sent"] = {"events": sent, "per_s": round(sent / took)}
        self.say("events", f"{sent:,} events of {USERS} users and {ITEMS} items acknowledged, {sent / took:,.0f}/s")
        self.history = history
        return sent

    def wait_until_folded(self, sent: int) -> None:
        """The stream has counted everything that was sent, and the archive has it."""
        self.loop.wait("the stream", lambda: self.loop.has_counted(sent), FOLDED_WITHIN_S)
        counts = self.loop.counted()
        queries = self.loop.status().get("queries", {})
        self.checks["every event ended once"] = sum(counts.values()) == sent
        self.facts["stream"] = {"counts": counts, "age": queries.get("fold", {}).get("age")}
        self.say("stream", f"folded {counts.get('folded', 0):,}; duplicates, late, dead letters: {_rest(counts)}")
        self.loop.wait("the archive", self._archived, FOLDED_WITHIN_S)
        self.say("archive", f"{sent:,} events in the offline store")

    def _archived(self) -> bool:
        archive = self.loop.status().get("queries", {}).get("archive", {})
        return bool(archive.get("lag") == 0 and archive.get("batch_id", -1) >= 0)

    def train(self) -> None:
        """A model is trained from the offline store, registered, and champion."""
        report = json.loads(self.loop.run("train", "train", "--json"))
        self.facts["model"] = report
        self.checks["a model is champion"] = bool(report.get("champion", report.get("promoted")))
        self.say("training", _model_line(report))
        self.say("baseline", beside_own(report))

    def serve(self) -> None:
        """The service answers with the model."""
        self.loop.start("serve", "serve")
        self.loop.wait("the service", lambda: self.loop.ask("/readyz"), SERVING_WITHIN_S)
        user = self.history["user_id"][-1].as_py()
        answer = self.loop.wait("a recommendation by the model", lambda: self._personal(user), SEEN_WITHIN_S)
        self.facts["first_recommendation_s"] = round(time.monotonic() - self.started, 1)
        self.checks["the model answers"] = answer["model"] is not None
        self.say("service", f"{self.loop.url}: {user} gets {' '.join(_ids(answer)[:5])} in {answer['took_ms']:.1f} ms")

    def _personal(self, user: str) -> dict[str, Any] | None:
        answer = self.loop.ask("/v1/recommend", {"user_id": user})
        return answer if answer and not answer["fallback"]["used"] else None

    def click_five(self) -> None:
        """A new user views five items of one kind: features appear, then recommendations of that kind."""
        clicked, kind = self._one_kind()
        before = self.loop.ask("/v1/recommend", {"user_id": NEWCOMER}) or {}
        self.say("newcomer", f"gets {self._items(before)}  (fallback: {before['fallback']['reason']})")
        acknowledged = self._click(clicked)
        self.loop.wait("five views in the next read", lambda: self._views(NEWCOMER) == CLICKS, SEEN_WITHIN_S)
        read_ms = 1000 * (time.monotonic() - acknowledged)
        self.loop.wait("five views as features", lambda: self._folded(NEWCOMER) == CLICKS, SEEN_WITHIN_S)
        fresh_ms = 1000 * (time.monotonic() - acknowledged)
        self.say(
            "clicks",
            f"views {CLICKS} items of '{kind}'; the next read has them {read_ms:.0f} ms after Kafka, the stream's rows"
            f" after {fresh_ms:.0f} ms",
        )
        after = self.loop.wait("a personal answer", lambda: self._personal(NEWCOMER), SEEN_WITHIN_S)
        shares = [self._share(answer, kind) for answer in (before, after)]
        self.say("newcomer", f"gets {self._items(after)}  ('{kind}': {shares[0]:.0%} before, {shares[1]:.0%} now)")
        self.facts["next_read_ms"], self.facts["freshness_ms"] = round(read_ms), round(fresh_ms)
        self.facts["clicks"] = {"kind": kind, "share": shares, "before": before, "after": after}
        self.checks["a newcomer's fallback says so"] = bool(before["fallback"]["used"])
        self.checks["five views are features"] = self._views(NEWCOMER) == CLICKS
        self.checks["recommendations follow the clicks"] = shares[1] > shares[0]

    def _click(self, items: list[str]) -> float:
        """Time of the acknowledgement of the posted views, on the monotonic clock."""
        now = _now_ms()
        views = [
            {
                "event_id": f"demo-{now}-{number}",
                "event_time": now,
                "event_type": "view",
                "user_id": NEWCOMER,
                "session_id": f"demo-{now}",
                "item_id": item,
            }
            for number, item in enumerate(items)
        ]
        answer = self.loop.ask("/v1/events", {"events": views}, timeout_s=15)
        if answer is None or answer["accepted"] != len(views):
            raise LoopError("POST /v1/events", f"{len(views)} events accepted", repr(answer))
        return time.monotonic()

    def _one_kind(self) -> tuple[list[str], str]:
        """The most viewed items of the category with the most items, and the category."""
        import pyarrow.compute as pc

        catalogue = self.shop.catalogue(_now_ms())
        items, categories = catalogue["item_id"].to_pylist(), catalogue["category"].to_pylist()
        self.category_of = dict(zip(items, categories, strict=True))
        sizes = {category: categories.count(category) for category in categories}
        kind = max(sizes, key=lambda category: (sizes[category], category))
        counts = pc.value_counts(self.history["item_id"]).to_pylist()
        by_views = sorted(counts, key=lambda count: (-count["counts"], count["values"]))
        items = [count["values"] for count in by_views]
        return [item for item in items if self.category_of.get(item) == kind][:CLICKS], kind

    def _folded(self, user: str) -> int:
        """The user's views in the stream's rows, without pending events."""
        import pyarrow as pa

        from features.definitions import load_repo
        from features.online_store import FeatureReader
        from features.online_store.sqlite import SqliteRows

        reader = FeatureReader(SqliteRows(self.loop.home / "online.db"), load_repo(self.loop.repo))
        views = reader.read("user_activity", pa.array([user])).to_table()["user_view_count_24h"]
        return int(views[0].as_py() or 0)

    def _views(self, user: str) -> int:
        answer = self.loop.ask(f"/v1/features/user/{user}")
        values = answer["views"][0]["features"] if answer else {}
        return int(values.get("user_view_count_24h") or 0)

    def _share(self, answer: Mapping[str, Any] | None, category: str) -> float:
        items = _ids(answer)
        return float(sum(self.category_of.get(item) == category for item in items) / max(len(items), 1))

    def _items(self, answer: Mapping[str, Any] | None) -> str:
        return " ".join(f"{item}:{self.category_of.get(item, '?')}" for item in _ids(answer)[:5])

    def go_on(self) -> None:
        """Live traffic and a status line, until Ctrl-C."""
        self.loop.start("traffic", "generate", "--rate", "50", "--users", str(USERS), "--items", str(ITEMS))
        self.say("open", f"{self.loop.url}/docs  (the API)   {self.loop.url}/metrics   Ctrl-C ends all")
        self.say(
            "models", f"MLflow shows them: mlflow ui --host 127.0.0.1 --backend-store-uri {self.loop.tracking_uri}"
        )
        while True:
            self.loop.check()
            fold = self.loop.status().get("queries", {}).get("fold", {})
            age = fold.get("age", {}).get("p50_ms")
            fresh = f", features fresh in {age:.0f} ms" if age else ""
            self.say("live", f"{fold.get('rows_per_s', 0):,.0f} events/s, lag {fold.get('lag', 0)}{fresh}")
            time.sleep(5)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _rest(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts.get(name, 0):,}" for name in ("duplicate", "late", "dead_letter"))


def _ids(answer: Mapping[str, Any] | None) -> list[str]:
    return [item["item_id"] for item in answer["items"]] if answer else []


def _model_line(report: Mapping[str, Any]) -> str:
    return f"{report['model']} version {report['version']}: {report['reason']}"


def beside_own(report: Mapping[str, Any]) -> str:
    """The model beside the user's own most frequent items: whether it is surely better, surely worse, or neither.

    Args:
        report: as `headrace train --json` prints it.
    """
    model, own = (next(row for row in report["rows"] if row["model"] == name) for name in ("model", "own_frequent"))
    over, users = report["differences"]["own_frequent"], report["tested"]["users"]
    scores = f"NDCG@10 {model['ndcg_at_10']:.3f}, of everybody's own most frequent items {own['ndcg_at_10']:.3f}"
    recalls = f"recall@10 {model['recall_at_10']:.3f} and {own['recall_at_10']:.3f}"
    between = f"{over['low']:+.3f} to {over['high']:+.3f} for {users} users"
    if over["low"] > 0:
        return f"{scores}: surely better ({between}); {recalls}"
    why = "in this shop people mostly buy what they have looked at before"
    if over["high"] < 0:
        return f"{scores}: surely worse ({between}), as {why}; {recalls}"
    return f"{scores}: no sure difference ({between}), as {why}, and the test has few users; {recalls}"
