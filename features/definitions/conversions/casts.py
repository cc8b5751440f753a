"""How messages and files write numbers and texts: casts of a Field, and maps of their values to ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from features.definitions.conversions.times import Time
from features.definitions.expressions import FrozenMap
from features.errors import DefinitionError

TEXT = "text"
"""The cast of text as a cell of CSV has it; of a string field, that of whole numbers as their digits."""

MOST_DIGITS = 22
"""Powers of ten up to this one are float64s."""

OTHERS = ("refuse", "null", "keep")

Value = str | int | float | bool


@dataclass(frozen=True)
class NumberText:
    """Numbers in text as people write them: "1.234,50 €" with decimal=",", thousands="." and currency="€".

    The sign of the currency stands before or behind the number, or is missing; so do the separators of thousands, which
    otherwise stand before every three digits. A space is a narrow or an unbreakable one, too.
    """

    decimal: str = "."
    thousands: str | None = None
    currency: str | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise DefinitionError("a number in text", "decimal '.' or ','", repr(self.decimal))
        if self.thousands is not None and self.thousands not in tuple(set(".,' _") - {self.decimal}):
            required = "as thousands one of . , ' _ and a space, and not the decimal separator"
            raise DefinitionError("a number in text", required, repr(self.thousands))
        sign = self.currency
        if sign is not None and not (
            isinstance(sign, str) and sign.strip() and not any(c in "0123456789.,+-" for c in sign)
        ):
            raise DefinitionError("a number in text", "as currency a sign such as '€' or 'EUR'", repr(sign))


@dataclass(frozen=True)
class Base64Decimal:
    """Decimals as Debezium writes them: the bytes of a whole number in base64, its last ``scale`` digits decimals."""

    scale: int

    def __post_init__(self) -> None:
        if type(self.scale) is not int or not 0 <= self.scale <= MOST_DIGITS:
            raise DefinitionError("a decimal in base64", f"a scale of 0 to {MOST_DIGITS}", repr(self.scale))


Cast = str | NumberText | Base64Decimal | Time

TAKEN_BY: dict[type, tuple[str, ...]] = {
    NumberText: ("int64", "float64"),
    Base64Decimal: ("float64",),
    Time: ("int64",),
}
"""Cast → the dtypes of fields that may have it."""


def check_cast(cast: object, dtype: str) -> None:
    """Raises DefinitionError unless a field of the dtype may have the cast."""
    if cast is None or cast == TEXT or dtype in TAKEN_BY.get(type(cast), ()):
        return
    kinds = [kind.__name__ for kind, dtypes in TAKEN_BY.items() if dtype in dtypes]
    required = " or ".join([f"'{TEXT}'", *(f"{kind}(…)" for kind in kinds)])
    raise DefinitionError("a field with cast", f"{required} for dtype '{dtype}'", repr(cast))


def frozen_map(values: object, dtype: str) -> FrozenMap[Value | None]:
    """Their text → our value. Raises DefinitionError unless every value is of the dtype, or None."""
    where, kinds = (
        "a field with map",
        {"string": (str,), "int64": (int,), "float64": (int, float), "bool": (bool,)}[dtype],
    )
    if not isinstance(values, Mapping) or not values:
        raise DefinitionError(where, f"a mapping of their text to our {dtype}, or to None", repr(values))
    texts = {_key_text(key): value for key, value in values.items()}
    wrong = [value for value in texts.values() if value is not None and (type(value) not in kinds or not _fits(value))]
    if len(texts) < len(values) or None in texts or wrong:
        got = f"{wrong[0]!r}" if wrong else ", ".join(map(repr, values))
        raise DefinitionError(where, f"keys that differ, of text or whole numbers, and values of {dtype} or None", got)
    number = float if dtype == "float64" else lambda value: value
    return FrozenMap({str(key): None if value is None else number(value) for key, value in texts.items()})


def _key_text(key: object) -> str | None:
    """The text by which a key is looked up: numbers are their digits, truths 'true' and 'false'."""
    if isinstance(key, bool):
        return str(key).lower()
    return str(key) if isinstance(key, str | int) else None


def _fits(value: Value) -> bool:
    return isinstance(value, str) or (abs(value) < 2**63 and math.isfinite(value))


def check_others(others: object, *, has_map: bool) -> None:
    """Raises DefinitionError unless that can happen to values that a map lacks."""
    if others is not None and (others not in OTHERS or not has_map):
        raise DefinitionError("a field with others", f"{', '.join(map(repr, OTHERS))}, beside a map", repr(others))
