"""Headers of records, as a replay writes them."""

from __future__ import annotations

from streaming.kafka import KNOWN_AT


def known_at_header(known_at_ms: int) -> tuple[str, bytes]:
    """The header that keeps a record's known_at."""
    return KNOWN_AT, str(known_at_ms).encode()
