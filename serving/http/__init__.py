"""The HTTP contract: schemas of requests and responses, problems, and limits of bodies.

In: parsed JSON. Out: typed requests, responses, and problem documents (RFC 9457).
"""

from serving.http.counting import CountedAnswers
from serving.http.docs_page import add_docs
from serving.http.hosts import AllowedHosts
from serving.http.hot_routes import HotRoute, HotRoutes, json_route
from serving.http.limits import BODY_WITHIN_S, BodyLimits, WholeBodies
from serving.http.problems import NOTHING, PlainText, ProblemError, field_error, field_problem, problem, shown
from serving.http.request_ids import REQUEST_ID
from serving.http.same_site import STRICT, SameSite
from serving.http.structs import REFUSALS, UNKNOWN_FIELD, encoded, struct_of

__all__ = [
    "BODY_WITHIN_S",
    "NOTHING",
    "REFUSALS",
    "REQUEST_ID",
    "STRICT",
    "UNKNOWN_FIELD",
    "AllowedHosts",
    "CountedAnswers",
    "HotRoute",
    "HotRoutes",
    "BodyLimits",
    "SameSite",
    "WholeBodies",
    "add_docs",
    "PlainText",
    "ProblemError",
    "encoded",
    "field_error",
    "field_problem",
    "json_route",
    "problem",
    "problems",
    "schema",
    "shown",
    "struct_of",
]
