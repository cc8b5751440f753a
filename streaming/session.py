"""The Spark session that carries bytes from Kafka to the driver: small, on loopback, with no work of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    # An empty batch would cost its two log files and tell nobody anything.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.stopTimeout": "20s",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
# Of the two files that every batch leaves in its checkpoint, Hadoop's usual way with a local disk makes a dozen: it
# starts chmod and readlink for each, which takes ten times as long as all the rest (42 ms a file; so, 4). Spark's own
# checksums stay on.
LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
}
# A pause of the collector is seen in every feature's age: little work for it at a time beats much throughput.
JVM_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
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
    "kafka.fetch.max.wait.ms": "20",  # 500 by default, which half of all events would wait out
}
COLUMNS = ("topic", "partition", "offset", "unix_millis(timestamp) AS timestamp", "key", "value", "headers")
"""What read_topics() has of each message; ``timestamp`` is in ms."""


def session_options(master: str, memory: str, jars: Sequence[Path], logging: Path) -> dict[str, str]:
    """The settings of a session: on one machine all on loopback and the jars on the class path, not copied about."""
    java = f"{JVM_OPTIONS} -Dlog4j2.configurationFile={logging.resolve().as_uri()}"
    local = master.startswith("local")
    paths = [str(jar) for jar in jars]
    placed = {"spark.driver.extraClassPath": os.pathsep.join(paths)} if local else {"spark.jars": ",".join(paths)}
    given = {"spark.master": master, "spark.driver.memory": memory, "spark.driver.extraJavaOptions": java}
    return OPTIONS | (LOCAL if local else {}) | given | (placed if jars else {})


def spark_session(master: str, memory: str, jars: Sequence[Path], logs: Path) -> SparkSession:
    """A running session, which logs into the folder ``logs``; its JVM ends with this process, whatever ends that."""
    # Python that Spark may start must be this one, and not the python3 of the PATH.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if master.startswith("local"):
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    logs.mkdir(parents=True, exist_ok=True)
    logging = logs / "log4j2.properties"
    logging.write_text(LOGGING.format(folder=logs.resolve()), encoding="utf-8")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("headrace")
    for name, value in session_options(master, memory, jars, logging).items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def read_topics(spark: SparkSession, topics: Sequence[str], bootstrap: str, options: Mapping[str, str]) -> DataFrame:
    """The topics' messages as a stream with COLUMNS; ``options`` are the Kafka source's, and win over our defaults."""
    given = SOURCE | {"kafka.bootstrap.servers": bootstrap, "subscribe": ",".join(topics)} | dict(options)
    return spark.readStream.format("kafka").options(**given).load().selectExpr(*COLUMNS)
