"""What a model is to those who train it, serve it and score a stream with it: files, registry, aliases, verdicts.

In: artefacts and their manifests. Out: versions of the registry, verified and loaded, and which of them may serve.
"""

__all__ = [
    "classifier_file",
    "event_champion",
    "event_model",
    "folder",
    "followed",
    "golden",
    "local_copy",
    "needs",
    "recommender",
    "registry",
    "tags",
    "user_model",
]
