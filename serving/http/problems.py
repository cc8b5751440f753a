"""Errors as application/problem+json (RFC 9457): field, required and given value of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from features.errors import HeadraceError, UsageError
from features.redaction import inert_json, redacted_values
from serving.workers import OverloadedError

MEDIA_TYPE = "application/problem+json"

SHOWN_CHARACTERS, MOST_ERRORS = 80, 10

NO_SUCH_FIELD = "no such field: see /docs for those that exist"

WHOLE = "texts of whole characters, not halves of a pair of UTF-16"

TITLES = {
    400: "The request cannot be read",
    401: "The request has no valid key",
    403: "The request is not allowed",
    404: "There is no such thing here",
    405: "The method does not exist here",
    408: "The request is too slow",
    413: "The body is too large",
    415: "The body is of another type",
    421: "The host is another one",
    422: "The request is not valid",
    429: "The service has too much to do",
    500: "The service failed",
    503: "A part of the service is not available",
}


class ProblemError(Exception):
    """Raised by a handler for an answer that is a problem."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[Mapping[str, Any]] = (), more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.more = status, detail, tuple(errors), dict(more or {})


def problem(
    status: int, detail: str, errors: Sequence[Mapping[str, Any]] = (), more: Mapping[str, Any] | None = None
) -> Response:
    """The response; ``errors`` has field, required and got of each."""
    body: dict[str, Any] = {"type": "about:blank", "title": TITLES.get(status, "The request failed"), "status": status}
    body |= {"detail": detail, **(more or {})}
    if errors:
        body["errors"] = list(errors)
    text = json.dumps(redacted_values(body), ensure_ascii=False, separators=(",", ":"))
    return Response(inert_json(text), status, media_type=MEDIA_TYPE)


def field_error(field: str, required: str, got: object) -> dict[str, str]:
    """One entry of ``errors``; ``got`` is shown as JSON, cut short, or as it is if it is a PlainText."""
    return {"field": field, "required": required, "got": got if isinstance(got, PlainText) else shown(got)}


def field_problem(field: str, required: str, got: object, status: int = 422) -> ProblemError:
    """The problem of one field."""
    error = field_error(field, required, got)
    return ProblemError(status, f"field '{field}' requires {required}; got {error['got']}", [error])


class PlainText(str):
    """A text that problems show as it is, not as JSON."""

    __slots__ = ()


NOTHING = PlainText("nothing")


def shown(value: object) -> str:
    """A value as problems show it: JSON in ASCII, cut short."""
    text = json.dumps(_beginning(value, [SHOWN_CHARACTERS]), default=repr)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _beginning(value: object, left: list[int]) -> object:
    """The value as far as so many texts, numbers and containers, of which each is shown by a character at least."""
    left[0] -= 1
    if isinstance(value, str):
        return value[: SHOWN_CHARACTERS + 1]
    if isinstance(value, list):
        return [_beginning(each, left) for each in value if left[0] >= 0]
    if isinstance(value, dict):
        entries = ((str(name)[: SHOWN_CHARACTERS + 1], each) for name, each in value.items() if left[0] >= 0)
        return {name: _beginning(each, left) for name, each in entries}
    return value


def validation_errors(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The first of pydantic's errors as field, required and got."""
    return [_validation_error(error) for error in errors[:MOST_ERRORS]]


def _validation_error(error: Mapping[str, Any]) -> dict[str, str]:
    named = ".".join(str(part) for part in error["loc"][1:]) or str(error["loc"][0])
    field = shown(named)[1:-1]
    match error["type"]:
        case "extra_forbidden":
            return field_error(field, NO_SUCH_FIELD, error["input"])
        case "missing":
            return field_error(field, "a value", NOTHING)
        case _:
            required = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value should be ")
            return field_error(field, required, error["input"])


def _sentence(errors: Sequence[Mapping[str, str]], count: int) -> str:
    first = errors[0]
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"field '{first['field']}' requires {first['required']}; got {first['got']}{more}"


EVERYWHERE, OF_A_BODY = (403, 421, 503), (400, 408, 413, 415, 422, 429)
"""Problems that any operation can answer, and those of operations with a body."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "required", "got"],
                "properties": {name: {"type": "string"} for name in ("field", "required", "got")},
            },
        },
    },
}
"""A problem in the OpenAPI document."""


def document(app: FastAPI) -> None:
    """The app's document says which problems each operation can answer."""
    written: Callable[[], dict[str, Any]] = app.openapi

    def documented() -> dict[str, Any]:
        whole = written()
        whole.setdefault("components", {}).setdefault("schemas", {})["Problem"] = SCHEMA
        for operations in whole["paths"].values():
            for operation in operations.values():
                given = operation["responses"]
                own = [int(status) for status, one in given.items() if "content" not in one]
                for status in (*own, *EVERYWHERE, *(OF_A_BODY if "requestBody" in operation else ())):
                    if status in OF_A_BODY or "content" not in given.get(str(status), {}):
                        given[str(status)] = described(status)
        return whole

    app.openapi = documented  # type: ignore[method-assign]  # as FastAPI has it done


def described(status: int) -> dict[str, Any]:
    """A problem among the responses of an operation."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": TITLES[status], "content": content}


def install(app: FastAPI) -> None:
    """Every error of the app, foreseen or not, is answered as a problem."""
    app.add_exception_handler(ProblemError, _of_foreseen)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(HeadraceError, _of_foreseen)
    app.add_exception_handler(UnicodeEncodeError, _of_foreseen)
    app.add_exception_handler(OverloadedError, _of_foreseen)
    app.add_exception_handler(Exception, _of_anything)


def problem_of(error: Exception) -> Response | None:
    """The response to an error that a handler raised on purpose; None for any other."""
    if isinstance(error, ProblemError):
        return problem(error.status, error.detail, error.errors, error.more)
    if isinstance(error, HeadraceError):
        errors = [{"field": error.where, "required": error.required, "got": error.got}]
        return problem(422 if isinstance(error, UsageError) else 503, str(error), errors)
    if isinstance(error, OverloadedError):
        detail = f"an answer requires room among the requests in progress; got none for now: {error}"
        response = problem(429, detail, more={"retry_after_s": error.retry_after_s})
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    if isinstance(error, UnicodeEncodeError):  # only texts of requests are ever encoded
        got = shown(error.object)
        return problem(422, f"the body requires {WHOLE}; got {got}", [field_error("body", WHOLE, error.object)])
    return None


async def _of_foreseen(_: Request, error: Exception) -> Response:
    response = problem_of(error)
    if response is None:
        raise error
    return response


async def _of_validation(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    invalid = error.errors()
    if invalid and invalid[0]["type"] == "json_invalid":
        got = str(invalid[0].get("ctx", {}).get("error", "something else"))
        return problem(400, f"the body requires JSON; got {got}", [field_error("body", "JSON", PlainText(got))])
    errors = validation_errors(invalid)
    return problem(422, _sentence(errors, len(invalid)), errors)


async def _of_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    got = f"{request.method} {request.url.path}"
    detail = f"{got}: {error.detail}" if error.status_code in (404, 405) else str(error.detail)
    return problem(error.status_code, detail)


async def _of_anything(_: Request, error: Exception) -> Response:
    return unforeseen(error)


def unforeseen(error: Exception) -> Response:
    """A problem with the type of the error only: the text of an unforeseen one may not be for clients."""
    return problem(500, f"the service met an error that it did not foresee ({type(error).__name__}); its log has it")
