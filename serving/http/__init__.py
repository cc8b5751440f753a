"""The HTTP contract: schemas of requests and responses, problems, and limits of bodies.

In: parsed JSON. Out: typed requests, responses, and problem documents (RFC 9457).
"""

from serving.http.limits import RequestLimits
from serving.http.problems import PlainText, ProblemError, field_error, field_problem
from serving.http.schema import EventsResponse, EventVerdict

__all__ = [
    "RequestLimits",
    "EventVerdict",
    "EventsResponse",
    "PlainText",
    "ProblemError",
    "field_error",
    "field_problem",
    "problems",
    "schema",
]
