"""Topics to state rows, archive, scores and alerts.

In: records of topics. Out: rows in the online store, Delta tables, dead letters, decisions.
"""

__all__ = [
    "alerts",
    "archive",
    "archived_letters",
    "context",
    "dead_letters",
    "fold",
    "forget",
    "generations",
    "jars",
    "kafka",
    "settings",
    "observers",
    "pipeline",
    "replay",
    "scoring",
    "spark",
    "status",
    "supervisor",
]
