"""Files as events: the formats of history, with the same verdicts as records of a topic.

In: a path and a format's name. Out: (stream name, ``Parsed``) in bounded chunks; or Arrow tables of a Parquet or CSV
file (``read_parquet``, ``read_csv``).
"""

from features.formats.cells import csv_ms
from features.formats.columns import nearest
from features.formats.csv_rows import csv_header, read_csv
from features.formats.files import (
    PROBLEM,
    InputFile,
    cast,
    parquet_columns,
    read_lines,
    read_parquet,
    to_ms,
    with_problems,
)
from features.formats.metarank import item_fields
from features.formats.reading import FORMATS, find_format, read_events
from features.formats.refused import Refused

__all__ = [
    "FORMATS",
    "InputFile",
    "PROBLEM",
    "Refused",
    "cast",
    "csv_header",
    "csv_ms",
    "find_format",
    "item_fields",
    "nearest",
    "parquet_columns",
    "read_csv",
    "read_events",
    "read_lines",
    "read_parquet",
    "to_ms",
    "with_problems",
]
