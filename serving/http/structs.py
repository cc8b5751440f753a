"""The messages of the interface as msgspec structs, which cost a tenth of pydantic's; pydantic's models define them."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import annotated_types as bounds
import msgspec
from pydantic import AfterValidator, BaseModel, Strict
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)

SCALARS = (str, int, float, bool, type(None), Any)

_structs: dict[type[BaseModel], type[BaseModel]] = {}


def struct_of(model: type[M]) -> type[M]:
    """A struct with the model's fields, types, bounds and defaults, and none of its methods.

    A struct refuses at least what the model refuses: it converts nothing but integers to floats.

    Raises:
        TypeError: a field has a type or a bound that structs have no equal of.
    """
    if model not in _structs:
        fields = [(name, _type(field.annotation, field.metadata), _default(field)) for name, field in _fields(model)]
        struct: Any = msgspec.defstruct(model.__name__, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)
        _structs[model] = struct
    return cast(type[M], _structs[model])


REFUSALS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


def decoder_of(model: type[M]) -> Callable[[bytes], M | None]:
    """Reads a JSON body as the model's struct; None for any body that the struct or the model refuses."""
    decode = msgspec.json.Decoder(struct_of(model)).decode

    def decoded(body: bytes) -> M | None:
        try:
            request = decode(body)
        except REFUSALS:
            return None
        return request if _is_plain(body) or _is_valid(model, body) else None

    return decoded


def _is_plain(body: bytes) -> bool:
    """True if no text of the body has a control character, or more bytes than characters."""
    return body.isascii() and b"\\" not in body and b"\x7f" not in body


def _is_valid(model: type[BaseModel], body: bytes) -> bool:
    try:
        model.model_validate_json(body)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Fault:
    """The first thing for which a struct refuses a body: where it is, and what is required and got there."""

    field: str
    required: str
    got: str
    is_json: bool


def fault_of(model: type[BaseModel], body: bytes) -> Fault | None:
    """The fault of a body, found in one pass that ends with it; None where there is none."""
    try:
        msgspec.json.decode(body, type=struct_of(model))
    except msgspec.ValidationError as error:
        return _fault(str(error))
    except REFUSALS as error:
        return Fault("body", "JSON", str(error), is_json=False)
    return None


def _fault(text: str) -> Fault:
    what, _, at = text.partition(" - at `$")
    path = at.removesuffix("`").replace("[...]", "").lstrip(".")
    if unknown := UNKNOWN_FIELD.fullmatch(what):
        return Fault(".".join(filter(None, (path, unknown["name"]))), "no such field", "one", is_json=True)
    required, _, got = what.removeprefix("Expected ").replace("`", "").partition(", got ")
    return Fault(path or "body", required, got or "another", is_json=True)


def encoded(message: object) -> bytes:
    """A message, be it a struct or a model, as JSON; a float that JSON lacks is null."""
    return _ENCODER.encode(message)


def _of_model(message: object) -> dict[str, Any]:
    if isinstance(message, BaseModel):
        return dict(message)
    raise TypeError(f"an answer has {type(message).__name__}, which has no JSON")


_ENCODER = msgspec.json.Encoder(enc_hook=_of_model)


def _fields(model: type[BaseModel]) -> Iterable[tuple[str, FieldInfo]]:
    return model.model_fields.items()


def _type(annotation: Any, metadata: Iterable[object] = ()) -> Any:
    limits = _limits(metadata)
    if annotation is int and "lt" in limits:  # structs have bounds of 64 bits, and 2**63 may be the end of these
        limits["le"] = limits.pop("lt") - 1
    found = _bare_type(annotation)
    return Annotated[found, msgspec.Meta(**limits)] if limits else found


def _bare_type(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in SCALARS:
        return annotation
    if origin is Annotated:
        return _type(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return Union[tuple(_type(one) for one in arguments)]  # noqa: UP007  (the members are not known here)
    if origin in (list, dict):
        return origin[tuple(_type(one) for one in arguments)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return struct_of(annotation)
    raise TypeError(f"no struct has a field of type {annotation}")


def _limits(metadata: Iterable[object]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for bound in metadata:
        match bound:
            case FieldInfo():
                limits |= _limits(bound.metadata)
            case bounds.MinLen():
                limits["min_length"] = bound.min_length
            case bounds.MaxLen():
                limits["max_length"] = bound.max_length
            case bounds.Ge():
                limits["ge"] = bound.ge
            case bounds.Gt():
                limits["gt"] = bound.gt
            case bounds.Le():
                limits["le"] = bound.le
            case bounds.Lt():
                limits["lt"] = bound.lt
            case Strict() | AfterValidator():
                pass  # structs are strict, and decoder_of asks the model what they cannot
            case _:
                raise TypeError(f"no struct has a field with {bound!r}")
    return limits


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return msgspec.NODEFAULT
    if isinstance(field.default, BaseModel):
        struct, values = struct_of(type(field.default)), dict(field.default)
        return msgspec.field(default_factory=lambda: struct(**values))
    return field.default
