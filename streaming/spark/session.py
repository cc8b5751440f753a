"""The Spark session: small and on loopback, it carries bytes from Kafka to the driver."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import TYPE_CHECKING

from features.errors import HeadraceError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ENDS_WITHIN_S = 3.0
"""A connection to Java breaks a moment before the process is gone."""

OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    # Plans are short and always the same: making them anew at every stage costs more than it could save.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
    # An empty batch would cost its two log files and report nothing.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.stopTimeout": "20s",
    # What was fetched beyond a range of offsets stays in the heap, for each range of a large batch: not for 5 min.
    "spark.kafka.consumer.fetchedData.cache.timeout": "10s",
    "spark.kafka.consumer.fetchedData.cache.evictorThreadRunInterval": "2s",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}

# Of the two files that every batch leaves in its checkpoint, Hadoop's usual way with a local disk makes a dozen: it
# starts chmod and readlink for each, which takes ten times as long as all the rest (42 ms a file; this way, 4). Spark's
# own checksums stay on.
LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
}

# A pause of the collector is seen in every feature's age: little work for it at a time beats much throughput.
JVM_OPTIONS = "-XX:+UseSerialGC"

SOON_READY = "-XX:TieredStopAtLevel=1"
"""Java's quick compiler alone: 9 instead of 14 s of a processor until the first batch, but 8.4 instead of 4.0 µs a
record once some millions have passed (ADR 28)."""

LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {folder}/spark.log
appender.file.filePattern = {folder}/spark.%i.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c{{1}}: %m%n%ex
appender.file.policies.type = SizeBasedTriggeringPolicy
appender.file.policies.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
"""

SOURCE = {
    "startingOffsets": "earliest",
    "failOnDataLoss": "true",
    "includeHeaders": "true",
    "kafka.isolation.level": "read_committed",  # Java reads records of aborted transactions by default
    "kafka.fetch.max.wait.ms": "20",  # 500 by default, which half of all events would wait out
}

# Spark asks how large a batch for Python is after every record of it, and Arrow then fills in again all lists that were
# null so far: of 50,000 messages without headers that took 20 s, of twice as many four times as long.
HEADERS = "coalesce(headers, array()) AS headers"

COLUMNS = ("topic", "partition", "offset", "unix_millis(timestamp) AS timestamp", "key", "value", HEADERS)
"""The columns of read_topics(); ``timestamp`` is in ms, ``headers`` are none rather than null."""


def session_options(
    master: str, memory: str, jars: Sequence[Path], settings: Path, long_running: bool = False
) -> dict[str, str]:
    """The settings of a session: on a single machine, on loopback, and the jars on the class path instead of copied."""
    compiler = "" if long_running else SOON_READY
    java = f"{JVM_OPTIONS} {compiler} -Dlog4j2.configurationFile={settings.resolve().as_uri()}"
    local = master.startswith("local")
    paths = [str(jar) for jar in jars]
    class_path = os.pathsep.join(paths)
    on_class_path = {"spark.driver.extraClassPath": class_path, "spark.executor.extraClassPath": class_path}
    placed = on_class_path if local else {"spark.jars": ",".join(paths)}
    ours = {"spark.master": master, "spark.driver.memory": memory, "spark.driver.extraJavaOptions": java}
    return OPTIONS | (LOCAL if local else {}) | ours | (placed if jars else {}) | _python_path()


def _python_path() -> dict[str, str]:
    """Executors import what this process imports: from its path, and not from the folder that they run in."""
    path = os.environ.get("PYTHONPATH")
    return {"spark.executorEnv.PYTHONSAFEPATH": "1"} | ({"spark.executorEnv.PYTHONPATH": path} if path else {})


def spark_session(
    master: str, memory: str, jars: Sequence[Path], logs: Path, long_running: bool = False
) -> SparkSession:
    """A running session, which logs into the folder ``logs``; its JVM ends with this process, whatever ends that.

    Args:
        long_running: compile for speed over hours, not for a quick start.
    """
    # Python that Spark may start must be this one, and not the python3 of the PATH.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if master.startswith("local"):
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    logs.mkdir(parents=True, exist_ok=True)
    redirect_py4j_log(logs / "gateway.log")
    settings = logs / "log4j2.properties"
    settings.write_text(LOGGING.format(folder=logs.resolve()), encoding="utf-8")
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("headrace")
    for name, value in session_options(master, memory, jars, settings, long_running).items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except PySparkRuntimeError as error:
        got = str(error).strip().rstrip(".")
        raise SparkError("Spark", "a Java process that starts", got, "Run 'headrace doctor'.") from None


def redirect_py4j_log(path: Path) -> None:
    """Redirects py4j's log to a file: calls that the end of Java interrupts are tracebacks that help nobody."""
    logger, root = logging.getLogger("py4j"), logging.getLogger()
    for handler in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(logging.FileHandler(path, encoding="utf-8", delay=True))
    logger.propagate = False
    if _is_not_of_py4j not in root.filters:
        root.addFilter(_is_not_of_py4j)


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    """False for what py4j logs by the root logger, as it does when a call gets no answer: its own logger has it."""
    if Path(record.pathname).parent.name != "py4j":
        return True
    logging.getLogger("py4j").handle(record)
    return False


class SparkError(HeadraceError):
    """Raised when Spark's Java process does not start, or has ended: no data is lost, but nothing runs any more."""


class Java:
    """The Java process of a session that this process started.

    Args:
        logs: the folder that it logs into.
    """

    def __init__(self, spark: SparkSession, logs: Path) -> None:
        self._process: Popen[bytes] | None = getattr(spark.sparkContext._gateway, "proc", None)
        self._logs = logs

    @property
    def is_running(self) -> bool:
        """True until it has ended."""
        return self._process is None or self._process.poll() is None

    def check(self, within_s: float = 0.0) -> None:
        """Raise SparkError if it has ended, or ends within this time."""
        if self._process is None:
            return
        with suppress(TimeoutExpired):
            got = _ending(self._process.wait(within_s))
            next_step = "Nothing is lost: 'headrace stream' goes on where it was."
            if got == "SIGKILL":
                next_step += " Where the system killed it for want of memory, end other programs first."
            where = f"Spark's Java process {self._process.pid}"
            see_log = f"{next_step} See {self._logs / 'spark.log'}."
            raise SparkError(where, "to run as long as the stream", f"its end by {got}", see_log)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what the block raises into a SparkError if the process has ended."""
        try:
            yield
        except Exception:
            self.check(ENDS_WITHIN_S)
            raise


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


@contextmanager
def running_session(
    master: str, memory: str, jars: Sequence[Path], logs: Path, long_running: bool = False
) -> Iterator[tuple[SparkSession, Java]]:
    """A session (spark_session) and its Java, stopped at the end of the block.

    Raises:
        SparkError: Java ended inside the block.
    """
    spark = spark_session(master, memory, jars, logs, long_running)
    java = Java(spark, logs)
    try:
        with java.watched():
            yield spark, java
    finally:
        if java.is_running:
            spark.stop()


def read_topics(spark: SparkSession, topics: Sequence[str], bootstrap: str, options: Mapping[str, str]) -> DataFrame:
    """The topics' messages as a stream with COLUMNS; ``options`` are the Kafka source's, and win over our defaults."""
    merged = SOURCE | {"kafka.bootstrap.servers": bootstrap, "subscribe": ",".join(topics)} | dict(options)
    return spark.readStream.format("kafka").options(**merged).load().selectExpr(*COLUMNS)
