"""What is lost, on record: a file beside the archive, metrics and words.

<offline>/_losses.json    {"open": [gap, …], "accepted": [gap and "accepted_at" (ms), …]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import LossError
from features.machine import write_json
from features.times import moment_text
from streaming.losses.gaps import Gap

if TYPE_CHECKING:
    from prometheus_client.core import Metric

FILE = "_losses.json"

ACCEPT = "headrace stream --accept-loss"

SHOWN = 5

Losses = Mapping[str, Sequence[Mapping[str, Any]]]
"""'open': gaps that wait for somebody to accept them; 'accepted': those that were. As in the file."""


def read_losses(offline: Path) -> dict[str, list[dict[str, Any]]]:
    """The record beside the archive in the folder; both lists are empty where nothing was ever lost."""
    try:
        record: dict[str, list[dict[str, Any]]] = json.loads((offline / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"open": [], "accepted": []}
    return record


def keep_open(offline: Path, gaps: Sequence[Gap]) -> None:
    """Replace the open gaps."""
    record, found = read_losses(offline), [_plain(gap) for gap in gaps]
    if record["open"] != found:
        write_json(offline / FILE, record | {"open": found})


def accept(offline: Path, gaps: Sequence[Gap], now: int) -> list[Gap]:
    """Nothing is open, and the gaps are accepted; returns those that were not before."""
    record = read_losses(offline)
    known = [{name: value for name, value in each.items() if name != "accepted_at"} for each in record["accepted"]]
    fresh = [gap for gap in gaps if _plain(gap) not in known]
    if not fresh and not record["open"]:
        return []
    accepted = [*record["accepted"], *(_plain(gap) | {"accepted_at": now} for gap in fresh)]
    write_json(offline / FILE, {"open": [], "accepted": accepted})
    return fresh


def loss_error(gaps: Sequence[Gap]) -> LossError:
    """The error of a stream that cannot go on without leaving these out."""
    next_step = f"'{ACCEPT}' (or stream.accept_loss) goes on with what is there, and keeps a record of what is not."
    return LossError("the stream", "the records that follow those it has read", f"none of {_few(gaps)}", next_step)


def _few(gaps: Sequence[Gap]) -> str:
    more = f"; and of {len(gaps) - SHOWN:,} more" if len(gaps) > SHOWN else ""
    return "; ".join(gap.text() for gap in gaps[:SHOWN]) + more


def accepted_line(gaps: Sequence[Gap]) -> str:
    """The log's line about gaps that were just accepted."""
    counts = [gap.count for gap in gaps if gap.count is not None]
    return f"ALARM: loss accepted, {sum(counts):,} offsets known by number: {_few(gaps)}"


def loss_lines(record: Losses) -> list[str]:
    """The record for a person: what is open, and the last that was accepted."""
    lines = [f"lost: {_gap(values).text()}" for values in record["open"][:SHOWN]]
    lines += [f"lost: {len(record['open']) - SHOWN:,} more"] if len(record["open"]) > SHOWN else []
    lines += [f"  the stream waits: '{ACCEPT}' goes on with what is there"] if record["open"] else []
    for values in record["accepted"][-SHOWN:]:
        lines.append(f"lost, accepted {moment_text(values['accepted_at'])}: {_gap(values).text()}")
    return lines


def loss_metrics(record: Losses) -> list[Metric]:
    """The record as Prometheus' metric families; the first is what to raise an alarm on."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    waiting = GaugeMetricFamily(
        "headrace_stream_losses_open", "Ranges of lost records that nobody has accepted.", len(record["open"])
    )
    labels = ["query", "topic", "partition", "reason"]
    help_text = "Records that were lost and accepted; ranges of an unknown size count 0."
    lost = CounterMetricFamily("headrace_stream_lost_records_total", help_text, labels=labels)
    totals: dict[tuple[str, str, str, str], int] = {}
    for values in record["accepted"]:
        gap = _gap(values)
        key = (gap.query, gap.topic, str(gap.partition), gap.reason)
        totals[key] = totals.get(key, 0) + (gap.count or 0)
    for key, count in totals.items():
        lost.add_metric(list(key), count)
    return [waiting, lost]


def _plain(gap: Gap) -> dict[str, Any]:
    return asdict(gap) | {"count": gap.count}


def _gap(values: Mapping[str, Any]) -> Gap:
    return Gap(**{name: values[name] for name in Gap.__dataclass_fields__})
