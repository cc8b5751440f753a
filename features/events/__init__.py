"""The event contract: bytes or columns of a stream to typed events, with a verdict on every record.

In: messages (JSON or Avro) or columns of a file, and the stream's definition. Out: ``Parsed`` (events and verdicts),
typed columns (``EventColumns``), and the decision on repeated event ids (``Decision``).
"""

from features.events.arguments import parsed_key, parsed_time, plausible_times
from features.events.bisecting import NOT_OF_A_RECORD, errors_alone
from features.events.columns import (
    MOST_ELEMENTS,
    PARTITION_BITS,
    EventColumns,
    Values,
    arrow_type,
    encode_key,
    entity_keys,
    integers,
    record_offsets,
    sequence,
)
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
from features.events.ids import MOST_BYTES, may_identify
from features.events.keys import key_column
from features.events.parsing import (
    CANNOT_BE_FOLDED,
    CANNOT_BE_READ,
    Parsed,
    Records,
    Verdict,
    event_schema,
    from_columns,
    joined,
    parse,
    parse_by,
    parse_objects,
    with_dead_letters,
)
from features.events.served_answers import inputs_hash, items_text, served_log, shown_items
from features.events.timestamps import (
    PLAUSIBLE,
    implausible,
    ms_of_numbers,
    ms_of_text,
    ms_of_timestamps,
    with_unit_hint,
)
from features.events.values.conversion import converted
from features.events.values.elements import WHOLE, Elements
from features.events.values.lookup import Envelopes
from features.events.values.reasons import (
    ARROW,
    INT64,
    Problems,
    RefusedError,
    bad_time,
    implausible_reason,
    reason_text,
    show,
)
from features.events.values.texts import all_numbers, typed
from features.events.values.times import epoch_ms, is_time
from features.events.values.written import written

__all__ = [
    "ARROW",
    "CANNOT_BE_FOLDED",
    "CANNOT_BE_READ",
    "Decision",
    "Elements",
    "Envelopes",
    "EventColumns",
    "INT64",
    "MOST_BYTES",
    "MOST_ELEMENTS",
    "NEVER",
    "NOT_OF_A_RECORD",
    "PARTITION_BITS",
    "PLAUSIBLE",
    "Parsed",
    "Prior",
    "Problems",
    "Records",
    "RefusedError",
    "Values",
    "Verdict",
    "WHOLE",
    "accept",
    "accepted_events",
    "all_numbers",
    "arrow_type",
    "avro",
    "bad_time",
    "converted",
    "decide",
    "encode_key",
    "encoded_ids",
    "entity_keys",
    "epoch_ms",
    "errors_alone",
    "event_schema",
    "from_columns",
    "implausible",
    "implausible_reason",
    "inputs_hash",
    "integers",
    "is_time",
    "items_text",
    "joined",
    "key_column",
    "may_identify",
    "ms_of_numbers",
    "ms_of_text",
    "ms_of_timestamps",
    "parse",
    "parse_by",
    "parse_objects",
    "parsed_key",
    "parsed_time",
    "plausible_times",
    "reason_text",
    "record_offsets",
    "sequence",
    "served_log",
    "show",
    "shown_items",
    "typed",
    "with_unit_hint",
    "with_dead_letters",
    "without_duplicates",
    "written",
]
