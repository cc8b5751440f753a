"""A client of a Schema Registry: Confluent's REST protocol, which Karapace, Apicurio and Redpanda implement too.

The schema of a number never changes, so it is cached. A number that the registry does not have may be registered later:
it is requested again after ABSENT_AGAIN_S.
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
"""The protocol's codes for a missing subject, version or schema. A 404 without such a code is from another server."""

INCOMPATIBLE = (409, 422)

CLIENT_DEFAULTS: dict[str, Any] = {
    "timeout": 5.0,
    "max.retries": 2,
    "retries.wait.ms": 100,
    "retries.max.wait.ms": 1_000,
    "cache.latest.ttl.sec": 60,
}
"""The client's own defaults wait without end; callers retry by themselves."""


class SchemaRegistry:
    """Schemas by number for readers, numbers and schemas of a subject for writers; thread-safe.

    Args:
        url: that of the registry; more than one separated by commas.
        options: further options of confluent-kafka's SchemaRegistryClient, such as basic.auth.user.info.

    Raises:
        UsageError: an option that is unknown or wrong.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url, self._options = url, dict(options or {})
        self._client = _client(url, self._options)
        self._texts: dict[int, str] = {}
        self._absent_until_s: dict[int, float] = {}

    def __reduce__(self) -> tuple[type[SchemaRegistry], tuple[str, dict[str, Any]]]:
        """Pickled as its URL and options: another process has its own client."""
        return SchemaRegistry, (self.url, self._options)

    def __call__(self, number: int) -> str:
        """The schema of that number as JSON text.

        Raises:
            KeyError: the registry has no such schema.
            StoreError: the registry does not answer.
        """
        if number in self._texts:
            return self._texts[number]
        if self._absent_until_s.get(number, 0.0) > time.monotonic():
            raise KeyError(number)
        schema = self._request(lambda: self._client.get_schema(number))
        if schema is None:
            self._absent_until_s[number] = time.monotonic() + ABSENT_AGAIN_S
            raise KeyError(number)
        self._texts[number] = str(schema.schema_str)
        return self._texts[number]

    def latest(self, subject: str) -> tuple[int, str]:
        """Number and text of the subject's newest version.

        Raises:
            FormatError: the subject has none.
            StoreError: the registry does not answer.
        """
        latest = self._request(lambda: self._client.get_latest_version(subject))
        if latest is None:
            next_step = "Register it, or give the stream schema=."
            raise FormatError(f"schema registry {self.url}", f"a schema for subject '{subject}'", "none", next_step)
        return int(latest.schema_id), str(latest.schema.schema_str)

    def number(self, subject: str, text: str) -> int:
        """The schema's number within the subject, in which it is registered if it was not.

        Raises:
            FormatError: the registry refuses it as incompatible with the subject's other versions.
            StoreError: the registry does not answer.
        """
        schema = _avro(text)
        registered = self._request(lambda: self._client.lookup_schema(subject, schema))
        return int(registered.schema_id) if registered is not None else self._registered(subject, schema)

    def _registered(self, subject: str, schema: Schema) -> int:
        from confluent_kafka.schema_registry import SchemaRegistryError

        def register() -> int:
            try:
                return int(self._client.register_schema(subject, schema))
            except SchemaRegistryError as error:
                if error.http_status_code not in INCOMPATIBLE:
                    raise
                where = f"schema registry {self.url}"
                raise FormatError(
                    where, f"a schema that subject '{subject}' may go on with", _error_text(error)
                ) from None

        number = self._request(register)
        return int(number) if number is not None else 0

    def _request(self, call: Callable[[], Any]) -> Any:
        """The answer; None if the registry has no such thing. Raises StoreError if there is no answer."""
        from confluent_kafka.schema_registry import SchemaRegistryError
        from httpx import HTTPError

        where, required = f"schema registry {self.url}", "an answer"
        next_step = "Start it, or correct kafka.schema_registry; until then the messages wait in Kafka."
        try:
            return call()
        except SchemaRegistryError as error:
            if error.http_status_code == 404 and error.error_code in UNKNOWN:  # noqa: PLR2004  # "not found"
                return None
            raise StoreError(where, required, _error_text(error), next_step) from None
        except (HTTPError, OSError, ValueError, TypeError) as error:
            # ValueError: the answer is not JSON. TypeError: it is not an object.
            got = f"{type(error).__name__}: {str(error)[:200]}".rstrip(". :")
            raise StoreError(where, required, got, next_step) from None


def _client(url: str, options: Mapping[str, Any]) -> SchemaRegistryClient:
    with _quiet():
        from confluent_kafka.schema_registry import SchemaRegistryClient
    try:
        return SchemaRegistryClient({**CLIENT_DEFAULTS, **options, "url": url})
    except (ValueError, TypeError, OSError) as error:
        required = "an address such as http://localhost:8081, and options of confluent-kafka's SchemaRegistryClient"
        raise UsageError(
            "settings kafka.schema_registry and kafka.registry", required, str(error).rstrip(".")
        ) from None


def _avro(text: str) -> Schema:
    from confluent_kafka.schema_registry import Schema

    return Schema(text, "AVRO")


def _error_text(error: Any) -> str:
    return f"HTTP {error.http_status_code}: {str(error.error_message)[:200]}".rstrip(". ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the warnings of the client's imports, which only its authors can fix."""
    with warnings.catch_warnings(record=True):
        yield


def schema_registry(url: str, options: Mapping[str, Any]) -> SchemaRegistry | None:
    """The registry of the settings; None if they have no URL."""
    return SchemaRegistry(url, options) if url else None
