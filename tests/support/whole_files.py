"""Whole files read by the formats, with the definitions in feature_repo/."""

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
    """The events, verdicts and reasons of each stream of a whole file, from all chunks."""

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
        {name: pa.concat_tables([parsed.events for parsed in chunks]) for name, chunks in parts.items()},
        {
            name: Counter(Verdict(v) for parsed in chunks for v in parsed.verdicts.tolist())
            for name, chunks in parts.items()
        },
        {
            name: [reason for parsed in chunks for reason in parsed.reasons.to_pylist()]
            for name, chunks in parts.items()
        },
        sum(map(len, parts.values())),
    )
