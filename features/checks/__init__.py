"""Checks that a definition gives the same values on every path.

In: definitions, and a file of events, an online store with its archive, or the log of served answers. Out: a ``Report``
per law, ``Findings`` (differences between online and offline by feature), and one entity's values with their events.
"""

from features.checks.comparison import Findings, report
from features.checks.entity import EntityInFile, events_behind, find_entity, view_answer
from features.checks.laws import Report, Sizes, check_view, valid_events, verdicts_add_up, verdicts_are_the_records_own
from features.checks.served_log import LogVerifier
from features.checks.stored_entity import as_stored
from features.checks.stores import Verifier, VerifyRequest

__all__ = [
    "VerifyRequest",
    "Findings",
    "EntityInFile",
    "LogVerifier",
    "Report",
    "Sizes",
    "Verifier",
    "as_stored",
    "check_view",
    "events_behind",
    "find_entity",
    "report",
    "valid_events",
    "verdicts_add_up",
    "verdicts_are_the_records_own",
    "view_answer",
]
