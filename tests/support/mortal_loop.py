"""A broker, a store and a stream that a test kills as a failing machine would, and starts again."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mixed_traffic import Sending
from redis_server import RedisServer
from stream_process import Process, StreamProcess

from features.definitions.repo import FeatureRepo, load_repo
from streaming.jars import kafka_jars
from streaming.kafka.broker import EmbeddedBroker
from streaming.kafka.topic_admin import ensure_topics

NEVER_FORGETS = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
STORES = {
    "sqlite": "{{type: headrace.feast.SqliteRowsOnlineStore, path: ../.headrace/store/online.db{deadline}}}",
    "redis": "{{type: headrace.feast.RedisRowsOnlineStore, url: '{url}'{deadline}}}",
}
FEATURE_STORE = """project: truth
provider: local
registry: ../.headrace/registry.db
online_store: {online}
offline_store: {{type: headrace.feast.ArchiveOfflineStore, path: ../.headrace/offline}}
entity_key_serialization_version: 3
"""
SETTINGS = """
[kafka]
bootstrap_servers = '{bootstrap}'
[stream]
spark_memory = '512m'
archive_trigger_s = 0.5
max_offsets_per_trigger = {max_offsets}
"""
CRASH_POINTS = tuple(
    f"{side} {effect}"
    for effect in ("letters", "publish", "remember", "rows", "archive")
    for side in ("before", "after")
)
AT_CRASH_POINT, AT_ANY_TIME, BROKER, STORE = "driver at a crash point", "driver at any time", "broker", "store"
LONGEST_PAUSE_S = 2.0


@dataclass
class MortalLoop:
    """Broker, store and stream of a project, and the number of kills of each kind."""

    root: Path
    broker: EmbeddedBroker
    redis: RedisServer | None
    repo: FeatureRepo
    rng: Random
    kills: Counter[str] = field(default_factory=Counter)
    replayed: int = 0

    @property
    def stream(self) -> StreamProcess:
        return StreamProcess(self.root, self.broker.bootstrap_servers)

    def lives(self, kills: int) -> list[list[str]]:
        """Lives of the driver: each a list of the kills during it, the driver's own last; ``kills`` in all."""
        at_points, at_times = 2 * kills // 5, kills // 5
        others = [
            BROKER if number % 2 or self.redis is None else STORE for number in range(kills - at_points - at_times)
        ]
        spans = [[*others[number::at_times], AT_ANY_TIME] for number in range(at_times)]
        lives = [*([AT_CRASH_POINT] for _ in range(at_points)), *spans]
        self.rng.shuffle(lives)
        return lives

    def live(self, life: list[str], sending: Sending, share: int) -> None:
        """Runs the driver through this life until it is dead; releases ``share`` messages for each kill."""
        if life == [AT_CRASH_POINT]:
            self._die_at_crash_point(sending, share)
            return
        with self.stream.running() as process:
            for kill in life:
                sending.release(share)
                self.stream.wait(process, lambda: self.stream.is_running(process))
                # A random instant, independent of what the loop does.
                time.sleep(self.rng.random() * LONGEST_PAUSE_S)
                self._kill(kill, process)
                self.kills[kill] += 1
                if kill != AT_ANY_TIME:
                    self.drained(process, sending)
        self.replayed += self.stream.unfinished()

    def _die_at_crash_point(self, sending: Sending, share: int) -> None:
        point = f"{self.rng.choice(CRASH_POINTS)}:{self.rng.randint(1, 3)}"
        sending.release(share)
        with self.stream.running(crash_at=point) as process:
            assert process.wait(120) == -signal.SIGKILL, (point, self.stream.said())
        # The rows of a new generation are written by the same effects as a batch's.
        assert self.stream.unfinished() > 0 or self.stream.is_building(), point
        self.replayed += self.stream.unfinished()
        self.kills[AT_CRASH_POINT] += 1

    def _kill(self, target: str, process: Process) -> None:
        if target == AT_ANY_TIME:
            process.kill()
            process.wait(30)
        elif target == BROKER:
            before = self.broker.bootstrap_servers
            self.broker.kill()
            assert self.broker.start() == before
        elif self.redis is not None:
            self.redis.kill()
            self.redis.start()

    def drained(self, process: Process, sending: Sending) -> None:
        """Waits until this driver has processed every released message."""
        self.stream.wait(process, sending.is_answered)
        self.stream.wait(process, lambda: self.stream.is_running(process) and self.stream.is_drained())

    def counts(self) -> dict[str, int]:
        """The fold's counts of records by verdict."""
        return dict(self.stream.queries()["fold"]["counts"])


@contextmanager
def mortal_loop(
    root: Path, definitions: Path, jars: Path, domain: str, store: str, max_offsets: int, seed: int
) -> Iterator[MortalLoop]:
    """A loop with a running broker and store, its topics and a written project; all are stopped afterwards."""
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(root / "broker", kafka_jars(jars), heap_mb=256))
        redis = None
        if store == "redis":
            redis = RedisServer(root / "redis", NEVER_FORGETS)
            stack.callback(redis.stop)
            redis.start()
        url = redis.url if redis else ""
        repo = _written(root, definitions, domain, STORES[store].format(url=url, deadline=", deadline_ms: 10000"))
        settings = SETTINGS.format(bootstrap=broker.bootstrap_servers, max_offsets=max_offsets)
        (root / "settings.toml").write_text(settings, encoding="utf-8")
        (root / ".headrace" / "jars").symlink_to((jars / "jars").resolve())
        ensure_topics(broker.bootstrap_servers, repo.streams.values())
        yield MortalLoop(root, broker, redis, repo, Random(seed))


def _written(root: Path, definitions: Path, domain: str, online: str) -> FeatureRepo:
    folder = root / "feature_repo"
    (root / ".headrace" / "store").mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    shutil.copy(definitions / f"{domain}.py", folder)
    (folder / "feature_store.yaml").write_text(FEATURE_STORE.format(online=online), encoding="utf-8")
    return load_repo(folder)
