"""Generations of state rows: built from the archive, folded side by side, switched over to, dropped.

In: definitions, checkpoints, the archive. Out: the generation that readers read, and those that are folded on.
"""

from streaming.generations.active import ActiveFolds
from streaming.generations.builder import Builder
from streaming.generations.checkpoints import Checkpoints, Generation, schemas_of
from streaming.generations.lease import Lease, only_driver
from streaming.generations.rebuild_request import rebuilt_by_the_stream, take_rebuild
from streaming.generations.running import Executors, GenerationFold, Running
from streaming.generations.switchover import Needed, flip, is_current, superseded

__all__ = [
    "ActiveFolds",
    "Builder",
    "Checkpoints",
    "Executors",
    "Generation",
    "GenerationFold",
    "Lease",
    "Needed",
    "Running",
    "flip",
    "is_current",
    "only_driver",
    "rebuilt_by_the_stream",
    "schemas_of",
    "superseded",
    "take_rebuild",
]
