"""Models as training, serving and the stream share them: artefacts, the registry, aliases, verdicts of the gate.

In: artefacts and their manifests. Out: versions of the registry, verified and loaded, and which of them may serve.
"""

__all__ = [
    "artefact",
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
    "trees",
    "user_model",
]
