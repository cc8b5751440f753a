"""The event contract: bytes or columns of a stream to typed events, with a verdict on every record.

In: messages (JSON or Avro) or columns of a file, and the stream's definition. Out: ``Parsed`` (events and verdicts),
typed columns (``EventColumns``), and the decision on repeated event ids (``Decision``).
"""

from features.events.arguments import parsed_key, parsed_time
from features.events.columns import (
    PARTITION_BITS,
    EventColumns,
    Values,
    arrow_type,
    encode_key,
    entity_keys,
    integers,
    sequence,
)
from features.events.decoded import ARROW, Problems, RefusedError, bad_time, reason_text, show
from features.events.dedupe import (
    NEVER,
    Decision,
    Prior,
    accept,
    accepted_events,
    decide,
    encoded_ids,
    without_duplicates,
)
from features.events.parsing import Parsed, Records, Verdict, event_schema, from_columns, joined, parse
from features.events.served_answers import inputs_hash, items_text, served_log, shown_items
from features.events.timestamps import ms_of_text

__all__ = [
    "ARROW",
    "Decision",
    "EventColumns",
    "NEVER",
    "PARTITION_BITS",
    "Parsed",
    "Prior",
    "Problems",
    "Records",
    "RefusedError",
    "Values",
    "Verdict",
    "accept",
    "accepted_events",
    "arrow_type",
    "avro",
    "bad_time",
    "decide",
    "encode_key",
    "encoded_ids",
    "entity_keys",
    "event_schema",
    "from_columns",
    "inputs_hash",
    "integers",
    "items_text",
    "joined",
    "ms_of_text",
    "parse",
    "parsed_key",
    "parsed_time",
    "reason_text",
    "sequence",
    "served_log",
    "show",
    "shown_items",
    "without_duplicates",
]
