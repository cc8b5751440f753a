"""What a deployment chooses: settings.toml, then settings.local.toml, then the environment, each over the one before.

A value of the environment is ``HEADRACE_<SECTION>__<KEY>`` (two underscores), and one of no section is
``HEADRACE_<KEY>``: ``HEADRACE_BROKER__PORT=9092``. It is read as TOML where it can be, and as text where not.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from features.errors import UsageError

FILES = ("settings.toml", "settings.local.toml")

PREFIX = "HEADRACE_"

VARIABLE = "the variable "

NOT_OURS = ("HEADRACE_DATA", "HEADRACE_SEED")
"""Variables of the tests."""

SECRETS = (("alerts", "postgres_password"), ("alerts", "webhook_token"))
"""Read from the environment alone, as the text that stands there."""

UNSPOKEN = (*SECRETS, ("alerts", "postgres"), ("alerts", "webhook"))
"""What may hold a secret: no message shows it."""


class Section(BaseModel):
    """Frozen, and with no key that is not written here."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """Which cluster, and how to reach it."""

    bootstrap_servers: str = ""
    """host:port,… of a cluster; empty runs a broker of our own on this machine."""
    client: dict[str, str | int | float | bool] = {}
    """Further options of librdkafka, such as security.protocol and sasl.username, for all that is not Spark."""
    spark: dict[str, str] = {}
    """The same in the names of Java's client, without "kafka." in front, for Spark."""
    schema_registry: str = ""
    """The address of a Schema Registry, whose numbers Avro messages begin with; empty for Avro without."""
    registry: dict[str, str | int | float | bool] = {}
    """Further options of confluent-kafka's SchemaRegistryClient, such as basic.auth.user.info."""
    partitions: int = Field(default=2, ge=1)
    """Of the topics that we make; existing ones stay as they are."""


class BrokerSettings(Section):
    """The broker of our own; unused with ``kafka.bootstrap_servers``."""

    port: int = Field(default=0, ge=0, le=65_535)
    """On loopback; 0 takes a free one, and the same again in the next run where it can."""
    heap_mb: int = Field(default=384, ge=128)
    """Java's heap."""


class StreamSettings(Section):
    """The queries that fold and archive events."""

    repo: str = "feature_repo"
    """The folder with the definitions."""
    trigger_ms: int = Field(default=100, ge=0)
    """The shortest time between two batches of the fold."""
    archive_trigger_s: float = Field(default=10, gt=0)
    """The time between two commits to the offline store."""
    max_offsets_per_trigger: int = Field(default=100_000, ge=1)
    """The most records of a batch: what bounds memory, and the time to stop."""
    driver_records: int = Field(default=200_000, ge=0)
    """The most records of a batch that the driver folds itself; executors fold a larger one."""
    keep_older_s: float = Field(default=600, ge=0)
    """How long rows of an older definition stay and are folded on once readers have newer ones, at least; longer where
    an alias names a model that needs them."""
    freshness_slo_ms: float = Field(default=1_000, gt=0)
    """How old an event should be at most when its features can be read."""
    spark_master: str = "local[2]"
    """local[cores], or the address of a Spark cluster."""
    spark_memory: str = "1g"
    """The heap of Spark's driver."""
    long_running: bool = False
    """Spark's Java is compiled for hours of load: half the processor time a record after some minutes, for five seconds
    more of it at the start."""
    scores_topic: str = "scores"
    """The topic of what event models say of each event, where the definitions have such models."""
    alerts_topic: str = "alerts"
    """The topic of the events that reach a model's threshold or meet a rule."""


class OfflineSettings(Section):
    """The tables of all events."""

    path: str = ".headrace/offline"
    """A folder, below the project where it is relative; one Delta table for each stream is in it."""
    rows_in_memory: int = Field(default=10_000_000, ge=1)
    """Events that a rebuild reads at once; more are built a part of the entities at a time."""
    compact_every_min: float = Field(default=60, ge=0)
    """How often `headrace stream` makes few large files of many small ones; 0 for never."""
    keep_versions_h: int = Field(default=168, ge=1)
    """For how long files that a compaction replaced stay, for readers of older versions."""


class ServingSettings(Section):
    """The HTTP service."""

    host: str = "127.0.0.1"
    """Where it listens; 0.0.0.0 for everybody."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """0 takes a free one."""
    deadline_ms: float = Field(default=150, gt=0)
    """After this a request is answered with what there is."""
    served_log_share: float = Field(default=0.1, ge=0, le=1)
    """How many answers are logged with what they were made of, where the definitions have a stream 'served'."""
    canary_share: float = Field(default=0.05, ge=0, le=0.5)
    """The share of the users whom the version of the alias canary answers; 'headrace models canary' may say another."""
    canary_slower: float = Field(default=1.5, gt=1)
    """A canary stops when its answers surely take longer, and at the median more than so many times as long."""
    shadow_share: float = Field(default=0, ge=0, le=1)
    """About how many answers the challenger is asked too, after them; what it says is logged and never answered."""
    read_age_slo_s: float = Field(default=86_400, gt=0)
    """How old the newest event of whom a request reads should be at most: /metrics says for how many it is."""
    replicas: int = Field(default=1, ge=1)
    """How many processes answer."""
    own_clicks: bool = True
    """An event that POST /v1/events accepts counts in the next read, before the stream has folded it."""


class MlflowSettings(Section):
    """The registry of models."""

    tracking_uri: str = "sqlite:///mlruns/mlflow.db"
    """A database below the project, or the address of a server."""


class AlertsSettings(Section):
    """Where `headrace alerts deliver` takes alerts."""

    group: str = "headrace-alerts"
    """Whose places in the topic they are: with another, another process takes all alerts once more, elsewhere."""
    table: str = "alerts"
    """A Delta table of this name beside those of the streams; empty for none."""
    table_every_s: float = Field(default=10, ge=0)
    """How long an alert may wait for others to be committed with."""
    postgres: str = ""
    """A database as libpq takes it, such as "host=db dbname=fraud", without a password; empty for none."""
    postgres_table: str = Field(default="alerts", pattern=r"^[^.]+(\.[^.]+)?$")
    """NAME or SCHEMA.NAME; it is made when it is not there."""
    postgres_password: SecretStr = SecretStr("")
    """Only HEADRACE_ALERTS__POSTGRES_PASSWORD; empty for what libpq finds itself (PGPASSWORD, ~/.pgpass)."""
    webhook: str = ""
    """Each alert is posted there; empty for none. An address that is a secret itself: HEADRACE_ALERTS__WEBHOOK."""
    webhook_token: SecretStr = SecretStr("")
    """Only HEADRACE_ALERTS__WEBHOOK_TOKEN: sent as Authorization: Bearer; empty for none."""
    webhook_timeout_s: float = Field(default=10, gt=0)
    """How long the receiver is waited for."""

    @field_validator("postgres")
    @classmethod
    def _has_no_password(cls, value: str) -> str:
        if re.search(r"password\s*=|//[^/@]*:[^/@]+@", value):
            raise ValueError("no password in it: HEADRACE_ALERTS__POSTGRES_PASSWORD is for that")
        return value

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not re.fullmatch(r"(https?://[^/\s]+\S*)?", value):
            raise ValueError("an address http://… or https://…")
        return value


class Settings(Section):
    """Everything that a deployment chooses."""

    home: str = ".headrace"
    """The folder of all that running makes, below the project where it is relative."""
    kafka: KafkaSettings = KafkaSettings()
    broker: BrokerSettings = BrokerSettings()
    stream: StreamSettings = StreamSettings()
    offline: OfflineSettings = OfflineSettings()
    serving: ServingSettings = ServingSettings()
    mlflow: MlflowSettings = MlflowSettings()
    alerts: AlertsSettings = AlertsSettings()
    training: dict[str, Any] = {}
    """What `headrace train` is set to, by the names of training.settings.TrainingSettings, which checks it."""


def read_settings(root: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of the project in ``root``.

    Raises:
        UsageError: a file that is no TOML; a key that does not exist, with the nearest one that does; a wrong value.
    """
    merged: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    for origin, values in [*_files(root), *_variables(environ)]:
        _merge(merged, values, origin, origins)
    _check_secrets(origins)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise _explained(error, origins) from None


def _check_secrets(origins: Mapping[tuple[str, ...], str]) -> None:
    for path in SECRETS:
        origin = origins.get(path, VARIABLE)
        if not origin.startswith(VARIABLE):
            variable = f"{PREFIX}{'__'.join(path).upper()}"
            raise UsageError(f"secret '{'.'.join(path)}'", f"the variable {variable}", f"a line in {origin}")


def _files(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in FILES:
        path = root / name
        if path.is_file():
            yield str(path), _toml(path)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"settings in {path}", "a TOML file", str(error).rstrip(".")) from None


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One origin for each variable of ours, in the order of their names; others are none of our business."""
    sections = set(Settings.model_fields)
    for name in sorted(environ):
        path = name.removeprefix(PREFIX).lower().split("__", 1)
        if name.startswith(PREFIX) and name not in NOT_OURS and (len(path) > 1 or path[0] in sections):
            value = environ[name] if tuple(path) in SECRETS else _value(environ[name])
            yield f"{VARIABLE}{name}", _nested(path, value)


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(
    into: dict[str, Any], values: Mapping[str, Any], origin: str, origins: dict[tuple[str, ...], str], *at: str
) -> None:
    """``into`` has the values over its own; ``origins`` says where each comes from."""
    for key, value in values.items():
        origins[*at, key] = origin
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, origin, origins, *at, key)
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value, origin, origins, *at, key)
        else:
            into[key] = value


def _explained(error: ValidationError, origins: Mapping[tuple[str, ...], str]) -> UsageError:
    """The first thing that is wrong, where it is written, and what may stand there."""
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first["loc"])
    where = f"setting '{'.'.join(path)}' in {_origin(path, origins)}"
    if first["type"] == "extra_forbidden":
        known = _known(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else ""
        return UsageError(where, f"a name of {', '.join(known)}", f"'{path[-1]}'", hint)
    return UsageError(where, _required(first["msg"]), "another" if path in UNSPOKEN else repr(first["input"]))


def _origin(path: tuple[str, ...], origins: Mapping[tuple[str, ...], str]) -> str:
    """Where the setting is written, or else the section that it belongs to."""
    ends = range(len(path), 0, -1)
    return next((origins[path[:end]] for end in ends if path[:end] in origins), FILES[0])


def _known(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def _required(message: str) -> str:
    """Pydantic's sentence as what is required."""
    text = message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
    return text[:1].lower() + text[1:]
