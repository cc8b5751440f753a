"""The versions that a service can answer with: champion, canary, challenger, and those that requests name.

In: the registry. Out: the version for a request, and answers of a version beside the champion.
"""

from serving.versions.shadow import ScoredEvent, ScoreShadow, Shadow, ShadowRequest
from serving.versions.versions import ModelVersions

__all__ = ["ModelVersions", "ScoreShadow", "ScoredEvent", "Shadow", "ShadowRequest"]
