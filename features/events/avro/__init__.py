"""Avro messages of a stream, with a schema of its definition or of a Schema Registry.

In: bytes. Out: decoded fields (``messages``), and Avro writers for those who produce.
"""

from features.events.avro.registry import SchemaRegistry, schema_registry
from features.events.avro.writer import AvroWriter, avro_writer

__all__ = ["AvroWriter", "SchemaRegistry", "avro_writer", "messages", "schema_registry"]
