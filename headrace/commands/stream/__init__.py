"""The verbs of topics, tables and alerts: produce, import, fold, look at and deliver.

In: arguments, files, topics. Out: events in topics and tables, lines or JSON on stdout.
"""

__all__ = []
