"""A file read whole by the formats, with the definitions of the project's own feature repo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.definitions import Stream
from features.definitions.repo import load_repo
from features.events.parsing import Parsed, Verdict
from features.formats.reading import read_events

REPO = load_repo(Path(__file__).parents[2] / "feature_repo")


@dataclass(frozen=True)
class Read:
    """A whole file: the events and verdicts of each stream, chunks put together."""

    events: Mapping[str, pa.Table]
    verdicts: Mapping[str, Counter[Verdict]]
    reasons: Mapping[str, list[str | None]]
    chunks: int


def whole(path: Path, kind: str, streams: Mapping[str, Stream] | None = None, **options: Any) -> Read:
    parts: dict[str, list[Parsed]] = {}
    streams = REPO.streams if streams is None else streams
    for name, parsed in read_events(path, kind, streams, REPO.horizon_ms, **options):
        parts.setdefault(name, []).append(parsed)
    return Read(
        {name: pa.concat_tables([one.events for one in some]) for name, some in parts.items()},
        {name: Counter(Verdict(v) for one in some for v in one.verdicts.tolist()) for name, some in parts.items()},
        {name: [reason for one in some for reason in one.reasons.to_pylist()] for name, some in parts.items()},
        sum(map(len, parts.values())),
    )
