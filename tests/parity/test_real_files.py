"""On whole files: a sample of entities recomputed by the oracle is what history and stream say, and every law holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.checks.laws import Report, Sizes, check_view, valid_events, verdicts_add_up
from features.definitions.repo import load_repo
from features.events.parsing import Parsed
from features.formats.reading import read_events

REPO = load_repo(Path(__file__).parents[2] / "feature_repo")
SIZES = Sizes(entities=250, times=20)
"""Of each view; a file has two."""
FILES = {
    "online-retail.parquet": ("online-retail", {"activity": 453_843}),
    "taobao-clicks.parquet": ("taobao", {"activity": 96_168}),
    "card-transactions.parquet": ("cards", {"transactions": 1_169_723, "fraud_labels": 9_465}),
}


def parsed_file(path: Path, kind: str) -> dict[str, list[Parsed]]:
    found: dict[str, list[Parsed]] = {}
    for name, parsed in read_events(path, kind, REPO.streams, REPO.horizon_ms):
        found.setdefault(name, []).append(parsed)
    return found


@pytest.mark.parametrize("name", FILES)
def test_oracle_history_and_stream_agree_on_a_whole_file(
    name: str, real_file: Callable[[str], Path], seed: int
) -> None:
    """500 entities at 20 times, on both paths; every entity wherever no oracle is needed."""
    kind, counts = FILES[name]
    parsed = parsed_file(real_file(name), kind)
    reports = [verdicts_add_up(REPO.streams[stream], several) for stream, several in parsed.items()]
    assert {stream: sum(len(one.verdicts) for one in several) for stream, several in parsed.items()} == counts
    events = {stream: valid_events(several) for stream, several in parsed.items()}
    views = [view for view in REPO.views.values() if any(stream.name in events for stream in view.streams)]
    for view in views:
        reports += check_view(view, events, SIZES, np.random.default_rng(seed))
    assert {(report.view, report.law): report.worst for report in reports if report.mismatches} == {}
    assert compared(reports, "history = oracle") == SIZES.entities * SIZES.times * sum(len(v.features) for v in views)
    assert compared(reports, "stream in random batches = oracle") == compared(reports, "history = oracle")
    assert len(views) * SIZES.entities >= 500


def compared(reports: list[Report], law: str) -> int:
    return sum(report.compared for report in reports if report.law == law)
