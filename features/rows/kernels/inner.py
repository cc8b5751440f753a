"""Decorators for the functions of a kernel, which are compiled together with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def inner(function: F) -> F:
    """The function as a part of its callers, which make all arrays: nothing here counts references to them.

    A call would pass each of its arrays in seven arguments; counting references would be most of the time.
    """
    compiled: F = njit(_nrt=False, forceinline=True)(function)  # type: ignore[call-overload]  # numba's own option
    return compiled


def called(function: F) -> F:
    """As inner, but called instead of inlined: for long functions with more than one caller."""
    compiled: F = njit(_nrt=False)(function)  # type: ignore[call-overload]
    return compiled


def inner_sum(function: F) -> F:
    """As inner, for a loop whose additions may be made in any order: eight at once."""
    compiled: F = njit(_nrt=False, fastmath={"reassoc"})(function)  # type: ignore[call-overload]
    return compiled


def _word_at(_: Any, data: Any, __: Any) -> Any:
    """The 8 bytes of ``data`` (uint8) from any index on, as a little-endian number; data[at : at + 8] must be there.

    The memory of an array of numbers is taken to be aligned, and its index to count from the end when it is negative.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(data, types.int64), code


word_at: Any = intrinsic(_word_at)


def _put_word(_: Any, data: Any, __: Any, ___: Any) -> Any:
    """A number as the 8 bytes of ``data`` (uint8) from any index on, little-endian; data[at : at + 8] must be there."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.none(data, types.int64, types.uint64), code


put_word: Any = intrinsic(_put_word)
