"""Checks that one definition gives one number on every path.

In: definitions, and a file of events, an online store beside its archive, or the log of served answers. Out: findings
by law, differences between online and offline by feature, and one entity's values with the events behind them.
"""

from features.checks.comparison import Findings, report
from features.checks.entity import Found, events_behind, find_entity, view_answer
from features.checks.laws import Report, Sizes, check_view, valid_events, verdicts_add_up, verdicts_are_the_records_own
from features.checks.served_log import LogVerifier
from features.checks.stored_entity import as_stored
from features.checks.stores import Verifier, VerifyRequest

__all__ = [
    "VerifyRequest",
    "Findings",
    "Found",
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
