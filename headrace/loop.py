"""The whole loop on one machine: the broker, and the stream, the service and training as processes.

No other module knows all of them. They exchange data through Kafka, the stores, the registry and HTTP, never through an
import: each process is the same command that a person would run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from features.errors import HeadraceError
from features.machine import LOOPBACK
from features.online_store import status_file
from headrace.client import access_headers

if TYPE_CHECKING:
    from types import TracebackType

    import pyarrow as pa

    from headrace.settings import Settings

STOP_WITHIN_S = 25.0

POLL_S = 0.1

KEYS = "keys.json"
"""The file of the service's keys, in the home of a loop of its own: it asks for none unless somebody puts one there."""

MOST_LOG_BYTES = 16 << 20
"""Bytes of a log of the loop's processes, and of what is kept of it before."""

OWN_STORE = """\
project: headrace
provider: local
registry: ../registry.db
online_store:
  type: headrace.feast.SqliteRowsOnlineStore
  path: ../online.db
offline_store:
  type: headrace.feast.ArchiveOfflineStore
  path: ../offline
entity_key_serialization_version: 3
"""


class LoopError(HeadraceError):
    """Raised when a part of the loop does not start, or does not do its part in time."""


@dataclass
class Child:
    """A headrace command as a process, in a session of its own so that all it starts ends with it."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, arguments: list[str], environment: Mapping[str, str], root: Path, logs: Path) -> Self:
        """The started process, with its output in a log file."""
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{name}.log"
        with log.open("ab") as file:
            process = started(arguments, environment, root, file, file)
        return cls(name, log, process)

    def check(self) -> None:
        """Raises LoopError if it has ended."""
        if self.process.poll() is not None:
            raise LoopError(f"'{self.name}'", "to run", f"exit {self.process.returncode}: {self._last_line()}")

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1].strip()} (all of it: {self.log})" if lines else f"no word (see {self.log})"

    def stop(self) -> None:
        """The process and all it started have ended: by SIGTERM, or by SIGKILL after STOP_WITHIN_S."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_WITHIN_S)
        with_group_gone(self.process.pid)
        self.process.wait()


def started(
    arguments: Sequence[str], environment: Mapping[str, str], root: Path, stdout: IO[bytes] | int, stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """A headrace command that leads a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", *arguments],
        cwd=root,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def with_group_gone(leader: int) -> None:
    """No process of the session that this process led is left."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass
class Loop:
    """The running parts and their addresses; leaving the block ends all of them, the last started first."""

    root: Path
    settings: Settings
    home: Path
    repo: Path
    port: int
    tracking_uri: str
    bootstrap: str = ""
    children: list[Child] = field(default_factory=list)
    _broker: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with uninterrupted():  # a second Ctrl-C would leave behind what was not stopped yet
            for child in reversed(self.children):
                child.stop()
            if self._broker is not None:
                self._broker.stop()

    def start_broker(self) -> str:
        """The bootstrap servers of the configured cluster or of our broker, started for it; the topics exist."""
        from features.definitions import load_repo
        from streaming.jars import resolve_kafka
        from streaming.kafka import EmbeddedBroker, ensure_topics

        self.bootstrap = self.settings.kafka.bootstrap_servers
        if not self.bootstrap:
            chosen = self.settings.broker
            self._broker = EmbeddedBroker(self.home, resolve_kafka(self.home), chosen.port, chosen.heap_mb)
            self.bootstrap = self._broker.start()
        streams = load_repo(self.repo).streams.values()
        ensure_topics(self.bootstrap, streams, self.settings.kafka.partitions, self.settings.kafka.client)
        return self.bootstrap

    def send(self, tables: Iterable[tuple[str, pa.Table]]) -> None:
        """The (stream, events) are acknowledged by Kafka. Raises HeadraceError where any is not."""
        from features.definitions import load_repo
        from streaming.kafka import EventProducer
        from streaming.replay import Stop, Tally, in_file_order, send_all

        streams, tally = load_repo(self.repo).streams, Tally()
        producer = EventProducer(self.bootstrap, self.settings.kafka.client)
        send_all(in_file_order(iter(tables), streams, 0), producer, Stop(), tally, None)
        tally.check("the loop's events")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the children, over the settings' files."""
        ours = {
            "HEADRACE_HOME": str(self.home),
            "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "HEADRACE_OFFLINE__PATH": str(self.home / "offline"),
            "HEADRACE_SERVING__HOST": self.host,
            "HEADRACE_SERVING__KEYS": str((self.home / KEYS).resolve()),
            "HEADRACE_SERVING__PORT": str(self.port),
            "HEADRACE_STREAM__REPO": str(self.repo),
            "HEADRACE_MLFLOW__TRACKING_URI": self.tracking_uri,
        }
        return {**os.environ, **ours}

    def start(self, name: str, *arguments: str) -> Child:
        """The started headrace command, which runs until the loop ends."""
        with uninterrupted():
            child = Child.start(name, list(arguments), self.environment, self.root, self.home / "logs")
            self.children.append(child)
        return child

    def end(self, child: Child) -> None:
        """The part and all it started have ended, before the loop does."""
        child.stop()
        self.children.remove(child)

    def run(self, name: str, *arguments: str) -> str:
        """The standard output of a headrace command, run to its end."""
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process: subprocess.Popen[bytes] | None = None
            try:
                with uninterrupted():
                    process = started(arguments, self.environment, self.root, subprocess.PIPE, file)
                output, _ = process.communicate()
            finally:
                if process is not None:
                    with_group_gone(process.pid)
                    process.wait()
        if process.returncode:
            lines = log.read_text(errors="replace").splitlines() or ["no word"]
            raise LoopError(f"'headrace {' '.join(arguments)}'", "exit 0", f"{process.returncode}: {lines[-1]}")
        return output.decode()

    def check(self) -> None:
        """Raises LoopError if a part has ended; logs are kept short."""
        for log in (self.home / "logs").glob("*.log"):
            keep_short(log)
        for child in self.children:
            child.check()

    def wait(self, what: str, ready: Callable[[], Any], within_s: float) -> Any:
        """The first true result of ``ready``. Raises LoopError when a part ends or the time is over."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            self.check()
            result = ready()
            if result:
                return result
            time.sleep(POLL_S)
        raise LoopError(what, f"within {within_s:.0f} s", "nothing yet", f"See the logs in {self.home / 'logs'}.")

    def status(self) -> dict[str, Any]:
        """The stream's last status; empty before the first."""
        try:
            status: dict[str, Any] = json.loads(status_file(self.home).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return status

    def counted(self) -> dict[str, int]:
        """Verdict → number of the records that the stream has folded so far."""
        counts = self.status().get("queries", {}).get("fold", {}).get("counts", {})
        return {name: int(count) for name, count in counts.items()}

    def has_counted(self, records: int) -> bool:
        """The stream has folded so many records, whatever their verdicts."""
        return sum(self.counted().values()) >= records

    def ask(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any] | None:
        """The service's answer; None where there is none, or a refusal."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **access_headers()}
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                answer: dict[str, Any] = json.loads(response.read())
        except (urllib.error.URLError, TimeoutError, ConnectionError, json.JSONDecodeError):
            return None
        return answer

    @property
    def host(self) -> str:
        """Where this machine reaches the service."""
        return LOOPBACK

    @property
    def url(self) -> str:
        """The service's address."""
        return f"http://{self.host}:{self.port}"


def keep_short(log: Path, most: int = MOST_LOG_BYTES) -> None:
    """The log has at most ``most`` bytes, and its newest before that are in ``<log>.1``; those who write it append."""
    with suppress(OSError):
        size = log.stat().st_size
        if size <= most:
            return
        with log.open("rb+") as file:  # a rename would leave its writers with the old file
            file.seek(max(size - most, 0))
            with log.with_name(f"{log.name}.1").open("wb") as before:
                shutil.copyfileobj(file, before)
            file.truncate(0)


@contextmanager
def temporary_home(project_home: Path, prefix: str) -> Iterator[Path]:
    """A temporary home below the project's, with the project's jars."""
    (project_home / "jars").mkdir(parents=True, exist_ok=True)
    home: Path | None = None
    try:
        with uninterrupted():
            home = Path(tempfile.mkdtemp(prefix=prefix, dir=project_home))
        share_jars(project_home, home)
        yield home
    finally:
        with uninterrupted():
            if home is not None:
                shutil.rmtree(home, ignore_errors=True)


def share_jars(project_home: Path, home: Path) -> None:
    """The other home has the project's jars."""
    if not (home / "jars").exists():
        (home / "jars").symlink_to((project_home / "jars").resolve())


def own_repo(repo: Path, home: Path, store: str = OWN_STORE, domains: Collection[str] = ()) -> Path:
    """A copy of the definitions in this home, with a store of its own in place of the original's.

    Args:
        store: the text of feature_store.yaml.
        domains: the files of definitions that are copied, without .py; all unless given.
    """
    left_out = [path.name for path in repo.glob("*.py") if domains and path.stem not in (*domains, "feast_repo")]
    ignore = shutil.ignore_patterns("__pycache__", *left_out)
    copy = Path(shutil.copytree(repo, home / "feature_repo", ignore=ignore))
    (copy / "feature_store.yaml").write_text(store, encoding="utf-8")
    return copy


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM during the block take effect at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


@contextmanager
def interrupts_end_it() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that everything that was started is stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
