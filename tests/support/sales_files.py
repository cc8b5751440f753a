"""Files of sales, and what became of their rows."""

from pathlib import Path
from typing import Any

from whole_files import Read, whole

from features.definitions import Field, Stream

SALES = Stream(
    "sales",
    topic="sales",
    event_time="sold_at",
    event_id="sale",
    time_unit="s",
    fields={
        "user_id": Field("string", path="customer", required=True),
        "price": "float64",
        "quantity": "int64",
        "gift": "bool",
    },
)
HEADER = ["sale", "sold_at", "customer", "price", "quantity", "gift"]
GOOD = ["a", "1700000000", "x", "2.5", "3", "true"]
SOLD_AT = 1_700_000_000


def read(folder: Path, content: bytes, kind: str = "csv", **options: Any) -> Read:
    path = folder / f"sales.{kind}"
    path.write_bytes(content)
    return whole(path, kind, {"sales": SALES}, **options)


def refused(got: Read) -> dict[int, str]:
    return {row: reason for row, reason in enumerate(got.reasons["sales"]) if reason is not None}
