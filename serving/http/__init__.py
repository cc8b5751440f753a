"""The HTTP contract: schemas of requests and responses, problems, and limits of bodies.

In: parsed JSON. Out: typed requests, responses, and problem documents (RFC 9457).
"""

from serving.http.hot_routes import ID_HEADER, REQUEST_ID, HotRoute, HotRoutes, id_of, json_route
from serving.http.limits import RequestLimits
from serving.http.problems import NOTHING, PlainText, ProblemError, field_error, field_problem, problem
from serving.http.structs import encoded, struct_of

__all__ = [
    "ID_HEADER",
    "NOTHING",
    "REQUEST_ID",
    "HotRoute",
    "HotRoutes",
    "RequestLimits",
    "PlainText",
    "ProblemError",
    "encoded",
    "field_error",
    "field_problem",
    "id_of",
    "json_route",
    "problem",
    "problems",
    "schema",
    "struct_of",
]
