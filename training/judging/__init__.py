"""The judgement of trained models: intervals, the gate, parity, drift, and the record of a run.

In: answers of models on the newest events. Out: verdicts, reports, drift.
"""

from training.judging.confidence import Interval, bootstrap, drawn_weights, interval_of
from training.judging.drift import (
    drift_line,
    drift_metrics,
    drift_report,
    measure_drift,
    read_drift,
    read_named_drift,
    recorded_reference,
    skip_if_stable,
    write_drift,
)
from training.judging.gate import GateVerdict, difference, evidence_of, interval_text, least_ms, same_for_all
from training.judging.judge import Judge
from training.judging.parity import ParityCheck, StoreParity, checked_parity
from training.judging.psi import columns_of, reference_of
from training.judging.record import (
    REFERENCE,
    draw_importance,
    files_of,
    importance_of,
    input_names,
    log_loss,
    origin,
    png,
    provenance,
    signature_of,
)
from training.judging.registration import Registration

__all__ = [
    "GateVerdict",
    "Interval",
    "Judge",
    "ParityCheck",
    "REFERENCE",
    "Registration",
    "StoreParity",
    "bootstrap",
    "checked_parity",
    "columns_of",
    "difference",
    "draw_importance",
    "drawn_weights",
    "drift_line",
    "drift_metrics",
    "drift_report",
    "evidence_of",
    "files_of",
    "importance_of",
    "input_names",
    "interval_of",
    "interval_text",
    "least_ms",
    "log_loss",
    "measure_drift",
    "origin",
    "png",
    "provenance",
    "read_drift",
    "read_named_drift",
    "recorded_reference",
    "reference_of",
    "same_for_all",
    "signature_of",
    "skip_if_stable",
    "write_drift",
]
