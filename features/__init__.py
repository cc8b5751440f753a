"""Features: definitions, events and their verdicts, state rows, history, stores; no Spark, Kafka or Ray.

In: a feature repo, records of streams, files. Out: events with verdicts, state rows, feature values of any instant.
``__all__`` names the modules and packages that other packages import from; each package's own ``__all__`` names what.
"""

from features.renamed import accept_old_paths

__all__ = [
    "arrays",
    "checks",
    "compiling",
    "definitions",
    "epochs",
    "errors",
    "events",
    "feast",
    "formats",
    "hashing",
    "history",
    "machine",
    "online_store",
    "redaction",
    "rows",
    "secret_files",
    "times",
]

accept_old_paths()
