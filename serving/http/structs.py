"""The messages of the interface as msgspec structs, which cost a tenth of pydantic's; pydantic's models define them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import annotated_types as bounds
import msgspec
from pydantic import BaseModel, Strict
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


def decoder_of(model: type[M]) -> Callable[[bytes], M | None]:
    """Reads a JSON body as the model's struct; None for any body that the struct refuses."""
    decode = msgspec.json.Decoder(struct_of(model)).decode

    def decoded(body: bytes) -> M | None:
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    return decoded


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
            case Strict():
                pass  # structs are
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
