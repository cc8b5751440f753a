"""Avro messages of a stream, with the schema of its definition or of a Schema Registry.

In: bytes, and schemas by number (``SchemaRegistry``). Out: typed columns (``messages``); for producers, bytes of an
``AvroWriter``.
"""

from features.events.avro.registry import SchemaRegistry, schema_registry
from features.events.avro.writer import AvroWriter, avro_writer

__all__ = ["AvroWriter", "SchemaRegistry", "avro_writer", "messages", "schema_registry"]
