"""The HTTP contract: schemas of requests and responses, problems, and limits of bodies.

In: parsed JSON. Out: typed requests, responses, and problem documents (RFC 9457).
"""

from serving.http.limits import Edge
from serving.http.problems import Nothing, ProblemError, field_error, field_problem
from serving.http.schema import EventsResponse, EventVerdict

__all__ = [
    "Edge",
    "EventVerdict",
    "EventsResponse",
    "Nothing",
    "ProblemError",
    "field_error",
    "field_problem",
    "problems",
    "schema",
]
