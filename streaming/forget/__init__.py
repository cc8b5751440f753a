"""What a project has of one entity is deleted, and searched for afterwards.

In: an entity's key and the project's places. Out: a report of what was deleted, what is found, and what stays, until
when.
"""

from streaming.forget.forgetting import ForgetReport, Places, forget
from streaming.forget.subject import Subject

__all__ = ["ForgetReport", "Places", "Subject", "forget"]
