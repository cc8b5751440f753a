"""The HTTP contract: schemas of requests and responses, problems, and limits of bodies.

In: parsed JSON. Out: typed requests, responses, and problem documents (RFC 9457).
"""

from serving.http.hot_routes import REQUEST_ID, HotRoute, HotRoutes, json_route
from serving.http.limits import RequestLimits
from serving.http.problems import PlainText, ProblemError, field_error, field_problem
from serving.http.structs import encoded, struct_of

__all__ = [
    "REQUEST_ID",
    "HotRoute",
    "HotRoutes",
    "RequestLimits",
    "PlainText",
    "ProblemError",
    "encoded",
    "field_error",
    "field_problem",
    "json_route",
    "problems",
    "schema",
    "struct_of",
]
