"""History to registered model.

In: the archive, definitions, settings. Out: versions in the registry, with their verdicts.
"""

__all__ = [
    "data",
    "event_model",
    "judging",
    "own_event_models",
    "progress",
    "protocols",
    "recommender",
    "refresh",
    "registry",
    "resume",
    "settings",
    "user_models",
]
