"""Whether a trained model may serve: intervals, the gate, parity, drift, and what a run is recorded with.

In: answers of models on the newest slice. Out: verdicts, reports, drift.
"""

from training.judging.confidence import Interval, bootstrap, drawn_weights, interval_of
from training.judging.drift import drifted, needless, tell_drift, unmoved
from training.judging.drift_status import drift_line, drift_metrics, read_drift, read_event_drift
from training.judging.gate import Verdict, difference, least_ms, told
from training.judging.judge import Judge, settle
from training.judging.parity import Ask, asked_of, asked_parity, with_parity
from training.judging.psi import Reference, alarming, columns_of, drifts, reference_of
from training.judging.record import (
    REFERENCE,
    came_from,
    draw_importance,
    files_of,
    importance_of,
    input_names,
    origin,
    png,
    signature_of,
)

__all__ = [
    "Ask",
    "Interval",
    "Judge",
    "REFERENCE",
    "Reference",
    "Verdict",
    "alarming",
    "asked_of",
    "asked_parity",
    "bootstrap",
    "came_from",
    "columns_of",
    "difference",
    "draw_importance",
    "drawn_weights",
    "drift_line",
    "drift_metrics",
    "drifted",
    "drifts",
    "files_of",
    "importance_of",
    "input_names",
    "interval_of",
    "least_ms",
    "needless",
    "origin",
    "png",
    "read_drift",
    "read_event_drift",
    "reference_of",
    "settle",
    "signature_of",
    "tell_drift",
    "told",
    "unmoved",
    "with_parity",
]
