"""A Schema Registry by its URL: the REST protocol of Confluent's, which Karapace, Apicurio and Redpanda speak as well.

Numbers name schemas for ever, so what was found is kept. A number that the registry does not have may be registered
later: it is asked again after a while.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from features.errors import FormatError, StoreError, UsageError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

ABSENT_AGAIN_S = 30.0

UNKNOWN_SCHEMA = 40403

UNKNOWN = (40401, 40402, UNKNOWN_SCHEMA)
"""The protocol's codes for a subject, version or schema that is not there. A 404 without one is another server's."""

INCOMPATIBLE = (409, 422)

OURS: dict[str, Any] = {
    "timeout": 5.0,
    "max.retries": 2,
    "retries.wait.ms": 100,
    "retries.max.wait.ms": 1_000,
    "cache.latest.ttl.sec": 60,
}
"""The client waits for ever unless told; whoever asks here tries again by himself."""


class SchemaRegistry:
    """Schemas by number for readers, and a number and a schema of a subject for writers; for any number of threads.

    Args:
        url: of the registry; several with commas.
        options: further ones of confluent-kafka's SchemaRegistryClient, such as basic.auth.user.info.

    Raises:
        UsageError: an option that the client does not know, or that is wrong.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url, self._options = url, dict(options or {})
        self._client = _client(url, self._options)
        self._texts: dict[int, str] = {}
        self._absent_until_s: dict[int, float] = {}

    def __reduce__(self) -> tuple[type[SchemaRegistry], tuple[str, dict[str, Any]]]:
        """Another process asks by a client of its own."""
        return SchemaRegistry, (self.url, self._options)

    def __call__(self, number: int) -> str:
        """The schema of that number as JSON text.

        Raises:
            KeyError: the registry says that it has none.
            StoreError: the registry does not say.
        """
        if number in self._texts:
            return self._texts[number]
        if self._absent_until_s.get(number, 0.0) > time.monotonic():
            raise KeyError(number)
        found = self._asked(lambda: self._client.get_schema(number))
        if found is None:
            self._absent_until_s[number] = time.monotonic() + ABSENT_AGAIN_S
            raise KeyError(number)
        self._texts[number] = str(found.schema_str)
        return self._texts[number]

    def latest(self, subject: str) -> tuple[int, str]:
        """Number and text of the subject's newest version.

        Raises:
            FormatError: the subject has none.
            StoreError: the registry does not say.
        """
        found = self._asked(lambda: self._client.get_latest_version(subject))
        if found is None:
            next_step = "Register it, or give the stream schema=."
            raise FormatError(f"schema registry {self.url}", f"a schema for subject '{subject}'", "none", next_step)
        return int(found.schema_id), str(found.schema.schema_str)

    def number(self, subject: str, text: str) -> int:
        """The schema's number within the subject, where it is registered unless it was.

        Raises:
            FormatError: the registry does not take it beside the subject's other versions.
            StoreError: the registry does not say.
        """
        schema = _avro(text)
        found = self._asked(lambda: self._client.lookup_schema(subject, schema))
        return int(found.schema_id) if found is not None else self._registered(subject, schema)

    def _registered(self, subject: str, schema: Schema) -> int:
        from confluent_kafka.schema_registry import SchemaRegistryError

        def register() -> int:
            try:
                return int(self._client.register_schema(subject, schema))
            except SchemaRegistryError as error:
                if error.http_status_code not in INCOMPATIBLE:
                    raise
                where = f"schema registry {self.url}"
                raise FormatError(where, f"a schema that subject '{subject}' may go on with", _said(error)) from None

        number = self._asked(register)
        return int(number) if number is not None else 0

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """The answer; None where the registry says that there is no such thing."""
        from confluent_kafka.schema_registry import SchemaRegistryError
        from httpx import HTTPError

        where, required = f"schema registry {self.url}", "an answer"
        next_step = "Start it, or correct kafka.schema_registry; until then the messages wait in Kafka."
        try:
            return ask()
        except SchemaRegistryError as error:
            if error.http_status_code == 404 and error.error_code in UNKNOWN:  # noqa: PLR2004  # "not found"
                return None
            raise StoreError(where, required, _said(error), next_step) from None
        except (HTTPError, OSError, ValueError, TypeError) as error:
            # ValueError: an answer that is no JSON. TypeError: one that is no object.
            got = f"{type(error).__name__}: {str(error)[:200]}".rstrip(". :")
            raise StoreError(where, required, got, next_step) from None


def _client(url: str, options: Mapping[str, Any]) -> SchemaRegistryClient:
    with _quiet():
        from confluent_kafka.schema_registry import SchemaRegistryClient
    try:
        return SchemaRegistryClient({**OURS, **options, "url": url})
    except (ValueError, TypeError, OSError) as error:
        required = "an address such as http://localhost:8081, and options of confluent-kafka's SchemaRegistryClient"
        raise UsageError(
            "settings kafka.schema_registry and kafka.registry", required, str(error).rstrip(".")
        ) from None


def _avro(text: str) -> Schema:
    from confluent_kafka.schema_registry import Schema

    return Schema(text, "AVRO")


def _said(error: Any) -> str:
    return f"HTTP {error.http_status_code}: {str(error.error_message)[:200]}".rstrip(". ")


@contextmanager
def _quiet() -> Iterator[None]:
    """The client's imports warn of what only its authors can change."""
    with warnings.catch_warnings(record=True):
        yield


def schema_registry(url: str, options: Mapping[str, Any]) -> SchemaRegistry | None:
    """The registry that the settings name; None where they name none."""
    return SchemaRegistry(url, options) if url else None
