"""Protocols of event models: `headrace evaluate durations` and `incidents`.

In: events of files, an event model of the definitions. Out: a report of metrics by model, baselines first.
"""

__all__ = ["event_models", "incidents"]
