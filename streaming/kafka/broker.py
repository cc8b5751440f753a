"""A real Kafka broker for a single machine: a KRaft node on loopback, with its data in the project's home.

The broker's Java process ends when the process that started it does, however that one ends: a shell beside it reads a
pipe from the starter, and stops Java when the pipe closes. A lock on the data folder is held by all of them, so that no
second broker can start on the folder while anything of the first one still runs.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from features.errors import HeadraceError
from features.machine import LOOPBACK, FileLock, free_port, write_text
from streaming.jars import check_folder, find_java, jars_in
from streaming.kafka.ports import accepts, becomes_free, is_free

READY_S = 120.0

STOP_S = 30.0

LEAVING_S = 1.0

POLL_S = 0.05

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

LEAST_ROOM = 64 * 1024
"""With fewer bytes left not even the log has room for the cause."""

TRIES = 3
"""Ports that were free a moment ago may be taken by the time Java binds them."""

TETHERED = """
exec 3<&0
{ read -r _ <&3; kill $$; } >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""
"""A shell that becomes Java, and another that waits for the pipe from us to close and then stops Java."""

JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # on a laptop compiling costs more than it gains: 2.2 instead of 3.5 s of CPU to start
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
)

CONFIG = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
num.partitions=2
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=8388608
"""

LOGGING = """
status = error
name = broker
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""


class BrokerError(HeadraceError):
    """Raised when the broker cannot start, or is needed and does not run."""


class EmbeddedBroker:
    """A Kafka broker of ours on the data of a project's home.

    Args:
        home: the project's home; data is in ``kafka`` below it, the log in ``logs/kafka.log``.
        jars: the folder with Kafka's jars, as streaming.jars.resolve_kafka() returns it.
        port: the port of loopback for clients; 0 takes the port of the last run where it is free, else any free one.
        heap_mb: Java's heap.
    """

    def __init__(self, home: Path, jars: Path, port: int = 0, heap_mb: int = 384) -> None:
        self.home = home.absolute()
        self.jars = jars.absolute()
        self.port = port
        self.heap_mb = heap_mb
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = FileLock(self.folder / "owner")

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, once it has started."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def folder(self) -> Path:
        """The folder of the broker's data."""
        return self.home / "kafka"

    @property
    def log(self) -> Path:
        """The log of the broker's Java."""
        return self.home / "logs" / "kafka.log"

    @property
    def process_id(self) -> int | None:
        """Java's process, which leads a group of its own; None where there is none."""
        return None if self._process is None else self._process.pid

    def is_running(self) -> bool:
        """True between start() and stop(), unless it crashed."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """The broker answers clients; returns its bootstrap servers. Data of an earlier run is there again.

        Raises:
            BrokerError: another broker has the home, the port is taken, or Kafka does not start.
            JarsError: there is no Java, or a jar is missing.
        """
        if self.is_running():
            return self.bootstrap_servers
        self.kill()
        java = find_java()
        check_folder(self.jars)
        try:
            self._take_lock()
            self._start_on_free_ports(java)
            write_text(self.folder / "bootstrap", self.bootstrap_servers)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise self._no_room() from error
            raise
        return self.bootstrap_servers

    def stop(self) -> None:
        """End the broker after it has written its data; nothing of it is left running. May be called twice."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """Kill the broker as a crash would (SIGKILL): for tests, and where it does not stop."""
        self._end_process()
        self._unlock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- one at a time ----------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        if not self._lock.take():
            owner = self._lock.owner()
            next_step = f"Stop it (process {owner}), or use another home." if owner else "Use another home."
            raise BrokerError(f"a Kafka broker on {self.folder}", "the folder for itself", "another", next_step)

    def _unlock(self) -> None:
        if self._lock.is_taken():
            (self.folder / "bootstrap").unlink(missing_ok=True)
            self._lock.release()

    def _end_process(self) -> None:
        """Kill Java and the shell beside it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    # --- start ------------------------------------------------------------------------------------------------------

    def _start_on_free_ports(self, java: str) -> None:
        for attempt in range(TRIES):
            self._choose_port()
            self._configure(java)
            self._launch(java)
            if self._becomes_ready():
                write_text(self.folder / "port", str(self.port))
                return
            if self._wanted_port or attempt == TRIES - 1 or "Address already in use" not in self._log_text():
                raise self.failure()
            self._end_process()

    def _choose_port(self) -> None:
        if self._wanted_port:
            if not is_free(self._wanted_port):
                raise _port_taken(self._wanted_port)
            self.port = self._wanted_port
            return
        last = _read_port(self.folder / "port")
        self.port = last if last and becomes_free(last, LEAVING_S) else free_port()

    def _configure(self, java: str) -> None:
        values = {"host": LOOPBACK, "port": self.port, "controller_port": free_port(), "data": self.folder / "data"}
        write_text(self.folder / "server.properties", CONFIG.format(**values).lstrip())
        write_text(self.folder / "log4j2.properties", LOGGING.lstrip())
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        if _has_no_topics(self.folder / "data"):
            self._format(java)

    def _java(self, java: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        classpath = os.pathsep.join(str(jar) for jar in jars_in(self.jars))
        return [java, f"-Xmx{self.heap_mb}m", *JVM, logging, "-cp", classpath, *arguments]

    def _format(self, java: str) -> None:
        """Format the data folder with a new cluster id; what a failed start left there is deleted."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        config = str(self.folder / "server.properties")
        command = self._java(java, "kafka.tools.StorageTool", "format")
        with self.log.open("ab") as log:
            done = subprocess.run([*command, "-t", _cluster_id(), "-c", config], stdout=log, stderr=log, check=False)
        if done.returncode:
            raise self.failure()

    def _launch(self, java: str) -> None:
        command = self._java(java, "kafka.Kafka", str(self.folder / "server.properties"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", TETHERED, "kafka", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=self._lock.descriptors(),
                start_new_session=True,  # Ctrl-C is for us: we stop the broker after those who use it
            )

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.is_running():
            if accepts(self.port) and _answers(self.bootstrap_servers):
                return True
            time.sleep(POLL_S)
        return False

    # --- what went wrong --------------------------------------------------------------------------------------------

    def _log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def _no_room(self) -> BrokerError:
        next_step = f"Make room: du -xh {self.home} | sort -h"
        return BrokerError(f"the Kafka broker in {self.folder}", "room on its disk", "none left", next_step)

    def failure(self) -> BrokerError:
        """The error that made it fail to start, or end, by its log."""
        text = self._log_text()
        where = f"the Kafka broker in {self.folder}"
        if "Address already in use" in text:
            return _port_taken(self.port)
        if "No space left on device" in text or shutil.disk_usage(self.folder).free < LEAST_ROOM:
            return self._no_room()
        if "UnsupportedClassVersionError" in text:
            return BrokerError(where, "Java 17 or 21", "an older one", "See headrace doctor.")
        return BrokerError(where, "Kafka to start", _cause(text), f"Its log: {self.log}")


def running_broker(home: Path) -> str | None:
    """The bootstrap servers of the broker that runs on the home, whoever started it; None where none does."""
    folder = home.absolute() / "kafka"
    try:
        bootstrap = (folder / "bootstrap").read_text(encoding="utf-8")
    except OSError:
        return None
    return bootstrap if FileLock(folder / "owner").is_held() else None


def has_data(home: Path) -> bool:
    """True when a broker of ours has run on the home and left its data."""
    return not _has_no_topics(home.absolute() / "kafka" / "data")


def _has_no_topics(data: Path) -> bool:
    """True before the first start has come so far as to make a folder: that of the cluster's metadata is the first."""
    return not data.exists() or not any(path.is_dir() for path in data.iterdir())


def _port_taken(port: int) -> BrokerError:
    next_step = f"See who has it (ss -ltnp 'sport = :{port}'), or set [broker] port = 0 for a free one."
    return BrokerError("the Kafka broker", f"port {port} of {LOOPBACK}", "a port that is taken", next_step)


def _answers(bootstrap_servers: str) -> bool:
    """True when a client gets the cluster's metadata, with a broker in it."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    options: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    try:
        return bool(AdminClient(options).list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def _cause(log: str) -> str:
    """The line of Java's log that has the cause."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"(Caused by: |Exception in|Error[: ])|.*(Exception|Error): ", line)]
    return (causes or lines or ["nothing in its log"])[-1].rstrip(".")


def _cluster_id() -> str:
    """22 characters of base64, as Kafka requires it: never with a dash at the start."""
    import base64
    import uuid

    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _read_port(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
