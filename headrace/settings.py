"""Settings of a deployment: settings.toml, settings.local.toml, secret files, the environment; the later ones win.

A variable of the environment is ``HEADRACE_<SECTION>__<KEY>`` (two underscores), or ``HEADRACE_<KEY>`` for a key of no
section: ``HEADRACE_BROKER__PORT=9092``. A value is read as TOML if it is TOML, otherwise as text. A secret file has a
variable's name, in the folder that ``HEADRACE_SECRETS_DIR`` names, and its value, as container platforms mount secrets.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from features.errors import UsageError
from features.redaction import remember_secrets, written_secrets
from features.secret_files import PREFIX, SECRETS_DIR, secret_files
from serving.settings import ServingSettings
from streaming.settings import StreamSettings

FILES = ("settings.toml", "settings.local.toml")

VARIABLE = "the variable "

SECRET_FILE = "the secret file "

TRACKED = FILES[0]
"""The file of settings that is in version control: no secret is in it."""

NOT_OURS = ("HEADRACE_DATA", "HEADRACE_SEED", "HEADRACE_KEY", SECRETS_DIR)
"""Variables that are not settings: the tests', a client's key, and the folder of secret files."""

SECRETS = (("alerts", "postgres_password"), ("alerts", "webhook_token"), ("redis", "password"), ("mlflow", "trust_key"))
"""Read from the environment and secret files alone, as plain text."""

UNSPOKEN = (("alerts", "postgres"), ("alerts", "webhook"))
"""Settings of files that may hold a secret of any form: no message shows their values."""

TABLE_ERRORS = ("dict_type", "model_type", "model_attributes_type")

Layer = tuple[str, InitSettingsSource]
"""An origin of settings (a file, a variable), and the settings that it has."""


class Section(BaseModel):
    """Base of the sections: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """The Kafka cluster and its clients' options."""

    bootstrap_servers: str = ""
    """host:port,… of a cluster; empty runs an embedded broker on this machine."""
    client: dict[str, str | int | float | bool] = {}
    """Further options of librdkafka, such as security.protocol and sasl.username: all clients but Spark's."""
    spark: dict[str, str] = {}
    """The same options by the names of Java's client, without "kafka." in front: Spark's."""
    schema_registry: str = ""
    """The address of the Schema Registry whose ids Avro messages begin with; empty for Avro without one."""
    registry: dict[str, str | int | float | bool] = {}
    """Further options of confluent-kafka's SchemaRegistryClient, such as basic.auth.user.info."""
    partitions: int = Field(default=2, ge=1)
    """Partitions of topics that are created; existing topics stay as they are."""


class BrokerSettings(Section):
    """The embedded broker; unused with ``kafka.bootstrap_servers``."""

    port: int = Field(default=0, ge=0, le=65_535)
    """A port of the loopback; 0 takes a free one, and the same again in the next run if it is free then."""
    heap_mb: int = Field(default=384, ge=128)
    """The heap of the broker's Java, in MB."""


class OfflineSettings(Section):
    """The tables of all events."""

    path: str = ".headrace/offline"
    """A folder, below the project where it is relative; one Delta table for each stream is in it."""
    rows_in_memory: int = Field(default=10_000_000, ge=1)
    """Events that a rebuild holds in memory; of more, it builds a part of the entities at a time."""
    compact_every_min: float = Field(default=60, ge=0)
    """Hours between two compactions of small files by `headrace stream`; 0 for never."""
    keep_versions_h: int = Field(default=168, ge=1)
    """Hours for which files that a compaction replaced stay, for readers of older versions."""


class RedisSettings(Section):
    """The Redis that feature_store.yaml names."""

    password: SecretStr = SecretStr("")
    """The password, only HEADRACE_REDIS__PASSWORD or its secret file; Feast uses it too. Empty for none."""


class MlflowSettings(Section):
    """The registry of models."""

    tracking_uri: str = "sqlite:///mlruns/mlflow.db"
    """A database below the project, or the address of a server."""
    trust_key: SecretStr = SecretStr("")
    """Signs the trust in models that run their own code, only HEADRACE_MLFLOW__TRUST_KEY or its secret file; with it,
    trust without a signature is none. Empty for no signatures."""
    sources: tuple[str, ...] = ()
    """Folders and prefixes of addresses from which models may be fetched too, such as "s3://bucket/models": beside the
    folder of a database of our own, the registry's own root of artefacts and the tracking server itself."""


class AlertsSettings(Section):
    """The sinks of `headrace alerts deliver`."""

    group: str = "headrace-alerts"
    """The consumer group; a process with another group delivers all alerts again."""
    table: str = "alerts"
    """A Delta table of this name beside those of the streams; empty for none."""
    table_every_s: float = Field(default=10, ge=0)
    """The longest wait of an alert for others in its commit."""
    postgres: str = ""
    """A connection string of libpq, such as "host=db dbname=fraud", without a password; empty for none."""
    postgres_table: str = Field(default="alerts", pattern=r"^[^.]+(\.[^.]+)?$")
    """The table, NAME or SCHEMA.NAME; it is created where it is missing."""
    postgres_password: SecretStr = SecretStr("")
    """The password, only HEADRACE_ALERTS__POSTGRES_PASSWORD; empty for libpq's own sources (PGPASSWORD, ~/.pgpass)."""
    webhook: str = ""
    """The address that alerts are posted to; empty for none. Where it is a secret itself: HEADRACE_ALERTS__WEBHOOK."""
    webhook_token: SecretStr = SecretStr("")
    """The bearer token of the webhook, only by HEADRACE_ALERTS__WEBHOOK_TOKEN; empty for none."""
    webhook_timeout_s: float = Field(default=10, gt=0)
    """Timeout of the webhook's receiver."""

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


class Settings(BaseSettings):
    """Settings of a deployment; ``Settings()`` are the defaults, and read_settings() reads files and variables."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    home: str = ".headrace"
    """The folder of all running state, below the project where it is relative."""
    kafka: KafkaSettings = KafkaSettings()
    broker: BrokerSettings = BrokerSettings()
    stream: StreamSettings = StreamSettings()
    offline: OfflineSettings = OfflineSettings()
    serving: ServingSettings = ServingSettings()
    redis: RedisSettings = RedisSettings()
    mlflow: MlflowSettings = MlflowSettings()
    alerts: AlertsSettings = AlertsSettings()
    training: dict[str, Any] = {}
    """The section [training] as it is written: `headrace train` makes training.settings.TrainingSettings of it, so that
    no other command imports or checks them."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Any, *_: Any, **__: Any
    ) -> tuple[Any, ...]:
        """No files or variables of the process: read_settings() passes those of a project."""
        return (init_settings,)


def read_settings(root: Path, environ: Mapping[str, str]) -> Settings:
    """Settings of the project in ``root``.

    Raises:
        UsageError: a file that is no TOML; a key that does not exist, with the nearest one that does; a wrong value; a
            folder of secret files that cannot be read.
    """
    layers = [*_files(root), *_secret_files(environ), *_variables(environ)]
    layers.reverse()
    _check_secrets(layers)
    try:
        settings = Settings(_build_sources=(tuple(source for _, source in layers), {}))  # type: ignore[call-arg]
    except ValidationError as error:
        raise _explained(error, layers) from None
    remember_secrets(settings.model_dump())
    return settings


def _check_secrets(layers: Sequence[Layer]) -> None:
    for path in SECRETS:
        origin = _origin(path, layers)
        if origin is not None and not origin.startswith((VARIABLE, SECRET_FILE)):
            variable = f"{PREFIX}{'__'.join(path).upper()}"
            raise UsageError(f"secret '{'.'.join(path)}'", f"the variable {variable}", f"a line in {origin}")
    for origin, source in layers:
        for found in written_secrets(source.init_kwargs) if Path(origin).name == TRACKED else ():
            variable = f"{PREFIX}{'__'.join(found[:2]).upper()}"
            variable += f"='{{\"{found[-1]}\" = …}}'" if found[2:] else ""
            required = f"the variable {variable}, its secret file, or {FILES[1]}, which is not tracked"
            raise UsageError(f"secret '{'.'.join(found)}'", required, f"a line in {origin}")


def _files(root: Path) -> Iterator[Layer]:
    for path in (root / name for name in FILES):
        try:
            yield str(path), TomlConfigSettingsSource(Settings, path)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"settings in {path}", "a TOML file", str(error).rstrip(".")) from None


def _variables(environ: Mapping[str, str]) -> Iterator[Layer]:
    """A layer for each variable of ours, in the order of their names.

    Not EnvSettingsSource: it reads tables as JSON, only those of the process, and none of an unknown section.
    """
    yield from _layers_of(environ, VARIABLE)


def _secret_files(environ: Mapping[str, str]) -> Iterator[Layer]:
    """A layer for each file of the secrets folder that has a variable's name; no folder unless the variable is set.

    Not NestedSecretsSettingsSource, for the reasons of _variables().
    """
    yield from _layers_of(secret_files(environ), SECRET_FILE)


def _layers_of(values: Mapping[str, str], origin: str) -> Iterator[Layer]:
    for name in sorted(values):
        path = name.removeprefix(PREFIX).lower().split("__", 1)
        if name.startswith(PREFIX) and name not in NOT_OURS and (len(path) > 1 or path[0] in Settings.model_fields):
            value = values[name] if tuple(path) in SECRETS else _value(values[name])
            yield f"{origin}{name}", InitSettingsSource(Settings, _nested(path, value))


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explained(error: ValidationError, layers: Sequence[Layer]) -> UsageError:
    """The error that names the first invalid setting, its origin and the valid values."""
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first["loc"])
    where = f"setting '{'.'.join(path)}' in {_nearest_origin(path, layers)}"
    if first["type"] == "extra_forbidden":
        known = _known(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else ""
        return UsageError(where, f"a name of {', '.join(known)}", f"'{path[-1]}'", hint)
    required = _required(first["msg"])
    origin = _origin(path, layers) or ""
    if origin.startswith((VARIABLE, SECRET_FILE)):  # whatever it was meant for, it may be a secret
        step = 'A table is written as TOML: \'{"name" = "value"}\'.' if first["type"] in TABLE_ERRORS else ""
        return UsageError(where, required, _kind(first["input"]), step)
    return UsageError(where, required, "another" if path in UNSPOKEN else repr(first["input"]))


def _kind(value: Any) -> str:
    """What a value is, without the value."""
    return f"a text of {len(value)} characters" if isinstance(value, str) else f"another {type(value).__name__}"


def _origin(path: Sequence[str], layers: Sequence[Layer]) -> str | None:
    """The name of the uppermost layer that has the setting; None where none has."""
    return next((origin for origin, source in layers if _has(source.init_kwargs, path)), None)


def _has(values: Any, path: Sequence[str]) -> bool:
    return not path or (isinstance(values, Mapping) and path[0] in values and _has(values[path[0]], path[1:]))


def _nearest_origin(path: Sequence[str], layers: Sequence[Layer]) -> str:
    """The origin of the setting, or else that of its section."""
    origins = (_origin(path[:end], layers) for end in range(len(path), 0, -1))
    return next((origin for origin in origins if origin is not None), FILES[0])


def _known(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def _required(message: str) -> str:
    """Pydantic's message as a requirement."""
    text = message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
    return text[:1].lower() + text[1:]
