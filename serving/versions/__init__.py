"""The versions that a service can answer with: champion, canary, challenger, and those that requests name.

In: the registry. Out: the version for a request, and answers of a version beside the champion.
"""

from serving.versions.score_shadow import Scored, ScoreShadow
from serving.versions.shadow import Asked, Shadow
from serving.versions.versions import ModelVersions

__all__ = ["Asked", "ModelVersions", "ScoreShadow", "Scored", "Shadow"]
