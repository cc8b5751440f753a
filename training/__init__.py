"""History to registered model.

In: the archive, definitions, settings. Out: versions in the registry, with their verdicts.
"""

__all__ = [
    "data",
    "event_model",
    "evidence",
    "judging",
    "progress",
    "protocols",
    "recommender",
    "refresh",
    "registry",
    "resume",
    "run",
    "settings",
    "user_models",
]
