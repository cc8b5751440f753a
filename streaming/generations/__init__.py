"""Generations of state rows: built from the archive, folded side by side, switched over to, dropped.

In: definitions, checkpoints, the archive. Out: the generation that readers read, and those that are folded on.
"""

from streaming.generations.active import ActiveFolds
from streaming.generations.builder import Builder
from streaming.generations.checkpoints import Generation, schemas_of
from streaming.generations.lease import Claim, Lease, only_driver
from streaming.generations.rebuild_request import rebuilt_by_the_stream, take_rebuild
from streaming.generations.resuming import Resuming
from streaming.generations.running import Executors, GenerationFold, Running, Upkeep
from streaming.generations.switchover import Needed, flip

__all__ = [
    "ActiveFolds",
    "Builder",
    "Claim",
    "Executors",
    "Generation",
    "GenerationFold",
    "Lease",
    "Needed",
    "Resuming",
    "Running",
    "flip",
    "only_driver",
    "rebuilt_by_the_stream",
    "schemas_of",
    "take_rebuild",
    "Upkeep",
]
